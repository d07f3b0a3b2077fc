"""Streams that live through changes: a reload, a shutdown, the engine's death."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from processes import ENGINES, GatewayProcess, eventually, native_server
from tiny_experts import EXPERTS_DIR, write_expert

from gateway.base import BaseIdentity
from gateway.routing import read_examples

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]


def sdk(gateway: GatewayProcess) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="unused", max_retries=0, timeout=250)


class Streaming(threading.Thread):
    """A client in the middle of a stream: reads in a thread, keeps what came and how it ended."""

    def __init__(self, gateway: GatewayProcess, model: str, tokens: int) -> None:
        super().__init__(daemon=True)
        self.chunks: list[Any] = []
        self.error: Exception | None = None
        self._gateway, self._model, self._tokens = gateway, model, tokens
        self.start()
        eventually(lambda: len(self.chunks) > 2 or self.error, 100, "the stream's first chunks")
        assert self.error is None, self.error

    def run(self) -> None:
        try:
            with sdk(self._gateway) as client:
                for chunk in client.chat.completions.create(
                    model=self._model,
                    messages=HELLO,
                    stream=True,
                    max_tokens=self._tokens,
                    extra_body={"ignore_eos": True},
                ):
                    self.chunks.append(chunk)
        except Exception as error:
            self.error = error

    @property
    def whole(self) -> bool:
        """Whether it ended as a complete answer does."""
        return self.error is None and bool(self.chunks) and self.chunks[-1].choices[0].finish_reason == "length"


@pytest.mark.timeout(600)
def test_a_new_expert_is_picked_up_while_a_stream_runs(
    make_gateway: Callable[..., GatewayProcess], base_identity: BaseIdentity, tmp_path: Path
) -> None:
    experts = tmp_path / "experts"

    def publish(name: str, seed: int) -> None:
        examples = read_examples(EXPERTS_DIR / name / "examples.jsonl")
        write_expert(experts, name, base_identity, seed=seed, examples=examples)

    publish("baking", 1)
    publish("cycling", 2)
    with make_gateway(experts={"dir": str(experts)}, engine={"ctx_per_slot": 4096}) as gateway:
        stream = Streaming(gateway, "baking", 1500)
        publish("gardening", 3)
        with ThreadPoolExecutor(1) as pool:
            reloading = pool.submit(gateway.admin, "POST", "reload")
            eventually(lambda: len(gateway.status()["backends"]) == 2, 200, "a second backend")
            assert stream.is_alive(), "the stream ended before the replacement came, so this proves nothing"
            answer = reloading.result()
        assert answer["experts"] == ["baking", "cycling", "gardening"]
        assert answer["engine_replaced"] is True
        with sdk(gateway) as client:
            question = "How often should I water the tomato plants in my garden?"
            routed = client.chat.completions.create(
                model="auto", messages=[{"role": "user", "content": question}], max_tokens=2
            )
            assert routed.model == "gardening"
        stream.join(300)
        assert stream.whole, stream.error
        eventually(lambda: len(gateway.status()["backends"]) == 1, 20, "the old backend's end")
        again = gateway.admin("POST", "reload")
        assert again["engine_replaced"] is False


@pytest.mark.timeout(600)
def test_sigterm_lets_running_streams_finish_and_refuses_the_queue(make_gateway: Callable[..., GatewayProcess]) -> None:
    with make_gateway(server={"shutdown_s": 200}) as gateway:
        streams = [Streaming(gateway, "baking", 400) for _ in range(2)]
        queued: list[httpx.Response] = []
        body = {"model": "cycling", "messages": HELLO, "max_tokens": 1}

        def wait_in_the_queue() -> None:
            queued.append(httpx.post(f"{gateway.url}/v1/chat/completions", json=body, timeout=200))

        waiter = threading.Thread(target=wait_in_the_queue, daemon=True)
        waiter.start()
        eventually(lambda: gateway.status()["queued"].get("cycling"), 20, "a queued request")
        gateway.process.send_signal(signal.SIGTERM)
        waiter.join(20)
        assert queued, "the queued request was not answered at once"
        assert queued[0].status_code == 503
        assert queued[0].json()["error"]["code"] == "shutting_down"
        assert all(stream.is_alive() for stream in streams)
        for stream in streams:
            stream.join(250)
            assert stream.whole, stream.error
        assert gateway.wait_ended() == 0


@pytest.mark.timeout(600)
def test_sigterm_ends_streams_with_an_error_event_when_the_limit_has_passed(
    make_gateway: Callable[..., GatewayProcess],
) -> None:
    with make_gateway(server={"shutdown_s": 1}) as gateway:
        stream = Streaming(gateway, "baking", 1500)
        engine = gateway.engine_pid()
        gateway.process.send_signal(signal.SIGTERM)
        assert gateway.wait_ended(30) == 0
        stream.join(10)
        assert isinstance(stream.error, openai.APIError), stream.error
        assert not Path(f"/proc/{engine}").exists()


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.timeout(600)
def test_a_killed_engine_gives_a_clean_error_event_and_comes_back(
    make_gateway: Callable[..., GatewayProcess], kind: str
) -> None:
    with make_gateway(engine={"kind": kind, "binary": native_server() or ""}) as gateway:
        stream = Streaming(gateway, "baking", 1500)
        plain: list[httpx.Response] = []
        body = {"model": "baking", "messages": HELLO, "max_tokens": 600, "ignore_eos": True}

        def ask_plainly() -> None:
            plain.append(httpx.post(f"{gateway.url}/v1/chat/completions", json=body, timeout=250))

        waiting = threading.Thread(target=ask_plainly, daemon=True)
        waiting.start()
        eventually(lambda: len(gateway.status()["leases"]) == 2, 60, "a second lease")
        time.sleep(1)  # amid its tokens, which its client does not see
        engine = gateway.engine_pid()
        os.kill(engine, signal.SIGKILL)
        killed = time.monotonic()
        stream.join(10)
        assert isinstance(stream.error, openai.APIError), stream.error
        assert not isinstance(stream.error, openai.APIConnectionError), "the connection broke; an event was due"
        assert time.monotonic() - killed < 5
        waiting.join(250)
        assert plain[0].status_code in (200, 502), "200: it had sent nothing yet, and was tried again"
        if plain[0].status_code == 502:
            assert plain[0].json()["error"].keys() == {"message", "type", "param", "code"}
        with sdk(gateway) as client:
            answer = client.chat.completions.create(model="baking", messages=HELLO, max_tokens=2)
        assert answer.model == "baking"
        status = gateway.status()
        assert status["restarts"] == 1
        assert status["backends"][0]["pid"] != engine
        eventually(gateway.at_rest, 5, "a gateway at rest")


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.timeout(600)
def test_a_killed_gateway_takes_its_engine_with_it(make_gateway: Callable[..., GatewayProcess], kind: str) -> None:
    with make_gateway(engine={"kind": kind, "binary": native_server() or ""}) as gateway:
        engine = gateway.engine_pid()
        gateway.process.kill()
        gateway.process.wait()
        eventually(lambda: not Path(f"/proc/{engine}").exists(), 10, "the engine's end")
