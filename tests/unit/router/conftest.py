"""Fixtures of the router's unit tests: one fitted router, made once, since fitting takes a moment."""

from __future__ import annotations

import pytest
from unit.router.word_embedder import WordEmbedder, examples, negatives

from router import FittedRouter, fit


@pytest.fixture(scope="session")
def fitted() -> FittedRouter:
    return fit(examples(), negatives(), WordEmbedder())


@pytest.fixture
def embedder() -> WordEmbedder:
    return WordEmbedder()
