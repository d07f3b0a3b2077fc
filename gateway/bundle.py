"""A fitted router as a directory that can be carried elsewhere: the artifact, its examples, and which encoder it needs.

router.npz     the artifact
examples.npz   the labelled texts, for explanations
encoder        a fine-tuned encoder, if it has one of its own
encoder.json   the encoder: where it comes from, and its fingerprint; written last
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from router import ArtifactError, FittedRouter, OnnxEmbedder, Reference, load_artifact, load_reference

from .errors import ConfigError

__all__ = ["OWN", "Bundle", "read_bundle", "write_bundle"]

ROUTER, EXAMPLES, ENCODER = "router.npz", "examples.npz", "encoder.json"
OWN = "encoder"
"""Folder of an encoder that belongs to the directory, and is moved with it."""


@dataclass(frozen=True)
class Bundle:
    """What a directory holds."""

    folder: Path
    fitted: FittedRouter
    encoder: str
    """Where the encoder comes from, as ``router.encoder`` takes it."""

    def reference(self) -> Reference:
        """Read the labelled texts. Raises: ArtifactError."""
        return load_reference(self.folder / EXAMPLES)

    def check_encoder(self, opened: OnnxEmbedder, source: str) -> None:
        """Refuse an encoder that the router was not fitted on.

        Raises:
            ConfigError: names both.
        """
        wanted = self.fitted.provenance.embedder
        if opened.fingerprint != wanted:
            raise ConfigError(
                f"{self.folder}: this router was fitted on the encoder {self.encoder} (fingerprint {wanted[:12]}), "
                f"but {source} is another one (fingerprint {opened.fingerprint[:12]}): give that encoder, or fit again"
            )


def write_bundle(
    folder: Path, fitted: FittedRouter, reference: Reference, embedder: OnnxEmbedder, encoder: str
) -> None:
    """Write the directory; an older router in it is replaced.

    Args:
        encoder: where it comes from; a local path is stored in full, `OWN` as it is.

    Raises:
        ConfigError: the directory cannot be written.
    """
    had_own = _names_own(folder)
    local = encoder != OWN and ":" not in encoder and Path(encoder).exists()
    source = str(Path(encoder).resolve()) if local else encoder
    facts = {
        "source": source,
        "fingerprint": embedder.fingerprint,
        "dim": embedder.dim,
        "max_tokens": embedder.max_tokens,
    }
    try:
        fitted.save(folder / ROUTER)
        reference.save(folder / EXAMPLES)
        temporary = folder / f".{ENCODER}.tmp"
        temporary.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        temporary.replace(folder / ENCODER)
        if had_own and source != OWN and Path(source) != (folder / OWN).resolve():  # an earlier fine-tuning's
            shutil.rmtree(folder / OWN, ignore_errors=True)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written: {error.strerror or error}") from error


def _names_own(folder: Path) -> bool:
    """Whether the router in this directory has an encoder of its own beside it."""
    try:
        facts = json.loads((folder / ENCODER).read_text(encoding="utf-8"))
        return bool(facts["source"] == OWN)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def read_bundle(folder: Path) -> Bundle:
    """Read the directory.

    Raises:
        ConfigError: it is not there, or holds no router that this version reads.
    """
    try:
        facts = json.loads((folder / ENCODER).read_text(encoding="utf-8"))
        fitted = load_artifact(folder / ROUTER)
        source, fingerprint = str(facts["source"]), str(facts["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError, ArtifactError) as error:
        reason = error if isinstance(error, ArtifactError) else f"{type(error).__name__}: {error}"
        raise ConfigError(
            f"{folder}: no fitted router, as `pointsman router fit --out` writes it ({reason})"
        ) from error
    if fingerprint != fitted.provenance.embedder:
        raise ConfigError(
            f"{folder}: {ENCODER} names the encoder {source} with fingerprint {fingerprint[:12]}, but {ROUTER} was "
            f"fitted on {fitted.provenance.embedder[:12]}: the files do not belong together"
        )
    return Bundle(folder, fitted, str(folder / OWN) if source == OWN else source)
