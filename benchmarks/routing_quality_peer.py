"""aurelio semantic-router in an environment of its own, on vectors made by our encoder.

Reads one JSON object from standard input: the path of a NumPy archive (`texts` as JSON bytes, `vectors`), routes with
their texts, and texts to ask. Writes one: the route and the confidence that it names for each.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np


def main() -> None:
    answers, sys.stdout = sys.stdout, sys.stderr  # what the library prints must not stand among the answers
    from semantic_router import Route
    from semantic_router.encoders import DenseEncoder
    from semantic_router.routers import IndexedRouter

    asked = json.load(sys.stdin)
    with np.load(asked["vectors"]) as archive:
        known = dict(zip(json.loads(archive["texts"].tobytes()), archive["vectors"].tolist(), strict=True))

    class KnownEncoder(DenseEncoder):  # type: ignore[misc]
        def __call__(self, docs: list[Any]) -> list[list[float]]:
            return [known[text] for text in docs]

        async def acall(self, docs: list[Any]) -> list[list[float]]:
            return self(docs)

    routes = [Route(name=name, utterances=texts) for name, texts in asked["routes"].items()]
    router = IndexedRouter(encoder=KnownEncoder(name="known"), routes=routes)
    choices = [router(text, threshold=0.0) for text in asked["texts"]]
    found = {"routes": [choice.name for choice in choices], "scores": [choice.confidence or 0.0 for choice in choices]}
    print(json.dumps(found), file=answers)


if __name__ == "__main__":
    main()
