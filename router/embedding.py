"""Text -> unit vectors: the `Embedder` protocol and its ONNX Runtime implementation.

Owns the on-disk format of an encoder and how long texts are cut. The only module of the running gateway that opens a
model, and only inside a constructor. Knows nothing of routes or scores.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from router.child import Child, ChildFailed
from router.errors import EmbeddingError

log = logging.getLogger("pointsman.router")

Vectors = npt.NDArray[np.float32]

FORMAT = 4
MANIFEST, MODEL, TOKENIZER = "encoder.json", "model.onnx", "tokenizer.json"
EMBEDDING, MIDDLE = "embedding", "middle"
"""The graph's outputs: what the encoder is made for, and the mean of its middle layer's tokens where there is one."""

UNQUANTISED = "none"
"""How a manifest's `quantisation` begins where int8 would have changed the vectors too much; the reason follows."""

TOKENS_AT_ONCE = 256
"""Of texts read together, padding included: what a run more costs counts no longer."""

TOKENS_A_RUN = 7
"""So many tokens take as long as a run of the graph does beside its tokens; no longer text is worth more padding.
Measured with all-MiniLM-L6-v2 on an AMD EPYC: 1.6 ms a run, 0.23 ms a token."""

CHARACTERS_PER_TOKEN = 64
"""Of a text longer than this many times the encoder's limit, only head and tail are tokenised: more than it can read,
however long its words are, and no more work for a pasted book."""


