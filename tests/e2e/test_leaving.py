"""A client that leaves, in whatever state, frees its place, its lease and its slot within a second.

The engine runs by itself here (``engine.kind: url``), so that its ``/slots`` can be asked too.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from processes import ENGINES, GatewayProcess, engine_child, eventually, free_port

from gateway.experts import Expert
from gateway.process import LaunchSpec

KEY = "leaving-engine-key"
WITHIN_S = 1.0

Leaving = tuple[GatewayProcess, Callable[[], list[int]]]


@pytest.fixture(scope="module", params=ENGINES)
def stage(
    request: pytest.FixtureRequest,
    base_gguf: Path,
    tiny_experts: list[Expert],
    encoder_dir: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Leaving, int]]:
    """The gateway, which slots its engine works on, and the engine's process id."""
    folder = tmp_path_factory.mktemp("leaving")
    adapters = tuple(str(expert.adapter_path) for expert in tiny_experts)
    spec = LaunchSpec(
        str(base_gguf),
        adapters,
        "127.0.0.1",
        free_port("127.0.0.1"),
        2,
        4096,
        1,
        0,
        "pointsman-base",
        batch_tokens=64,
        api_key=KEY,
    )
    with engine_child(spec, folder / "engine.log", request.param) as (url, pid):

        def busy() -> list[int]:
            rows = httpx.get(f"{url}/slots", headers={"authorization": f"Bearer {KEY}"}, timeout=60).json()
            return [row["id"] for row in rows if row["is_processing"]]

        settings = {
            "engine": {"kind": "url", "url": url},
            "experts": {"dir": str(tiny_experts[0].directory.parent)},
            "scheduler": {"queue_timeout_s": 200},
        }
        with GatewayProcess(folder, settings, {"GATEWAY_ENGINE_API_KEY": KEY}) as gateway:
            yield (gateway, busy), pid


@pytest.fixture
def leaving(stage: tuple[Leaving, int]) -> Leaving:
    return stage[0]


def body(model: str, stream: bool, text: str = "Count to a thousand.", tokens: int = 3000) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"model": model, "messages": messages, "stream": stream, "max_tokens": tokens, "ignore_eos": True}


@contextlib.contextmanager
def asking(gateway: GatewayProcess, request: dict[str, Any]) -> Iterator[httpx.Client]:
    """A request under way in a thread; closing the client's socket is how it leaves."""
    client = httpx.Client(timeout=250)

    def ask() -> None:
        url = f"{gateway.url}/v1/chat/completions"
        gone = contextlib.suppress(httpx.HTTPError, OSError, RuntimeError)
        with gone, client.stream("POST", url, json=request) as response:
            for _ in response.iter_raw():
                pass

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        yield client
    finally:
        _hang_up(client)
        thread.join(20)
        client.close()


def _hang_up(client: httpx.Client) -> None:
    """Close the socket under the client: ``close`` would wait for the reading thread."""
    pool = client._transport._pool  # type: ignore[attr-defined]
    for connection in pool.connections:
        stream = connection._connection._network_stream
        stream._sock.shutdown(2)


def everything_free(gateway: GatewayProcess, busy: Callable[[], list[int]]) -> bool:
    return gateway.at_rest() and not busy()


@pytest.mark.parametrize("stream", [True, False])
def test_while_tokens_come(leaving: Leaving, stream: bool) -> None:
    gateway, busy = leaving
    with asking(gateway, body("baking", stream)):
        eventually(busy, 60, "a slot at work")
        time.sleep(0.5)
    eventually(lambda: everything_free(gateway, busy), WITHIN_S, "everything free", every_s=0.02)


@pytest.mark.parametrize("stream", [True, False])
def test_while_the_prompt_is_read(leaving: Leaving, stream: bool) -> None:
    gateway, busy = leaving
    text = " ".join(f"word {number} of a long text," for number in range(300)) + str(stream)
    with asking(gateway, body("cycling", stream, text)):
        eventually(busy, 60, "a slot at work")
        time.sleep(0.1)
    eventually(gateway.at_rest, WITHIN_S, "no lease, no place in the queue", every_s=0.02)
    # The engine looks whether its client is there after a second without any result, a slot's or an answer to /slots:
    # asking more often than that would keep it from looking.
    time.sleep(2)
    eventually(lambda: not busy(), 30, "an idle engine", every_s=2.5)


@pytest.mark.parametrize("stream", [True, False])
def test_while_queued_for_another_expert(leaving: Leaving, stream: bool) -> None:
    gateway, busy = leaving
    with asking(gateway, body("baking", True)):
        eventually(busy, 60, "a slot at work")
        with asking(gateway, body("gardening", stream)):
            eventually(lambda: gateway.status()["queued"].get("gardening") == 1, 10, "a place in the queue")
        eventually(lambda: not gateway.status()["queued"].get("gardening"), WITHIN_S, "an empty queue", every_s=0.02)
        assert len(gateway.status()["leases"]) == 1
    eventually(lambda: everything_free(gateway, busy), WITHIN_S, "everything free", every_s=0.02)


@pytest.mark.parametrize("stream", [True, False])
def test_while_its_expert_is_made_the_active_one(stage: tuple[Leaving, int], stream: bool) -> None:
    """The engine is stopped for a moment, so that the swap takes as long as we like."""
    (gateway, busy), engine = stage
    active = gateway.status()["active"]["url-1"]
    other = next(name for name in ("baking", "cycling") if name != active)
    os.kill(engine, signal.SIGSTOP)
    try:
        with asking(gateway, body(other, stream, tokens=1)):
            eventually(lambda: gateway.status()["queued"].get(other) == 1, 10, "a swap")
            assert gateway.status()["leases"] == []
        eventually(gateway.at_rest, WITHIN_S, "no lease, no place in the queue", every_s=0.02)
    finally:
        os.kill(engine, signal.SIGCONT)
    answer = httpx.post(f"{gateway.url}/v1/chat/completions", json=body(other, False, tokens=1), timeout=200)
    assert answer.json()["model"] == other
    eventually(lambda: everything_free(gateway, busy), WITHIN_S, "everything free", every_s=0.02)


def test_a_crowd_that_leaves_at_once_leaves_nothing_behind(leaving: Leaving) -> None:
    gateway, busy = leaving
    with contextlib.ExitStack() as crowd:
        for number in range(12):
            name = ("base", "baking", "cycling", "stargazing")[number % 4]
            crowd.enter_context(asking(gateway, body(name, number % 2 == 0)))
        eventually(lambda: sum(gateway.status()["queued"].values()) >= 6, 60, "a queue")
    eventually(lambda: everything_free(gateway, busy), 5, "everything free")
    answer = httpx.post(f"{gateway.url}/v1/chat/completions", json=body("base", False, tokens=1), timeout=200)
    assert answer.status_code == 200
    left = gateway.metric("pointsman_requests_total", status="499")
    assert left >= 12
