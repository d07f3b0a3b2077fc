"""The official Node SDK, which is stricter than Python's in places: streams, helpers, base64 embeddings, errors."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, NoReturn

import pytest
from processes import GatewayProcess, eventually

SDK = "openai@6"


@pytest.fixture(scope="module")
def seen(gateway: GatewayProcess, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the script saw; installs the SDK first."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        _missing("node and npm are not installed")
    folder = tmp_path_factory.mktemp("node")
    install = ["npm", "install", "--no-audit", "--no-fund", "--silent", "--prefix", str(folder), SDK]
    installed = subprocess.run(install, capture_output=True, text=True, timeout=250)
    if installed.returncode != 0:
        _missing(f"npm cannot install {SDK}: {installed.stderr[-300:]}")
    script = shutil.copy(Path(__file__).with_name("client.mjs"), folder)
    question = "How often should I water the tomato plants in my garden?"
    command = ["node", script, f"{gateway.url}/v1", question]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _missing(what: str) -> NoReturn:
    """On a person's machine the Node tests are skipped; in CI they must run."""
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)


@pytest.mark.timeout(600)
def test_a_plain_answer(seen: Any) -> None:
    plain = seen["plain"]
    assert plain["model"] == plain["header"] == plain["facts"]["expert"] == "gardening"
    assert plain["content"]
    assert plain["requestId"]
    assert plain["usage"]["completion_tokens"] == 4


def test_a_stream(seen: Any) -> None:
    assert seen["models"] == ["gardening"]
    assert seen["facts"]["reason"] == "routed"
    assert seen["text"]
    assert seen["usage"]["completion_tokens"] == 4
    assert seen["helper"] == "length"


def test_responses_embeddings_and_models(seen: Any) -> None:
    assert seen["responses"]["model"] == "base"
    assert seen["responses"]["text"]
    assert seen["embeddings"] == [384, 384]
    assert seen["listed"][:2] == ["auto", "base"]


def test_errors_are_the_sdks_own(seen: Any) -> None:
    assert (seen["unknown"]["name"], seen["unknown"]["code"]) == ("NotFoundError", "model_not_found")
    assert seen["unknown"]["requestID"]
    assert (seen["long"]["name"], seen["long"]["code"]) == ("BadRequestError", "context_length_exceeded")


def test_breaking_out_of_a_stream_frees_everything(seen: Any, gateway: GatewayProcess) -> None:
    eventually(gateway.at_rest, 5, "a gateway at rest")