class Embedder(Protocol):
    """Anything that turns texts into unit vectors; `read` and `embed` must be safe to call from several threads."""

    @property
    def dim(self) -> int:
        """Length of one vector of `embed`."""

    @property
    def width(self) -> int:
        """Length of one vector of `read`: `dim` or more."""

    @property
    def fingerprint(self) -> str:
        """Sha256 that changes whenever the vectors may: model, quantisation, tokenizer, cutting of long texts."""

    def normalise(self, text: str) -> str:
        """Return the text that is read in place of this one: texts that are read alike have the same vector."""

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Embed texts, in order: float32 [n_texts, dim], unit length. Vectors of one meaning are close.

        Raises:
            EmbeddingError: the runtime failed.
        """

    def read(self, texts: Sequence[str]) -> Vectors:
        """Return what a router is fitted on and decides by, in order: float32 [n_texts, width], unit length.

        The first `dim` values point where `embed` does; others may tell what its meaning leaves out.

        Raises:
            EmbeddingError: the runtime failed.
        """

    def count_tokens(self, texts: Sequence[str]) -> int:
        """Count the tokens that `embed` reads for these texts, all together."""


class OnnxEmbedder:
    """A sentence encoder on ONNX Runtime, as written by `router.export`.

    Short texts are read together, padded to one length: the weights are then fetched once for all of them. What eight
    bits stand for is fixed in the graph, so that a text's vector does not depend on its neighbours (beyond the rounding
    of float32 sums), and replicas decide alike. A text that is alone is read by several threads together.

    A text is read with every run of white space as one space, and in lower case where the tokenizer folds case anyway.
    One above the model's limit is read by its head and tail, half each: in long prompts the question stands before or
    after what was pasted.
    """

    def __init__(self, model_dir: Path, *, threads: int = 1) -> None:
        """Load and verify an encoder directory.

        Args:
            model_dir: what `ensure_encoder` returned.
            threads: CPU threads that a text may have while no other is read; not more than there are cores, since they
                would spin waiting for each other. They spin only while they read it: llama.cpp needs the cores.

        Raises:
            EmbeddingError: the directory is missing, damaged or of another format.
        """
        manifest = _read_manifest(model_dir)
        self.folder = model_dir
        self.source: str = manifest["source"]
        """Name of what it was made from: for messages."""
        self.finetuned: bool = manifest.get("finetuned", False)
        """Tuned on some router's examples: calibrating on these again would see a reader that knows them by heart."""
        self.dim: int = manifest["dim"]
        self.width: int = manifest["width"]
        """Length of one vector of `read`."""
        self.max_tokens: int = manifest["max_tokens"]
        read_by = ("format", "dim", "width", "max_tokens", "files", "prompt")
        identity = {key: manifest[key] for key in read_by if key in manifest}
        self.fingerprint: str = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        self._prompt: str = manifest.get("prompt", "")
        if str(quantisation := manifest.get("quantisation", "")).startswith(UNQUANTISED):
            log.info("the encoder is not quantised", extra={"encoder": self.source, "quantisation": quantisation})
        self._session, self._wide_session, self._tokenizer = _open_runtime(model_dir, threads)
        self._outputs = [EMBEDDING, MIDDLE] if self.width > self.dim else [EMBEDDING]
        self._lock = threading.Lock()
        self._reading = 0
        self._folds_case = _folds_case(json.loads(self._tokenizer.to_str())["normalizer"])
        # Special tokens stand at both ends ([CLS] … [SEP]) and must survive the cut.
        self._tail = self.max_tokens // 2
        self._head = self.max_tokens - self._tail

    def normalise(self, text: str) -> str:
        """Return the text as it is read; see the class."""
        limit = self.max_tokens * CHARACTERS_PER_TOKEN
        if len(text) > limit:
            text = f"{text[: limit // 2]} {text[-limit // 2 :]}"
        text = " ".join(text.split())
        return text.lower() if self._folds_case else text

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Embed texts: float32 [n_texts, dim], unit length. See `Embedder.embed`."""
        return take_meaning(self.read(texts), self.dim)

    def read(self, texts: Sequence[str]) -> Vectors:
        """Read texts: float32 [n_texts, `width`], unit length. See `Embedder.read`.

        An encoder's last layer tells what a text is about, and less of how it is said than its middle one: whether it
        stands alone, answers, or asks on. Of both, each of the same length, a router decides better than of either.
        """
        vectors = np.empty((len(texts), self.width), dtype=np.float32)
        ids = [self._token_ids(text) for text in texts]
        with self._lock:
            alone = len(texts) == 1 and not self._reading
            self._reading += 1
        try:
            for rows in _group(ids):
                vectors[rows] = self._read([ids[row] for row in rows], self._wide_session if alone else self._session)
        finally:
            with self._lock:
                self._reading -= 1
        parts = (vectors[:, : self.dim], vectors[:, self.dim :]) if self.width > self.dim else (vectors,)
        for part in parts:
            part /= _lengths(part) * np.float32(len(parts) ** 0.5)
        return vectors

    def count_tokens(self, texts: Sequence[str]) -> int:
        """Count the tokens read, after cutting, special tokens included."""
        return sum(len(self._token_ids(text)) for text in texts)

    def _read(self, texts: Sequence[Sequence[int]], session: Any) -> Vectors:
        """Run the graph on texts of some tokens each: [n_texts, width]."""
        ids = np.zeros((len(texts), max(map(len, texts))), dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, tokens in enumerate(texts):
            ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = 1
        try:
            outputs = session.run(self._outputs, {"input_ids": ids, "attention_mask": mask})
        except Exception as error:  # ONNX Runtime's own are of no common kind
            raise EmbeddingError(
                f"the encoder failed on {len(texts)} texts of {ids.shape[1]} tokens: {error}"
            ) from error
        return np.concatenate(outputs, axis=1)

    def _token_ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(self._prompt + self.normalise(text)).ids
        return ids if len(ids) <= self.max_tokens else ids[: self._head] + ids[-self._tail :]


def ensure_encoder(
    source: str | Path,
    cache_dir: Path,
    *,
    timeout_s: float = 900.0,
    begun: Callable[[Callable[[], None]], None] = lambda end: None,
) -> Path:
    """Return the encoder directory made from `source`, exporting it first if it is not in the cache.

    The export runs in a child process, so that this one never loads torch.

    Args:
        source: an exported encoder directory (returned as it is), a sentence-transformers or transformers model
            directory, or a Hub id.
        cache_dir: created when missing.
        begun: called when an export begins, with what ends it from any thread: this function then raises.

    Raises:
        EmbeddingError: the export failed, differed from its source, was ended, or took longer than `timeout_s`.
    """
    folder = Path(source)
    if (folder / MANIFEST).is_file():
        return folder
    is_local = folder.is_dir()
    target = (cache_dir / _cache_name(source, is_local)).resolve()
    if (target / MANIFEST).is_file():
        return target
    child = Child("router.export")
    begun(child.kill)
    try:
        job = {"source": str(folder.resolve()) if is_local else str(source), "target": str(target)}
        child.run(job, timeout_s=timeout_s)
    except TimeoutError:
        raise EmbeddingError(f"exporting encoder {str(source)!r} took longer than {timeout_s:.0f} s") from None
    except ChildFailed as error:
        lines = str(error).splitlines() or [f"exit code {error.status}"]
        raise EmbeddingError(f"exporting encoder {str(source)!r} failed: {lines[-1]}") from None
    return target


def take_meaning(read: Vectors, dim: int) -> Vectors:
    """Return what `embed` gives for texts from what `read` does: float32 [n_texts, dim], unit length."""
    vectors = read[:, :dim]
    return vectors / _lengths(vectors)


def hash_file(path: Path) -> str:
    """Return a file's sha256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _lengths(vectors: Vectors) -> Vectors:
    """Return the length of each vector, above zero: [n_texts, 1]."""
    lengths: Vectors = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    return np.maximum(lengths, np.float32(1e-12))[:, None]


