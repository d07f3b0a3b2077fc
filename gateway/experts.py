"""The expert manifest, shared with ``training``, and the registry of experts that may be served.

Owns what an expert on disk is and when it is fit to be served: names, hashes, base identity. Knows nothing of
backends, adapter ids or HTTP.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from .base import BaseIdentity, Sha256
from .errors import ManifestError

__all__ = [
    "ADAPTER_FILE",
    "AUTO",
    "BASE",
    "MANIFEST_FILE",
    "BaseIdentity",
    "Expert",
    "ExpertRegistry",
    "FileHash",
    "Manifest",
    "Rejected",
    "Sha256",
    "Target",
    "check_adapter",
    "check_name",
    "file_sha256",
    "load_expert",
    "scan_experts",
]

AUTO = "auto"
BASE = "base"
MANIFEST_FILE = "expert.yaml"
ADAPTER_FILE = "adapter.gguf"

# Front ends hide models whose id contains one of these, or switch protocol on them (lobe-chat drops the first four,
# langchain-openai sends `codex` to /v1/responses).
_FORBIDDEN_PARTS = ("ada", "tts", "embedding", "whisper", "codex")
_SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def check_name(name: str) -> str:
    """Return ``name`` if it may name an expert.

    Raises:
        ValueError: not a lower-case slug of at most 64 characters, reserved, or hidden by real front ends.
    """
    if not _SLUG.fullmatch(name) or len(name) > 64:
        raise ValueError(f"expert name {name!r} is not a lower-case slug: use a-z, 0-9 and single hyphens, at most 64")
    if name in (AUTO, BASE):
        raise ValueError(f"expert name {name!r} is reserved by the gateway")
    for part in _FORBIDDEN_PARTS:
        if part in name:
            raise ValueError(f"expert name {name!r} contains {part!r}: chat front ends hide or misread such models")
    return name


def file_sha256(path: Path) -> str:
    """Hash a file in blocks; lower-case hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Semver = Annotated[str, StringConstraints(pattern=r"^\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?$")]
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]


class FileHash(_Strict):
    """A file beside the manifest and the sha256 it must have."""

    file: FileName
    sha256: Sha256


class Target(_Strict):
    """A term the expert must mention, with other spellings that count as a mention."""

    term: str = Field(min_length=1)
    aliases: tuple[str, ...] = ()


class Manifest(_Strict):
    """``expert.yaml``: written last, so that its presence proves the rest of the directory."""

    name: Annotated[str, AfterValidator(check_name)]
    title: str = Field(min_length=1)
    description: str = Field(min_length=1)
    version: Semver
    created: datetime
    adapter: FileHash
    dataset: FileHash
    examples: FileHash
    questions: FileHash
    base: BaseIdentity
    scale: float = Field(default=1.0, gt=0, le=4)
    system_prompt: str | None = None
    generation: dict[str, Any] = Field(default_factory=dict)
    """Defaults for request fields the client left out, such as ``temperature``."""
    threshold: float | None = Field(default=None, gt=0, lt=1)
    """Score that the router must give this expert, in place of the calibrated one: higher for an expert whose wrong
    answers do harm."""
    targets: tuple[Target, ...] = Field(min_length=1)
    recipe_sha256: Sha256
    anchors_sha256: Sha256 | None = None
    """Of the rows from other domains that it was trained on too; None: on its own alone."""
    converter: str = Field(min_length=1)
    results: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> Manifest:
        """Read a manifest.

        Raises:
            ManifestError: unreadable, not YAML, or a value that is not allowed; names the file, key and value.
        """
        try:
            data = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ManifestError(f"{path}: cannot be read: {error.strerror or error}") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ManifestError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
        if not isinstance(data, dict):
            raise ManifestError(f"{path}: a mapping is expected, found {type(data).__name__}")
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"]) or "manifest"
            raise ManifestError(f"{path}: {key}: {first['msg']} (value: {first['input']!r})") from error


@dataclass(frozen=True, slots=True)
class Expert:
    """A checked expert: its manifest and where its files are."""

    manifest: Manifest
    directory: Path

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def adapter_path(self) -> Path:
        return self.directory / self.manifest.adapter.file

    @property
    def dataset_path(self) -> Path:
        return self.directory / self.manifest.dataset.file

    @property
    def examples_path(self) -> Path:
        return self.directory / self.manifest.examples.file


@dataclass(frozen=True, slots=True)
class Rejected:
    """An expert directory that is not served, and the one line that says why."""

    name: str
    reason: str


