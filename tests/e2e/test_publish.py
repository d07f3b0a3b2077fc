"""Publishing while the gateway serves: the new version answers, no request fails, no stream is dropped."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from measured_runs import make_measured_run
from processes import ADMIN_KEY, GatewayProcess, eventually
from tiny_experts import EXPERTS_DIR, write_adapter, write_expert

from gateway.base import BaseIdentity
from gateway.routing import read_examples
from training.__main__ import main

PROMISE_S = 30
"""A published expert answers within so many seconds; a busy machine that runs tests is given more."""
PATIENCE_S = 240
QUESTION: list[Any] = [{"role": "user", "content": "Which telescope should I buy to see the rings of Saturn?"}]


class Load:
    """Clients that ask without a pause, streamed; remembers every answer that was not whole."""

    def __init__(self, gateway: GatewayProcess, models: tuple[str, ...]) -> None:
        self.failures: list[str] = []
        self.answers = dict.fromkeys(models, 0)
        self._gateway = gateway
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(model,), daemon=True) for model in models]

    @contextmanager
    def running(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stopping.set()
            for thread in self._threads:
                thread.join(PATIENCE_S)
        assert not any(thread.is_alive() for thread in self._threads), "a stream hangs"

    def _ask(self, model: str) -> None:
        with sdk(self._gateway) as client:
            while not self._stopping.is_set():
                try:
                    self._one(client, model)
                except openai.OpenAIError as error:
                    self.failures.append(f"{model}: {error!r}")

    def _one(self, client: openai.OpenAI, model: str) -> None:
        reason = None
        for chunk in client.chat.completions.create(model=model, messages=QUESTION, stream=True, max_tokens=24):
            reason = chunk.choices[0].finish_reason if chunk.choices else reason
        if reason is None:
            self.failures.append(f"{model}: a stream without an end")
        self.answers[model] += 1


def sdk(gateway: GatewayProcess) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="unused", max_retries=0, timeout=PATIENCE_S)


Likely = dict[str, float]
"""Log-probabilities of the likeliest first tokens: an adapter's mark, which texts are not while others compute."""


def ask(gateway: GatewayProcess, model: str) -> tuple[str, Likely]:
    """Return the expert that served, and its mark."""
    with sdk(gateway) as client:
        answer = client.chat.completions.create(
            model=model, messages=QUESTION, max_tokens=1, temperature=0, logprobs=True, top_logprobs=8
        )
    assert answer.choices[0].logprobs is not None
    assert answer.choices[0].logprobs.content is not None
    return answer.model, {each.token: each.logprob for each in answer.choices[0].logprobs.content[0].top_logprobs}


def distance(one: Likely, other: Likely) -> float:
    """Compare two marks, in nats; a token that is likely in one alone counts as unlikely as can be in the other."""
    unlikely = -20.0
    tokens = one.keys() | other.keys()
    return sum(abs(one.get(token, unlikely) - other.get(token, unlikely)) for token in tokens) / len(tokens)


@pytest.mark.timeout(900)
def test_versions_come_and_go_under_load(
    make_gateway: Callable[..., GatewayProcess],
    base_identity: BaseIdentity,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("GATEWAY_ADMIN_KEY", ADMIN_KEY)
    experts = tmp_path / "experts"
    for seed, name in enumerate(("baking", "cycling"), 1):
        examples = read_examples(EXPERTS_DIR / name / "examples.jsonl")[:40]
        write_expert(experts, name, base_identity, seed=seed, examples=examples)
    with make_gateway(experts={"dir": str(experts)}) as gateway:
        load = Load(gateway, ("auto", "baking", "base"))

        def command(*words: str) -> str:
            places = ["--experts-dir", str(experts), "--gateway", gateway.url]
            assert main([*words, *places]) == 0
            return capsys.readouterr().out

        def publish(seed: int, strength: float) -> tuple[Likely, float]:
            run = make_measured_run(
                tmp_path / "runs",
                expert="stargazing",
                adapter=write_adapter(tmp_path / f"{seed}.gguf", seed, strength).read_bytes(),
                base=base_identity.model_dump(),
                examples=read_examples(EXPERTS_DIR / "stargazing" / "examples.jsonl")[:40],
            )
            started = time.monotonic()
            assert "serves baking, cycling, stargazing" in command("publish", str(run.folder))
            mark = ask(gateway, "stargazing")[1]
            return mark, time.monotonic() - started

        def version() -> str:
            served = gateway.admin("GET", "experts")["experts"]
            return str(next(expert["version"] for expert in served if expert["name"] == "stargazing"))

        with load.running():
            eventually(lambda: all(load.answers.values()), PATIENCE_S, "answers for every client")
            first, took_s = publish(3, strength=0.6)
            print(f"published and answered within {took_s:.1f} s; promised: {PROMISE_S} s")
            assert took_s < PATIENCE_S
            assert version() == "1.0.0"
            assert ask(gateway, "auto")[0] == "stargazing", "the router was not refitted"
            second, _ = publish(4, strength=2.0)  # nothing like the first
            assert version() == "1.0.1"
            assert "stargazing is 1.0.0 again" in command("rollback", "stargazing")
            assert version() == "1.0.0"
            third = ask(gateway, "stargazing")[1]
            assert distance(third, first) < distance(third, second), "another adapter is served than is said"
            seen = dict(load.answers)
            eventually(lambda: all(load.answers[m] > seen[m] for m in seen), PATIENCE_S, "answers after the changes")
        assert load.failures == []
