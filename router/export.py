"""Turn a sentence-transformers model into the directory that `OnnxEmbedder` reads. Runs once, in a child process.

Owns the only use of torch. The whole sentence-transformers pipeline (transformer, pooling, projection, normalisation)
is traced into one graph, so that its settings are honoured by construction, beside it the mean of its middle layer, and
the result is compared with the original before it is kept. Knows nothing of routes.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from router.child import give_way, read_job
from router.embedding import EMBEDDING, FORMAT, MANIFEST, MIDDLE, MODEL, TOKENIZER, UNQUANTISED, OnnxEmbedder, hash_file
from router.errors import EmbeddingError
from router.quantise import PARITY_TEXTS, Observed, fix, observe, quantise

log = logging.getLogger("pointsman.router")

TRACED, FUSED = "fp32.onnx", "fused.onnx"
MAX_NOISE = 0.1
"""A weight whose output eight bits would disturb by more than this share stays in float32, where a model does not bear
all of them in int8: in all-mpnet-base-v2 34 of 72."""

MAX_ALIKE = 0.9
"""Mean cosine between the middles of different texts from which they tell nothing: where layers are not normalised, a
few channels outweigh all others. Of the parity texts all-MiniLM-L6-v2 has 0.35."""

# Int8 noise leaves about 0.99 on ordinary text and 0.96 on strings of unknown tokens; a mistraced graph leaves 0.0–0.5.
MIN_MEAN_PARITY = 0.98
MIN_PARITY = 0.95


def export_onnx(source: str | Path, target_dir: Path, *, facts: Mapping[str, Any] | None = None) -> None:
    """Write an ONNX encoder made from `source` to `target_dir`, replacing what is there: int8 where that is as good.

    Args:
        source: directory of a sentence-transformers or plain transformers model, or a Hub id.
        target_dir: appears only when complete and verified; the manifest inside is written last.
        facts: entered in the manifest, in place of what it would say of the source.

    Raises:
        EmbeddingError: the source cannot be loaded or traced, or the export differs from it even in float32
            (cosine over the parity texts below 0.98 on average or 0.95 on any).
    """
    target_dir.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target_dir.name}-", suffix=".tmp", dir=target_dir.parent))
    try:
        model = load_source(source)
        expected = _read_with(model)
        with warnings.catch_warnings():
            # Tracing and quantising warn about constants and about pre-processing; the parity check judges the result.
            warnings.simplefilter("ignore")
            logging.disable(logging.WARNING)
            _trace(model, staging / TRACED, len(expected))
            fused = _fuse(model, staging / TRACED, staging / FUSED)
        model.tokenizer.backend_tokenizer.save(str(staging / TOKENIZER))
        described = _describe(model, source, expected) | dict(facts or {})
        graphs = [FUSED, TRACED] if fused else [TRACED]
        if too_far := _try_int8(staging, graphs, described, expected):
            (staging / TRACED).replace(staging / MODEL)
            described["quantisation"] = f"{UNQUANTISED}, since with int8: {too_far}"
            if too_far := _finish(staging, described, expected):
                raise EmbeddingError(f"the exported encoder differs from its source: {too_far}")
        for name in (TRACED, FUSED):
            (staging / name).unlink(missing_ok=True)
        staging.chmod(0o755)
        if target_dir.exists():
            shutil.rmtree(target_dir)
        staging.rename(target_dir)
    finally:
        logging.disable(logging.NOTSET)
        shutil.rmtree(staging, ignore_errors=True)


def load_source(source: str | Path) -> Any:
    """Load a SentenceTransformer on the CPU, for inference. Raises: EmbeddingError."""
    from sentence_transformers import SentenceTransformer

    try:
        return SentenceTransformer(str(source), device="cpu", model_kwargs={"attn_implementation": "eager"}).eval()
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise EmbeddingError(f"cannot load encoder {str(source)!r} with sentence-transformers: {error}") from error


def _make_pipeline(model: Any, n_outputs: int = 2) -> Any:
    """Return a torch module: token ids and mask in; out come the embedding and, of a model with layers, its middle.

    The middle is the mean over the text's tokens of what half of the layers, rounded up, have made of them.
    """
    import torch

    if config := getattr(getattr(model[0], "auto_model", None), "config", None):
        config.output_hidden_states = True

    class Pipeline(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            found = self.model({"input_ids": input_ids, "attention_mask": attention_mask})
            states = found.get("all_layer_embeddings")  # what the layers are given, and what each makes of it
            if n_outputs < 2 or not states:
                return (found["sentence_embedding"],)
            shares = attention_mask.unsqueeze(-1).to(torch.float32)
            middle = (states[len(states) // 2] * shares).sum(1) / shares.sum(1).clamp(min=1e-9)
            return found["sentence_embedding"], middle

    return Pipeline()


def _read_with(model: Any) -> list[Any]:
    """Return what the graph shall give for the parity texts: [n_texts, …], of unit length.

    The embedding is sentence-transformers' own; the middle comes behind it, where there is one that tells texts apart.
    """
    import torch

    expected = [model.encode(list(PARITY_TEXTS), normalize_embeddings=True, show_progress_bar=False)]
    prompt, pipeline = default_prompt(model) or "", _make_pipeline(model)
    batch = model.tokenizer(
        [prompt + text for text in PARITY_TEXTS],
        padding=True,
        truncation=True,
        max_length=model.max_seq_length or 512,
        return_tensors="pt",
    )
    with torch.no_grad():
        expected += [found.numpy() for found in pipeline(batch["input_ids"], batch["attention_mask"])[1:]]
    embedding, *middle = [found / np.linalg.norm(found, axis=1, keepdims=True) for found in expected]
    pairs = np.triu_indices(len(PARITY_TEXTS), k=1)
    return [embedding, *(found for found in middle if (found @ found.T)[pairs].mean() < MAX_ALIKE)]


def default_prompt(model: Any) -> str | None:
    """What a SentenceTransformer wants before every text, such as "query: "."""
    return (model.prompts or {}).get(model.default_prompt_name) if model.default_prompt_name else None


def _trace(model: Any, path: Path, n_outputs: int) -> None:
    import torch

    # Two texts of different lengths, and two distinct tensors: with one tensor given for both inputs
    # the exporter ties them together and the graph ignores the token ids.
    batch = model.tokenizer(["a rose is a rose", "now something else entirely"], padding=True, return_tensors="pt")
    inputs = (batch["input_ids"].clone(), batch["attention_mask"].clone())
    axes = {0: "batch", 1: "tokens"}
    outputs = [EMBEDDING, MIDDLE][:n_outputs]
    with torch.no_grad():
        torch.onnx.export(
            _make_pipeline(model, n_outputs),
            inputs,
            str(path),
            input_names=["input_ids", "attention_mask"],
            output_names=outputs,
            dynamic_axes={"input_ids": axes, "attention_mask": axes, **{name: {0: "batch"} for name in outputs}},
            opset_version=17,
            dynamo=False,
        )


def _fuse(model: Any, source: Path, target: Path) -> bool:
    """Join the small operators of each layer, which cost a short text much of its time; False where none fit.

    They are those of BERT's family, by ONNX Runtime's own tool.
    """
    from onnxruntime.transformers.optimizer import optimize_model

    config = getattr(getattr(model[0], "auto_model", None), "config", None)
    heads, hidden = getattr(config, "num_attention_heads", 0), getattr(config, "hidden_size", 0)
    try:
        optimised = optimize_model(str(source), "bert", num_heads=heads, hidden_size=hidden, opt_level=0)
    except (ValueError, TypeError, RuntimeError, LookupError, AttributeError, AssertionError):
        return False  # a graph that the tool does not know: it says so in many ways
    if not optimised.get_fused_operator_statistics().get("Attention"):
        return False
    optimised.save_model_to_file(str(target))
    return True


def _describe(model: Any, source: str | Path, expected: Sequence[Any]) -> dict[str, Any]:
    prompt = default_prompt(model)
    return {
        "format": FORMAT,
        "source": Path(source).name if Path(source).is_dir() else str(source),
        "dim": expected[0].shape[1],
        "width": sum(part.shape[1] for part in expected),
        "max_tokens": int(model.max_seq_length or 512),
        **({"prompt": prompt} if prompt else {}),
        "made_with": {name: importlib.metadata.version(name) for name in ("torch", "onnxruntime", "transformers")},
    }


def _try_int8(staging: Path, graphs: Sequence[str], described: dict[str, Any], expected: Sequence[Any]) -> str:
    """As `_finish`, of the first of the graphs that is good enough in int8, wholly or but for its noisy weights.

    Of the last when none is.
    """
    too_far = ""
    seen: dict[str, Observed] = {}
    for partly in (False, True):
        for graph in graphs:
            noise = seen[graph].noise if partly and graph in seen else {}
            spared = [name for name, share in noise.items() if share > MAX_NOISE]
            if partly and not spared:
                continue
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    quantise(staging / graph, staging / MODEL, spared)
                    if graph not in seen:
                        seen[graph] = observe(
                            staging / graph,
                            staging / MODEL,
                            staging / TOKENIZER,
                            prompt=described.get("prompt", ""),
                            max_tokens=described["max_tokens"],
                        )
                    fix(staging / MODEL, seen[graph].ranges)
                kept = f", but for {len(spared)} weights" if spared else ""
                facts = {"quantisation": f"int8, fixed ranges{kept}", "fused": graph == FUSED}
                too_far = _finish(staging, described | facts, expected)
            except Exception as error:  # ONNX Runtime's own are of no common kind; float32 is left
                log.debug("int8 is not to be had", exc_info=True)
                too_far = str(error) or type(error).__name__
            if not too_far:
                return ""
    return too_far


def _finish(folder: Path, manifest: dict[str, Any], expected: Sequence[Any]) -> str:
    """Write the manifest with what the files are and how near they come; return what is too far, or nothing."""
    manifest["files"] = {name: hash_file(folder / name) for name in (MODEL, TOKENIZER)}
    _write_manifest(folder, manifest)
    read = OnnxEmbedder(folder).read(PARITY_TEXTS) * np.sqrt(len(expected))
    found = np.split(read, [manifest["dim"]], axis=1)
    # Each for itself, or a good middle would hide a bad embedding.
    cosines = np.min([np.sum(part * own, axis=1) for part, own in zip(expected, found, strict=False)], axis=0)
    mean, worst = float(cosines.mean()), int(np.argmin(cosines))
    manifest["parity"] = {"mean": round(mean, 4), "lowest": round(float(cosines[worst]), 4)}
    _write_manifest(folder, manifest)
    if mean >= MIN_MEAN_PARITY and cosines[worst] >= MIN_PARITY:
        return ""
    return (
        f"mean cosine {mean:.3f} (allowed: {MIN_MEAN_PARITY} or more), "
        f"lowest {cosines[worst]:.3f} on {PARITY_TEXTS[worst][:40]!r} (allowed: {MIN_PARITY} or more)"
    )


def _write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def main() -> int:
    """Export what the first line of standard input names; 1 with the reason on standard output when it cannot be."""
    job = read_job()
    give_way()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the libraries' bars and warnings: the parity check judges the result
    if Path(job["source"]).is_dir():
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        export_onnx(job["source"], Path(job["target"]))
    except Exception as error:
        print(error if isinstance(error, EmbeddingError) else f"{type(error).__name__}: {error}")
        return 1
    return 0