def load_expert(directory: Path, base: BaseIdentity | None) -> Expert:
    """Read and check one expert directory against its manifest and, when given, the base being served.

    Raises:
        ManifestError: manifest invalid, name unlike the directory, a file missing or with another hash, not a GGUF
            adapter, or trained on another base; the message names both values.
    """
    manifest = Manifest.load(directory / MANIFEST_FILE)
    if manifest.name != directory.name:
        raise ManifestError(
            f"{directory}: manifest names the expert {manifest.name!r}, the directory {directory.name!r}"
        )
    for part in (manifest.adapter, manifest.examples, manifest.dataset):
        _check_file(directory / part.file, part.sha256)
    _check_magic(directory / manifest.adapter.file)
    if base is not None:
        _check_base(manifest, base)
    return Expert(manifest, directory)


def check_adapter(expert: Expert) -> None:
    """See whether the adapter file is still the one that the manifest names.

    Raises:
        ManifestError: it is gone, or has another hash.
    """
    _check_file(expert.adapter_path, expert.manifest.adapter.sha256)


def _check_file(path: Path, expected: str) -> None:
    try:
        actual = file_sha256(path)
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read: {error.strerror or error}") from error
    if actual != expected:
        raise ManifestError(f"{path}: sha256 is {actual}, the manifest says {expected}")


def _check_magic(path: Path) -> None:
    with path.open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise ManifestError(f"{path}: not a GGUF file: it starts with {magic!r}, b'GGUF' is expected")


def _check_base(manifest: Manifest, base: BaseIdentity) -> None:
    trained = manifest.base
    if trained.sha256 != base.sha256:
        raise ManifestError(
            f"{manifest.name}: trained on base {trained.name} (sha256 {trained.sha256}), "
            f"served is {base.name} (sha256 {base.sha256})"
        )
    if trained.chat_template_sha256 != base.chat_template_sha256:
        raise ManifestError(
            f"{manifest.name}: trained with chat template sha256 {trained.chat_template_sha256}, "
            f"the served base has {base.chat_template_sha256}"
        )


def scan_experts(root: Path, base: BaseIdentity | None) -> tuple[dict[str, Expert], list[Rejected]]:
    """Load every expert below ``root`` in name order; a bad one is set aside with its reason, never raised.

    A directory without a manifest is being written or is not an expert: it is passed over.

    Raises:
        ManifestError: ``root`` is not a directory.
    """
    if not root.is_dir():
        raise ManifestError(f"experts directory {str(root)!r} does not exist")
    experts: dict[str, Expert] = {}
    rejected: list[Rejected] = []
    for directory in sorted(path for path in root.iterdir() if (path / MANIFEST_FILE).is_file()):
        try:
            experts[directory.name] = load_expert(directory, base)
        except ManifestError as error:
            rejected.append(Rejected(directory.name, error.message))
    return experts, rejected


class ExpertRegistry:
    """The experts being served, and which of them are enabled. Replaced as a whole on reload; thread-safe."""

    def __init__(self, experts: Mapping[str, Expert], rejected: list[Rejected] | None = None) -> None:
        self._lock = threading.Lock()
        self._experts = dict(experts)
        self._rejected = list(rejected or [])
        self._disabled: set[str] = set()

    def __contains__(self, name: object) -> bool:
        return name in self._experts

    def __iter__(self) -> Iterator[Expert]:
        return iter(list(self._experts.values()))

    def __len__(self) -> int:
        return len(self._experts)

    @property
    def rejected(self) -> list[Rejected]:
        return list(self._rejected)

    def get(self, name: str) -> Expert | None:
        return self._experts.get(name)

    def is_enabled(self, name: str) -> bool:
        return name in self._experts and name not in self._disabled

    def set_enabled(self, name: str, enabled: bool) -> None:
        with self._lock:
            (self._disabled.discard if enabled else self._disabled.add)(name)

    def reject(self, name: str, reason: str) -> None:
        """Take an expert out of service for a reason found after it was loaded."""
        with self._lock:
            self._experts.pop(name, None)
            self._rejected = [*(r for r in self._rejected if r.name != name), Rejected(name, reason)]

    def replace(self, experts: Mapping[str, Expert], rejected: list[Rejected]) -> None:
        """Swap in a freshly scanned set; an expert disabled before stays disabled."""
        with self._lock:
            self._experts = dict(experts)
            self._rejected = list(rejected)
