"""The peers of routing_speed.py, in their own environment: aurelio semantic-router, and sentence-transformers alone.

Reads one JSON object a line, answers with one: first ``{"encoder": folder, "routes": {name: texts}, "threads": n}``,
then ``{"peer": name, "texts": […], "clients": n}``, answered with the milliseconds of each text and the seconds of all.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def open_peers(encoder: str, routes: dict[str, list[str]], threads: int) -> dict[str, Callable[[str], Any]]:
    import torch
    from semantic_router import Route
    from semantic_router.encoders import HuggingFaceEncoder
    from semantic_router.routers import IndexedRouter
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(threads)
    model = SentenceTransformer(encoder, device="cpu")
    # The faster of its two local encoders; the other one goes through sentence-transformers.
    router = IndexedRouter(
        encoder=HuggingFaceEncoder(name=encoder),
        routes=[Route(name=name, utterances=texts) for name, texts in routes.items()],
    )
    return {
        "semantic-router": router,
        "sentence-transformers": lambda text: model.encode(text, normalize_embeddings=True, show_progress_bar=False),
    }


def measure(decide: Callable[[str], Any], texts: list[str], clients: int) -> dict[str, Any]:
    def time_one(text: str) -> float:
        started = time.perf_counter()
        decide(text)
        return (time.perf_counter() - started) * 1000

    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as threads:
        ms = list(threads.map(time_one, texts))
    return {"ms": ms, "seconds": time.perf_counter() - started}


def main() -> None:
    answers, sys.stdout = sys.stdout, sys.stderr  # what the libraries print must not stand among the answers
    setting = json.loads(sys.stdin.readline())
    peers = open_peers(setting["encoder"], setting["routes"], setting["threads"])
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(measure(peers[asked["peer"]], asked["texts"], asked["clients"])), file=answers, flush=True)


if __name__ == "__main__":
    main()
