"""Asks a gateway as its users do: with the openai SDK for Python, the one for Node, and curl.

Each way takes texts, asks ``auto`` about every one, and gives what a user of that client sees: who served, with what
score, and the answer. Knows nothing of what is right.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai

from gateway.base import default_cache_dir
from gateway.download import exclusive

__all__ = ["CLIENTS", "Reply"]

_NODE_SDK = "openai@6.49.0"  # the last major version that runs on Node 20
_TIMEOUT_S = 600
_ENDPOINT = "/chat/completions"


@dataclass(frozen=True)
class Reply:
    served: str
    score: float | None
    answer: str
    seconds: float


def ask_with_python(url: str, key: str, texts: Sequence[str], *, stream: bool, at_once: int) -> list[Reply]:
    """Ask with the official Python SDK, ``at_once`` requests at a time."""
    with openai.OpenAI(base_url=url, api_key=key, timeout=_TIMEOUT_S) as client, ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(lambda text: _python(client, text, stream), texts))


def ask_with_node(url: str, key: str, texts: Sequence[str], *, stream: bool, at_once: int) -> list[Reply]:
    """Ask with the official Node SDK, installed from npm into the user's cache.

    Raises:
        RuntimeError: node or npm is missing, or the script failed; says why.
    """
    script = shutil.copy(Path(__file__).with_name("ask.mjs"), _node_folder())
    asked = {"url": url, "key": key, "texts": list(texts), "stream": stream, "at_once": at_once}
    done = subprocess.run(["node", script], input=json.dumps(asked), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the Node client failed: {done.stderr[-2000:]}")
    return [Reply(**row) for row in json.loads(done.stdout)]


def ask_with_curl(url: str, key: str, texts: Sequence[str], *, stream: bool, at_once: int) -> list[Reply]:
    """Ask with curl, a process a request."""
    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(lambda text: _curl(url, key, text, stream), texts))


CLIENTS: dict[str, Callable[..., list[Reply]]] = {
    "python": ask_with_python,
    "node": ask_with_node,
    "curl": ask_with_curl,
}


def _python(client: openai.OpenAI, text: str, stream: bool) -> Reply:
    started = time.monotonic()
    messages: Any = [{"role": "user", "content": text}]
    if not stream:
        whole = client.chat.completions.create(model="auto", messages=messages)
        body = whole.model_dump()
        return _reply([body], body["choices"][0]["message"]["content"] or "", started)
    chunks = [c.model_dump() for c in client.chat.completions.create(model="auto", messages=messages, stream=True)]
    return _reply(chunks, _joined(chunks), started)


def _curl(url: str, key: str, text: str, stream: bool) -> Reply:
    started = time.monotonic()
    body = {"model": "auto", "messages": [{"role": "user", "content": text}], "stream": stream}
    command = ["curl", "--silent", "--show-error", "--fail-with-body", "--no-buffer", "--max-time", str(_TIMEOUT_S)]
    headers = ["-H", "Content-Type: application/json", "-H", f"Authorization: Bearer {key}"]
    done = subprocess.run(
        [*command, *headers, "--data-binary", "@-", url + _ENDPOINT],
        input=json.dumps(body).encode(),
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"curl failed: {done.stderr.decode()} {done.stdout.decode()[:500]}")
    if not stream:
        whole = json.loads(done.stdout)
        return _reply([whole], whole["choices"][0]["message"]["content"] or "", started)
    lines = [line.removeprefix("data: ") for line in done.stdout.decode().splitlines() if line.startswith("data: ")]
    if lines[-1] != "[DONE]":
        raise RuntimeError(f"the stream did not end with [DONE]: {lines[-1][:500]}")
    chunks = [json.loads(line) for line in lines[:-1]]
    return _reply(chunks, _joined(chunks), started)


def _joined(chunks: Sequence[dict[str, Any]]) -> str:
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"])


def _reply(bodies: Sequence[dict[str, Any]], answer: str, started: float) -> Reply:
    (served,) = {body["model"] for body in bodies}
    facts = bodies[0]["pointsman"]
    assert facts["expert"] == served, f"the body says {served}, its pointsman object {facts['expert']}"
    return Reply(served, facts["score"], answer, time.monotonic() - started)


def _node_folder() -> Path:
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            raise RuntimeError(f"{program} is not installed")
    folder = default_cache_dir() / "peers" / f"node-{_NODE_SDK.replace('@', '-')}"
    with exclusive(folder.parent / ".node.lock"):
        if not (folder / "node_modules" / "openai" / "package.json").is_file():
            install = ["npm", "install", "--no-audit", "--no-fund", "--silent", "--prefix", str(folder), _NODE_SDK]
            subprocess.run(install, check=True)
    return folder