def _group(texts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return which texts of some tokens each are read together: rows, of like lengths."""
    groups: list[list[int]] = []
    for row in sorted(range(len(texts)), key=lambda row: len(texts[row])):
        length = len(texts[row])
        if groups:
            group = groups[-1]
            padding = len(group) * (length - len(texts[group[-1]]))
            if padding <= TOKENS_A_RUN and (len(group) + 1) * length <= TOKENS_AT_ONCE:
                group.append(row)
                continue
        groups.append([row])
    return groups


def _cache_name(source: str | Path, is_local: bool) -> str:
    """Name the cache entry after the source's content, or after its id when it lies on the Hub."""
    digest = hashlib.sha256()
    if is_local:
        for path in sorted(Path(source).rglob("*")):
            if path.is_file() and path.suffix in {".safetensors", ".bin", ".json", ".txt", ".model"}:
                digest.update(f"{path.relative_to(source)} {hash_file(path)}\n".encode())
    else:
        digest.update(str(source).encode())
    stem = Path(source).resolve().name if is_local else str(source).replace("/", "--")
    return f"{stem}-onnx{FORMAT}-{digest.hexdigest()[:12]}"


def _read_manifest(model_dir: Path) -> dict[str, Any]:
    path = model_dir / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found = {name: hash_file(model_dir / name) for name in (MODEL, TOKENIZER)}
        complete = (
            manifest["format"] == FORMAT
            and isinstance(manifest["dim"], int)
            and manifest["width"] >= manifest["dim"]
            and manifest["max_tokens"] >= 8
        )
        manifest.setdefault("source", model_dir.name)
        expected = manifest["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EmbeddingError(f"{path} is not an exported encoder ({type(error).__name__}: {error})") from error
    if not complete:
        remedy = "fine-tune it again (router fit --finetune)" if manifest.get("finetuned") else "export it again"
        raise EmbeddingError(f"{path} has format {manifest['format']!r}, this version reads format {FORMAT}: {remedy}")
    for name, digest in found.items():
        if digest != expected.get(name):
            raise EmbeddingError(
                f"{model_dir / name} is damaged: sha256 {digest}, the manifest says {expected.get(name)}"
            )
    return manifest


def _folds_case(normaliser: Any) -> bool:
    """Say whether a tokenizer's normaliser, as it stands in its JSON, turns every text into lower case."""
    if not isinstance(normaliser, dict):
        return False
    if normaliser.get("type") == "Sequence":
        return any(_folds_case(part) for part in normaliser.get("normalizers", []))
    lowers = normaliser.get("type") == "BertNormalizer" and normaliser.get("lowercase") is True
    return lowers or normaliser.get("type") == "Lowercase"


def _open_runtime(model_dir: Path, threads: int) -> tuple[Any, Any, Any]:
    """Return a session of one thread, one of several (the same one for 1), and the tokenizer.

    Each session holds the weights: 23 MB for the default encoder.
    """
    try:
        import onnxruntime
        from tokenizers import Tokenizer
    except ImportError as error:
        raise EmbeddingError(f"the encoder needs the packages onnxruntime and tokenizers: {error}") from error

    def open_session(n_threads: int) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = n_threads
        options.inter_op_num_threads = 1
        # Waking a sleeping thread for every operator would take longer than the operator.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        return onnxruntime.InferenceSession(str(model_dir / MODEL), options, providers=["CPUExecutionProvider"])

    try:
        session = open_session(1)
        wide_session = open_session(threads) if threads > 1 else session
        tokenizer = Tokenizer.from_file(str(model_dir / TOKENIZER))
    except Exception as error:
        raise EmbeddingError(f"{model_dir} cannot be loaded: {error}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return session, wide_session, tokenizer
