"""Builds the router for the experts in service: encoder, examples, fitted artifact.

Owns where examples and artifacts lie; fitting and deciding belong to the ``router`` package.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from router import (
    ApartFitter,
    ArtifactError,
    BulkEmbedder,
    Embedder,
    FittedRouter,
    OnnxEmbedder,
    Provenance,
    Reference,
    Router,
    RouterError,
    check_examples,
    ensure_encoder,
    find_overlap,
    load_current,
    load_reference,
)

from .base import Kind, resolve
from .bundle import Bundle, read_bundle
from .errors import ConfigError
from .experts import Expert
from .sizing import usable_cores

__all__ = ["FURTHER", "RouterFactory", "Source", "draw_passages", "read_examples", "read_rows"]

log = logging.getLogger("pointsman.router")

FURTHER = "further"
"""Key of an example's line: true where the router is to learn from it, and nothing is calibrated on it."""

_KEPT_ROUTERS = 8
"""Of some megabytes each."""

_MOST_PASSAGES = 150
"""Answers of one expert that the router is fitted on. They are long: more cost time, and find no more questions."""


def read_examples(path: Path, *, further: bool | None = None) -> list[str]:
    """The ``text`` of every line of a JSONL file.

    Args:
        further: only the lines that are, or are not, further examples.

    Raises:
        ConfigError: the file cannot be read, or a line holds no text; names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # not splitlines: a text may hold U+2028
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    texts: list[str] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            text, kind = row["text"], row.get(FURTHER, False)
        except (ValueError, KeyError, TypeError, AttributeError):
            text = kind = None
        if not isinstance(text, str) or not text.strip() or not isinstance(kind, bool):
            raise ConfigError(
                f'{path}, line {number}: {{"text": "…"}} is expected, with "{FURTHER}": true or false if need be; '
                f"found {line[:80]!r}"
            )
        if further in (None, kind):
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


def draw_passages(answers: Sequence[str]) -> list[str]:
    """Which of an expert's answers the router is fitted on: a change of one answer changes no other's part."""
    drawn = sorted(set(answers), key=lambda text: hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
    return drawn[:_MOST_PASSAGES]


def _unique(texts: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(texts))


def _with_own_thresholds(fitted: FittedRouter, experts: Sequence[Expert]) -> FittedRouter:
    own = {expert.name: expert.manifest.threshold for expert in experts}
    return fitted.with_thresholds({name: value for name, value in own.items() if value is not None})


@dataclass(frozen=True)
class Source:
    """What a router is fitted on."""

    examples: dict[str, list[str]]
    negatives: list[str]
    passages: dict[str, list[str]] = field(default_factory=dict)
    further: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def read(cls, experts: Mapping[str, tuple[Path, Path]], out_of_scope: Path | None) -> Source:
        """Read it from each expert's training rows and examples, and from the texts that no expert should get.

        Raises:
            ConfigError: a file cannot be used.
        """
        source = cls({}, read_examples(out_of_scope) if out_of_scope else [])
        for name, (rows, examples) in experts.items():
            asked, answered = read_rows(rows)
            source.examples[name] = _unique([*read_examples(examples, further=False), *asked])
            source.further[name] = read_examples(examples, further=True)
            source.passages[name] = draw_passages(answered)
        return source


class RouterFactory:
    """Makes a router for a set of experts; an encoder is opened once. Blocking: call it in a thread."""

    def __init__(
        self,
        encoder: str,
        out_of_scope: Path | None,
        cache_dir: Path,
        *,
        second_encoder: str | None = None,
        artifact: Path | None = None,
        threads: int = 1,
        cache_size: int = 4096,
        max_batch: int = 8,
        false_abstain: float = 0.05,
    ) -> None:
        self.encoder = encoder
        self._second_encoder = second_encoder
        self._out_of_scope = out_of_scope
        self._cache_dir = cache_dir
        self._artifact = artifact
        self.threads = threads
        self._cache_size = cache_size
        self._max_batch = max_batch
        self.false_abstain = false_abstain
        self._opened: dict[str, OnnxEmbedder] = {}
        self._end_export: Callable[[], None] = lambda: None
        self._closed = False
        # One each: the minutes of the second router must not keep the first waiting.
        self._fitters = {encoder: (ApartFitter(), threading.Lock())}
        if second_encoder is not None:
            self._fitters[second_encoder] = (ApartFitter(last=True), threading.Lock())

    def build(self, experts: Sequence[Expert], *, remembers: bool = True, complete: bool = True) -> Router | None:
        """Make a router; None when there are no experts.

        Args:
            remembers: False measures every text as a new one.
            complete: False leaves out the second router, which may take minutes to be had; `build_second` makes it.

        Raises:
            ConfigError: encoder or examples cannot be used, or the configured artifact names an expert that is not
                there.
        """
        if not experts:
            return None
        if self._artifact is None:
            source = self.read_source(experts)
            second = None
            if self._second_encoder is not None and complete:
                second = self._build_on(self._second_encoder, source, experts, remembers=remembers)
            return self._build_on(self.encoder, source, experts, remembers=remembers, second=second)
        bundle = self._bundle(self._artifact, experts)
        own = _with_own_thresholds(bundle.fitted, experts)
        return self.open_bundle(replace(bundle, fitted=own), remembers=remembers)

    def build_second(self, experts: Sequence[Expert]) -> Router | None:
        """Make the second router alone; None where none is configured, or there are no experts.

        Raises:
            ConfigError: as `build`.
        """
        if self._second_encoder is None or not experts:
            return None
        return self._build_on(self._second_encoder, self.read_source(experts), experts, remembers=True)

    def _build_on(
        self,
        encoder: str,
        source: Source,
        experts: Sequence[Expert],
        *,
        remembers: bool,
        second: Router | None = None,
    ) -> Router:
        # Only the first router warns: the second is fitted on the same texts.
        fitted, embedder = self.fit_on(source, encoder=encoder, warn=encoder == self.encoder)
        own = _with_own_thresholds(fitted, experts)
        reference = partial(self.reference, source, embedder)
        return self.join(own, embedder, reference, remembers=remembers, second=second)

    def check(self, experts: Sequence[Expert]) -> None:
        """Find at once what would keep `build` from a router, as far as the files tell.

        Raises:
            ConfigError: as `build`, but for the encoder.
        """
        if not experts:
            return
        if self._artifact is not None:
            self._bundle(self._artifact, experts)
            return
        source = self.read_source(experts)
        try:
            check_examples(source.examples, source.negatives, passages=source.passages, further=source.further)
        except RouterError as error:
            raise ConfigError(f"router: {error}") from error

    def prepare(self, experts: Sequence[Expert]) -> None:
        """Do beforehand what takes `build` its time, but for the second router. What fails is `build`'s to say."""
        if experts and self._artifact is None:
            with contextlib.suppress(ConfigError):
                self.fit_on(self.read_source(experts))

    def open_bundle(self, bundle: Bundle, *, encoder: str | None = None, remembers: bool = True) -> Router:
        """Make a router from a directory.

        Args:
            encoder: in place of the one that the directory names; must be the same.

        Raises:
            ConfigError: the encoder cannot be opened, or is another one.
        """
        source = encoder or bundle.encoder
        if encoder is None and Path(source).is_absolute() and not Path(source).exists():
            raise ConfigError(f"{bundle.folder}: its encoder {source} is not there; --encoder says where it is now")
        embedder = self.open_encoder(source)
        bundle.check_encoder(embedder, source)
        return self.join(bundle.fitted, embedder, bundle.reference, remembers=remembers)

    def join(
        self,
        fitted: FittedRouter,
        embedder: Embedder,
        reference: Callable[[], Reference],
        *,
        remembers: bool = True,
        second: Router | None = None,
    ) -> Router:
        """Make a router with the configured sizes."""
        return Router(
            fitted,
            embedder,
            cache_size=self._cache_size if remembers else 0,
            max_batch=self._max_batch,
            workers=self.threads,
            reference=reference,
            second=second,
        )

    def read_source(self, experts: Sequence[Expert]) -> Source:
        """Read what the experts bring: examples and training rows; and the configured out-of-scope texts.

        Raises:
            ConfigError: a file cannot be used.
        """
        files = {expert.name: (expert.dataset_path, expert.examples_path) for expert in experts}
        return Source.read(files, self._out_of_scope)

    def fit_on(
        self, source: Source, *, encoder: str | None = None, warn: bool = True
    ) -> tuple[FittedRouter, OnnxEmbedder]:
        """Fit, or load what was fitted on the same before, by whichever program with this cache.

        Args:
            encoder: in place of the configured one.
            warn: whether a fit logs what is wrong with the examples.

        Raises:
            ConfigError: encoder or examples cannot be used.
        """
        embedder = self.encoder_to_fit(encoder)
        fitter, fitting = self._fitters[self.encoder if encoder is None else encoder]
        with fitting:  # who waited for the same fit finds it done
            return self._fit_on(fitter, source, embedder, warn=warn), embedder

    def fit_all(self, source: Source) -> FittedRouter:
        """As `fit_on`, of the second router too, where one is configured; returns the first."""
        fitted, _ = self.fit_on(source)
        if self._second_encoder is not None:
            self.fit_on(source, encoder=self._second_encoder, warn=False)
        return fitted

    def _fit_on(self, fitter: ApartFitter, source: Source, embedder: OnnxEmbedder, *, warn: bool) -> FittedRouter:
        path = self._path(source, embedder)
        stored = load_current(
            path,
            source.examples,
            source.negatives,
            embedder,
            passages=source.passages,
            further=source.further,
            max_false_abstain=self.false_abstain,
        )
        reference_path = self._path(source, embedder, "examples.npz")
        if stored is not None:
            with contextlib.suppress(OSError):
                os.utime(reference_path)  # in use: not among the oldest
            return stored
        started = time.monotonic()
        try:
            fitted, reference = fitter.fit(
                source.examples,
                source.negatives,
                embedder,
                passages=source.passages,
                further=source.further,
                max_false_abstain=self.false_abstain,
                workers=self.threads,
                progress=True,
                vectors=self._vectors(embedder),
            )
        except RouterError as error:
            raise ConfigError(f"router: {error}") from error
        reference.save(reference_path)
        fitted.save(path)
        _keep_newest(path.parent)
        seconds = round(time.monotonic() - started, 1)
        log.info("router fitted", extra={"routes": len(source.examples), "seconds": seconds})
        for warning in [*fitted.warnings, *find_overlap(reference).warnings()] if warn else ():
            log.warning("%s", warning)
        return fitted

    def close(self) -> None:
        """End the exports and fits that run in other threads; they raise there."""
        self._closed = True
        self._end_export()
        for fitter, _ in self._fitters.values():
            fitter.close()

    def _begin_export(self, end: Callable[[], None]) -> None:
        self._end_export = end
        if self._closed:
            end()

    def bulk(self, embedder: Embedder, *, keeps: bool = True) -> BulkEmbedder:
        """An embedder for many texts, with progress on a terminal; with ``keeps``, it knows those of the last fit."""
        store = self._vectors(embedder) if keeps else None
        return BulkEmbedder(embedder, workers=self.threads, progress=True, store=store)

    def open_encoder(self, encoder: str) -> OnnxEmbedder:
        """Open an encoder, exporting it the first time.

        Raises:
            ConfigError: it cannot be found or exported.
        """
        if encoder not in self._opened:
            log.info("opening the encoder; its first start exports it", extra={"encoder": encoder})
            try:
                located, cache_dir = self.locate_encoder(encoder), self._cache_dir / "encoders"
                folder = ensure_encoder(located, cache_dir, begun=self._begin_export)
                self._opened[encoder] = OnnxEmbedder(folder, threads=min(self.threads, usable_cores()))
            except RouterError as error:
                raise ConfigError(f"router: {error}") from error
        return self._opened[encoder]

    def locate_encoder(self, encoder: str) -> str | Path:
        """Where an encoder's files are, downloaded first if need be; or its Hub id. Raises: ConfigError."""
        if ":" in encoder or Path(encoder).is_dir():
            return resolve(encoder, cache_dir=self._cache_dir, kind=Kind.DIRECTORY).path
        return encoder

    def encoder_to_fit(self, encoder: str | None = None) -> OnnxEmbedder:
        """Open an encoder, or the configured one, to fit on.

        Raises:
            ConfigError: it cannot be found or exported, or was fine-tuned: its router is fitted already.
        """
        encoder = self.encoder if encoder is None else encoder
        embedder = self.open_encoder(encoder)
        if encoder != self.encoder and embedder.fingerprint == self.open_encoder(self.encoder).fingerprint:
            raise ConfigError(f"router.second_encoder {encoder} is the same as router.encoder: set another, or none")
        if embedder.finetuned:
            raise ConfigError(
                f"the encoder {encoder} was fine-tuned on examples, and a router that is calibrated on them "
                "again would be too sure: set router.artifact to the directory that `router fit --finetune` wrote"
            )
        return embedder

    def reference(self, source: Source, embedder: OnnxEmbedder | None = None) -> Reference:
        """The examples that the router was fitted on; embedded again when their file is lost."""
        embedder = embedder or self.open_encoder(self.encoder)
        path = self._path(source, embedder, "examples.npz")
        try:
            return load_reference(path)
        except ArtifactError:
            reference = Reference.build(source.examples, source.negatives, self.bulk(embedder), source.further)
            reference.save(path)
            return reference

    @staticmethod
    def _bundle(artifact: Path, experts: Sequence[Expert]) -> Bundle:
        bundle = read_bundle(artifact)
        names = [expert.name for expert in experts]
        if unknown := sorted(set(bundle.fitted.routes) - set(names)):
            raise ConfigError(f"router.artifact {artifact}: its experts {unknown} are not served; served: {names}")
        return bundle

    def _vectors(self, embedder: Embedder) -> Path:
        return self._cache_dir / "router" / f"vectors-{embedder.fingerprint[:8]}.npz"

    def _path(self, source: Source, embedder: OnnxEmbedder, ending: str = "npz") -> Path:
        provenance = Provenance.describe(
            source.examples,
            source.negatives,
            embedder.fingerprint,
            passages=source.passages,
            further=source.further,
            seed=0,
            max_false_abstain=self.false_abstain,
        )
        return self._cache_dir / "router" / f"{provenance.digest[:16]}.{ending}"


def _keep_newest(folder: Path) -> None:
    """Delete all but the routers used last: another version of an expert is another router."""
    # Another program with this cache may do the same at the same time: what is left, the next fit deletes.
    with contextlib.suppress(OSError):
        found = sorted(folder.glob("*.examples.npz"), key=lambda path: path.stat().st_mtime_ns)
        for path in found[:-_KEPT_ROUTERS]:
            path.with_name(path.name.replace(".examples", "")).unlink(missing_ok=True)
            path.unlink(missing_ok=True)
