"""Where options come from, and every way to get one wrong."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, SecretStr

from gateway.errors import ConfigError
from gateway.settings import Settings, load_settings

SHIPPED = Path(__file__).parents[3] / "configs" / "gateway.yaml"
SECRETS = {"api_keys", "admin_key", "engine_api_key"}


@pytest.fixture(autouse=True)
def _no_options_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("GATEWAY_"):
            monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "gateway.yaml"


def options(section: type[BaseModel], prefix: str = "") -> set[str]:
    found: set[str] = set()
    for name, field in section.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found |= options(inner, f"{prefix}{name}.")
        else:
            found.add(prefix + name)
    return found


def keys(data: dict[str, Any], prefix: str = "") -> set[str]:
    found: set[str] = set()
    for name, value in data.items():
        found |= keys(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name}
    return found


def test_the_shipped_file_shows_every_option() -> None:
    assert keys(yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))) == options(Settings) - SECRETS


def test_the_shipped_file_shows_the_defaults() -> None:
    assert load_settings(SHIPPED).model_dump() == load_settings().model_dump()


def test_the_shipped_file_says_how_to_set_each_secret() -> None:
    text = SHIPPED.read_text(encoding="utf-8")
    assert [name for name in SECRETS if f"GATEWAY_{name.upper()}" not in text] == []


def test_the_command_line_wins_over_the_environment_over_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("scheduler: {quantum_s: 1, max_queue: 1, queue_timeout_s: 1}\n", encoding="utf-8")
    monkeypatch.setenv("GATEWAY_SCHEDULER__QUANTUM_S", "2")
    monkeypatch.setenv("gateway_scheduler__max_queue", "2")
    scheduler = load_settings(file, {"scheduler": {"quantum_s": 3}}).scheduler
    assert (scheduler.quantum_s, scheduler.max_queue, scheduler.queue_timeout_s) == (3, 2, 1)
    assert scheduler.max_queue_per_client == 64


def test_lists_and_nulls_can_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_SERVER__CORS_ORIGINS", '["http://a"]')
    assert load_settings().server.cors_origins == ("http://a",)


@pytest.mark.parametrize("none", ["", "null"])
def test_a_second_encoder_can_be_switched_off_from_outside(
    file: Path, monkeypatch: pytest.MonkeyPatch, none: str
) -> None:
    file.write_text("router: {second_encoder: a/b}")
    assert load_settings(file).router.second_encoder == "a/b"
    monkeypatch.setenv("GATEWAY_ROUTER__SECOND_ENCODER", none)
    assert load_settings(file).router.second_encoder is None


def test_secrets_come_from_the_environment_and_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_API_KEYS", "hidden-word")
    settings = load_settings()
    assert isinstance(settings.api_keys, SecretStr)
    assert settings.api_keys.get_secret_value() == "hidden-word"
    assert "hidden-word" not in repr(settings)


@pytest.mark.parametrize("secret", sorted(SECRETS))
def test_a_secret_in_the_file_or_on_the_command_line_is_refused_unrepeated(file: Path, secret: str) -> None:
    file.write_text(f"{secret}: hidden-word\n", encoding="utf-8")
    for given in ((file, None), (None, {secret: "hidden-word"})):
        with pytest.raises(ConfigError, match=f"GATEWAY_{secret.upper()}") as caught:
            load_settings(*given)
        assert "hidden-word" not in caught.value.message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "scheduler: {quantum: 1}",
            r"unknown option 'scheduler.quantum' \(value: 1\); allowed here: strategy, quantum_s",
        ),
        ("schedule: {}", "unknown option 'schedule'.*allowed here: server, auth"),
        ("scheduler: {quantum_s: 0}", r"scheduler.quantum_s: .*greater than 0 \(value: 0\)"),
        ("scheduler: {strategy: magic}", "scheduler.strategy: .*'scale_api' or 'per_request'.*'magic'"),
        ("server: {port: 70000}", "server.port: .*65535.*70000"),
        ("server: {port: http}", "server.port: .*'http'"),
        ("engine: {kind: url}", "engine: engine.url is needed"),
        ("engine: {url: ftp://x}", "engine.url: .*'ftp://x'"),
        ("engine: {base_sha256: abc}", "engine.base_sha256: "),
        ("engine: 5", "engine: .*5"),
        ("engine: {at_once: 5, slots: 4}", "engine: at_once 5 is over slots 4"),
        ("engine: {backends: [{port: 1}, {port: 1}]}", "two backends are at http://127.0.0.1:1: give each its own"),
        ("engine: {backends: [{base: x}]}", "a backend cannot have its own 'base'; allowed: kind, url"),
        ("engine: {backends: [{}, {slots: -1}]}", r"backend 1: slots: .*greater than or equal to 0 \(value: -1\)"),
        ("engine: {backends: [{kind: url}]}", "backend 0: engine.url is needed"),
        ("limits: {default_tokens: 9999}", "default_tokens 9999 is over max_tokens 4096"),
        ("log: {level: loud}", "log.level: .*'loud'"),
        ("router: {false_abstain: 0.5}", "router.false_abstain: "),
        ("router: {encoder: a, second_encoder: a}", "router: second_encoder and encoder are both 'a'"),
        ("router: {artifact: x, second_encoder: b}", "router: second_encoder 'b' is for .*artifact 'x' names one"),
        ("scheduler: {max_queue: 1}\nscheduler: {max_queue: 2}", "duplicate key 'scheduler'"),
        ("scheduler:\n  max_queue: 1\n  max_queue: 2", "duplicate key 'max_queue'"),
        ("scheduler: [", "not valid YAML"),
        ("? [a]\n: 1", r"a key must be a text, found \["),
        ("- a", "a mapping of sections is expected, found list"),
        ("1: 2", "a key must be a text, found 1"),
    ],
)
def test_a_mistake_in_the_file_is_named_in_one_line(file: Path, text: str, says: str) -> None:
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=says) as caught:
        load_settings(file)
    assert str(file) in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("text", ["", "# nothing\n"])
def test_an_empty_file_sets_nothing(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")
    assert load_settings(file).model_dump() == load_settings().model_dump()


def test_a_file_that_is_absent_or_not_text_is_an_error(file: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_settings(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_settings(file)


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("GATEWAY_SCHEDULR__MAX_QUEUE", "1", "GATEWAY_SCHEDULR__MAX_QUEUE is not an option"),
        ("GATEWAY_SCHEDULER_MAX_QUEUE", "1", "GATEWAY_SCHEDULER_MAX_QUEUE is not an option"),
        ("GATEWAY_SCHEDULER__MAX_QUEU", "1", "max_queu"),
        ("GATEWAY_SCHEDULER__MAX_QUEUE", "many", "scheduler.max_queue: .*'many'"),
        ("GATEWAY_SCHEDULER", "oops", "scheduler"),
        ("GATEWAY_SERVER__CORS_ORIGINS", "http://a", "cors_origins|server"),
    ],
)
def test_a_mistake_in_the_environment_is_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, says: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=says):
        load_settings()


def test_settings_do_not_change(file: Path) -> None:
    settings = load_settings()
    with pytest.raises(ValueError, match="frozen"):
        settings.scheduler.max_queue = 5


def test_one_backend_is_the_engine_section_itself() -> None:
    engine = load_settings(None, {"engine": {"port": 9000}}).engine
    assert engine.each() == [engine]


def test_several_backends_share_what_they_do_not_name() -> None:
    own = [{"threads": 1}, {"kind": "url", "url": "http://far:1", "experts": ["a"]}, {"slots": 9}]
    first, second, third = load_settings(None, {"engine": {"slots": 6, "port": 9000, "backends": own}}).engine.each()
    assert (first.kind, first.port, first.slots, first.threads, first.experts) == ("embedded", 9000, 6, 1, None)
    assert (second.kind, second.url, second.slots, second.experts) == ("url", "http://far:1", 6, ("a",))
    assert (third.port, third.slots, third.threads) == (9002, 9, 0)
