"""How fast is our encoder (ONNX Runtime, int8) beside sentence-transformers on torch, and how alike are the vectors?

Both run in this process on the same texts, in turns, with the same number of threads. The last line is one JSON
object; `ratio` is the median time of torch over ours for one text of 23 words.

    python benchmarks/encoder.py --encoder SOURCE [--threads 1] [--repeats 50]
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from router import OnnxEmbedder, ensure_encoder

ROOT = Path(__file__).parents[1]
WORDS = (8, 23, 200)
BATCH = 256


def make_text(words: int, seed: int) -> str:
    """Return readable text of that many words, different for each seed."""
    path = ROOT / "benchmarks" / "data" / "clinc150" / "val.jsonl"
    lines = [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]
    pool = " ".join(np.random.default_rng(seed).permutation(lines)[:60].tolist()).split()
    return " ".join(pool[:words])


def time_both(encoders: dict[str, Callable[[Sequence[str]], Any]], words: int, repeats: int) -> dict[str, float]:
    """Return the median milliseconds for one text, the encoders taking turns."""
    times: dict[str, list[float]] = {name: [] for name in encoders}
    for repeat in range(repeats + 3):
        text = make_text(words, repeat)
        for name, encode in encoders.items():
            start = time.perf_counter()
            encode([text])
            if repeat >= 3:
                times[name].append((time.perf_counter() - start) * 1000)
    return {name: float(np.median(values)) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", required=True, help="sentence-transformers directory or Hub id")
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "encoders", help="where exports are kept")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=50)
    arguments = parser.parse_args()
    if Path(arguments.encoder).is_dir():
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    ours = OnnxEmbedder(ensure_encoder(arguments.encoder, arguments.cache), threads=arguments.threads)
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(arguments.threads)
    reference = SentenceTransformer(arguments.encoder, device="cpu")

    def encode_reference(texts: Sequence[str]) -> Any:
        return reference.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)

    encoders: dict[str, Callable[[Sequence[str]], Any]] = {
        "pointsman": ours.embed,
        "sentence-transformers": encode_reference,
    }
    results: dict[str, Any] = {f"{words} words": time_both(encoders, words, arguments.repeats) for words in WORDS}
    texts = [make_text(12, seed) for seed in range(BATCH)]
    rates: dict[str, float] = {}
    for name, encode in encoders.items():
        start = time.perf_counter()
        encode(texts)
        rates[name] = BATCH / (time.perf_counter() - start)
    cosines = np.sum(ours.embed(texts) * encode_reference(texts), axis=1)

    print(f"{'median ms, one text':24}" + "".join(f"{name:>24}" for name in encoders))
    for label, row in results.items():
        print(f"{label:24}" + "".join(f"{row[name]:24.2f}" for name in encoders))
    print(f"{'texts/s, 12 words':24}" + "".join(f"{rates[name]:24.0f}" for name in encoders))
    print(f"cosine of both, {BATCH} texts: mean {cosines.mean():.4f}, lowest {cosines.min():.4f}")
    ratio = results["23 words"]["sentence-transformers"] / results["23 words"]["pointsman"]
    parity = {"mean": float(cosines.mean()), "lowest": float(cosines.min())}
    print(json.dumps({"ms": results, "texts_per_s": rates, "cosine": parity, "ratio": ratio}))


if __name__ == "__main__":
    main()
