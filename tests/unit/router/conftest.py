"""Fixtures of the router's unit tests: one fitted router, made once, since fitting takes a moment."""

from __future__ import annotations

import pytest
from unit.router.word_embedder import WordEmbedder, examples, negatives

from router import FittedRouter, fit


@pytest.fixture(scope="session")
def fitted() -> FittedRouter:
    fitted = fit(examples(), negatives(), WordEmbedder(), max_false_abstain=0.0)
    # These texts are so easy that every example scores 0.999; the tests' own ones are a little harder.
    return fitted.with_thresholds({"bread": 0.8, "garden": 0.8})


@pytest.fixture
def embedder() -> WordEmbedder:
    return WordEmbedder()
