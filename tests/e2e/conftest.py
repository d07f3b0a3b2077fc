"""One gateway for all the tests that leave it as they found it, and the official client for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from processes import GatewayProcess

# One question for each expert, and one for none.
QUESTIONS = {
    "gardening": "How often should I water the tomato plants in my garden?",
    "cycling": "My bicycle chain keeps skipping when I change gears, how do I fix it?",
    "baking": "Why did my sourdough bread not rise in the oven?",
    "stargazing": "Which telescope should I buy to see the rings of Saturn?",
    "base": "What is the capital of Portugal?",
}


@pytest.fixture(scope="session")
def gateway(experts_dir: Path, encoder_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    settings = {"experts": {"dir": str(experts_dir)}, "scheduler": {"queue_timeout_s": 200}}
    with GatewayProcess(tmp_path_factory.mktemp("gateway"), settings) as running:
        yield running


@pytest.fixture
def client(gateway: GatewayProcess) -> Iterator[openai.OpenAI]:
    with sdk(gateway) as opened:
        yield opened


def sdk(gateway: GatewayProcess, api_key: str = "unused") -> openai.OpenAI:
    """The SDK without its retries, which would hide errors."""
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=api_key, max_retries=0, timeout=200)


@pytest.fixture(params=sorted(QUESTIONS))
def expert(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def question(expert: str) -> str:
    return QUESTIONS[expert]
