"""Builds the router for the experts in service: encoder, examples, fitted artifact.

Owns where examples and artifacts lie; fitting and deciding belong to the ``router`` package.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path

from router import Embedder, FittedRouter, OnnxEmbedder, Router, RouterError, ensure_encoder, load_or_fit

from .base import Kind, resolve
from .errors import ConfigError
from .experts import Expert

__all__ = ["RouterFactory", "read_examples", "read_rows"]

log = logging.getLogger("pointsman.router")


def read_examples(path: Path) -> list[str]:
    """The ``text`` of every line of a JSONL file.

    Raises:
        ConfigError: the file cannot be read, or a line holds no text; names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    texts: list[str] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            text = json.loads(line)["text"]
        except (ValueError, KeyError, TypeError):
            text = None
        if not isinstance(text, str) or not text.strip():
            raise ConfigError(f'{path}, line {number}: {{"text": "…"}} is expected, found {line[:80]!r}')
        texts.append(text)
    return texts


def read_rows(path: Path) -> tuple[list[str], list[str]]:
    """The questions and the answers of a training set (Alpaca).

    The questions are examples like any other; the answers teach the router an expert's subject, no more.

    Raises:
        ConfigError: the file cannot be read, or holds no rows.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        asked = [f"{row['instruction']} {row.get('input', '')}".strip() for row in rows]
        return asked, [row["output"] for row in rows if row["output"].strip()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: a list of rows with 'instruction' and 'output' is expected: {error}") from error


def _unique(texts: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(texts))


class RouterFactory:
    """Makes a router for a set of experts; the encoder is opened once. Blocking: call it in a thread."""

    def __init__(
        self,
        encoder: str,
        out_of_scope: Path | None,
        cache_dir: Path,
        *,
        threads: int = 1,
        cache_size: int = 4096,
        max_batch: int = 8,
        false_abstain: float = 0.08,
    ) -> None:
        self._encoder = encoder
        self._out_of_scope = out_of_scope
        self._cache_dir = cache_dir
        self._threads = threads
        self._cache_size = cache_size
        self._max_batch = max_batch
        self._false_abstain = false_abstain
        self._embedder: OnnxEmbedder | None = None

    def build(self, experts: Sequence[Expert]) -> Router | None:
        """Make a router; None when there are no experts.

        Raises:
            ConfigError: encoder or examples cannot be used.
        """
        if not experts:
            return None
        fitted, embedder = self.fitted(experts)
        own = {expert.name: expert.manifest.threshold for expert in experts}
        fitted = fitted.with_thresholds({name: value for name, value in own.items() if value is not None})
        return Router(fitted, embedder, cache_size=self._cache_size, max_batch=self._max_batch)

    def fitted(self, experts: Sequence[Expert]) -> tuple[FittedRouter, Embedder]:
        """Fit, or load when nothing it was fitted on has changed.

        Raises:
            ConfigError: encoder or examples cannot be used.
        """
        examples: dict[str, list[str]] = {}
        passages: dict[str, list[str]] = {}
        for expert in experts:
            asked, answered = read_rows(expert.dataset_path)
            examples[expert.name] = _unique([*read_examples(expert.examples_path), *asked])
            passages[expert.name] = _unique(answered)
        negatives = read_examples(self._out_of_scope) if self._out_of_scope else []
        names = hashlib.sha256("+".join(sorted(examples)).encode()).hexdigest()[:16]
        try:
            started = time.monotonic()
            embedder = self._open()
            path = self._cache_dir / "router" / f"{names}.npz"
            fitted, refitted = load_or_fit(
                path, examples, negatives, embedder, passages=passages, max_false_abstain=self._false_abstain
            )
        except RouterError as error:
            raise ConfigError(f"router: {error}") from error
        if refitted:
            log.info("router fitted", extra={"routes": len(examples), "seconds": round(time.monotonic() - started, 1)})
            for warning in fitted.warnings:
                log.warning("%s", warning)
        return fitted, embedder

    def _open(self) -> OnnxEmbedder:
        if self._embedder is None:
            log.info("opening the encoder; its first start exports it", extra={"encoder": self._encoder})
            source: str | Path = self._encoder
            if ":" in self._encoder or Path(self._encoder).is_dir():
                source = resolve(self._encoder, cache_dir=self._cache_dir, kind=Kind.DIRECTORY).path
            self._embedder = OnnxEmbedder(ensure_encoder(source, self._cache_dir / "encoders"), threads=self._threads)
        return self._embedder
