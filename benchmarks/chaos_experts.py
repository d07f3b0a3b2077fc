"""The experts directory of the chaos benchmark: two versions of each expert, published, broken and mended as people do.

Owns the files, and which versions of an expert an answer may have come from at any time. Knows nothing of requests.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from gguf import GGUFReader

from gateway.experts import ADAPTER_FILE, MANIFEST_FILE, Expert, FileHash, Manifest, file_sha256
from training.versions import write_manifest

__all__ = ["BREAKAGES", "Shelf"]

_WEAKER = 0.7  # of version 1's strength: version 2 is the same adapter with another alpha, so another answer


class Shelf:
    """A directory ``root/experts`` like the given one, and both versions of every expert beside it.

    ``live`` says per expert since when (monotonic seconds) which versions could be the one that answers.
    """

    def __init__(self, root: Path, experts: Sequence[Expert]) -> None:
        self.directory = root / "experts"
        self.current: dict[str, int] = {}
        self.live: dict[str, list[tuple[float, frozenset[int]]]] = {}
        self._versions = root / "versions"
        for expert in experts:
            for version in (1, 2):
                kept = self._versions / f"{expert.name}-{version}"
                shutil.copytree(expert.directory, kept, ignore=shutil.ignore_patterns(".*"))
                if version == 2:
                    _weaken(kept)
            self.current[expert.name] = 1
            self.live[expert.name] = [(time.monotonic(), frozenset({1}))]
            shutil.copytree(self._versions / f"{expert.name}-1", self.directory / expert.name)

    def allowed(self, expert: str, since: float, until: float) -> set[int]:
        """The versions that may have answered a request between these two times."""
        found: set[int] = set()
        for (start, versions), (end, _) in zip(self.live[expert], [*self.live[expert][1:], (until, None)], strict=True):
            if start <= until and end >= since:
                found |= versions
        return found

    def publish(self, expert: str, version: int) -> None:
        """The old manifest goes, the new files take their names, the new manifest comes last."""
        self._put(expert, version)
        self.live[expert].append((time.monotonic(), frozenset({self.current[expert], version})))
        self.current[expert] = version

    def reloaded(self) -> None:
        """The gateway has said that it serves what is there."""
        for expert, version in self.current.items():
            if len(self.live[expert][-1][1]) > 1:
                self.live[expert].append((time.monotonic(), frozenset({version})))

    def damage(self, expert: str, breakage: str) -> None:
        BREAKAGES[breakage](self.directory / expert)

    def mend(self, expert: str) -> None:
        self._put(expert, self.current[expert])

    def _put(self, expert: str, version: int) -> None:
        source, target = self._versions / f"{expert}-{version}", self.directory / expert
        (target / MANIFEST_FILE).unlink()
        for path in sorted(source.iterdir(), key=lambda path: path.name == MANIFEST_FILE):
            temporary = target / f".{path.name}.tmp"
            shutil.copyfile(path, temporary)
            temporary.replace(target / path.name)


def _weaken(directory: Path) -> None:
    adapter = directory / ADAPTER_FILE
    alpha = GGUFReader(adapter, "r+").fields["adapter.lora.alpha"]
    alpha.parts[alpha.data[0]][0] *= _WEAKER
    _sign(directory, version="2.0.0")


def _sign(directory: Path, **changes: str) -> None:
    """Make the manifest fit the adapter that is there."""
    hashed = FileHash(file=ADAPTER_FILE, sha256=file_sha256(directory / ADAPTER_FILE))
    manifest = Manifest.load(directory / MANIFEST_FILE)
    write_manifest(manifest.model_copy(update={"adapter": hashed, **changes}), directory / MANIFEST_FILE)


def _broken_manifest(directory: Path) -> None:
    (directory / MANIFEST_FILE).write_text("name: [unclosed\n", encoding="utf-8")


def _wrong_hash(directory: Path) -> None:
    _replace(directory / ADAPTER_FILE, (directory / ADAPTER_FILE).read_bytes() + b"\0")


def _corrupt_gguf(directory: Path) -> None:
    """Half of the file, and a manifest that says so: only the engine can tell."""
    data = (directory / ADAPTER_FILE).read_bytes()
    _replace(directory / ADAPTER_FILE, data[: len(data) // 2])
    _sign(directory)


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(data)
    temporary.replace(path)


BREAKAGES: Mapping[str, Callable[[Path], None]] = {
    "broken manifest": _broken_manifest,
    "wrong hash": _wrong_hash,
    "corrupt GGUF": _corrupt_gguf,
}
