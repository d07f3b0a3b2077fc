"""Every endpoint over ASGI: envelopes, headers, bodies. Backends and router are scripted; no socket is opened."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from starlette.types import ASGIApp
from unit.fakes import FakeEngine, FakeRouter, ManualClock, ScriptedBackend, chat_events, sse, write_expert_files

from gateway.app import create_app
from gateway.auth import Keyring, RateLimiter, load_keys
from gateway.context import Gateway
from gateway.engine import Engine
from gateway.errors import BackendUnavailable, ConfigError
from gateway.experts import ExpertRegistry, Rejected, load_expert
from gateway.label_log import LabelLog
from gateway.leases import LeasePool
from gateway.metrics import Metrics
from gateway.pace import Pace
from gateway.relay import Limits, Relay
from gateway.scheduler import Scheduler
from gateway.selection import Selection, Selector
from router import EmbeddingError, Router

CHAT = "/v1/chat/completions"
HELLO = {"messages": [{"role": "user", "content": "about baking"}]}
COMPLETIONS = {CHAT: HELLO, "/v1/completions": {"prompt": "about baking"}, "/v1/responses": {"input": "about baking"}}
POSTS = {**COMPLETIONS, "/v1/embeddings": {"input": "x"}, "/v1/route": {"input": "x"}}
ADMIN = {"authorization": "Bearer admin-secret"}


class World:
    """A gateway of fakes and a client of its app."""

    def __init__(self, tmp_path: Path, *scripts: Any, keys: str = "", **more: Any) -> None:
        experts = {
            "baking": load_expert(write_expert_files(tmp_path, "baking", **more.pop("baking", {})), None),
            "cycling": load_expert(write_expert_files(tmp_path, "cycling"), None),
        }
        self.registry = ExpertRegistry(experts, [Rejected("broken", "its hash is wrong")])
        self.backend = ScriptedBackend(*(scripts or (chat_events("Hello"),)))
        self.engine = FakeEngine({"b0": self.backend})
        self.router = FakeRouter(
            "baking", "cycling", failure=more.pop("failure", None), second=more.pop("second", False)
        )
        router = self.router if more.pop("routed", True) else None
        queue = more.pop("queue", 9)
        self.pool = LeasePool(
            Scheduler(pace=Pace(1.0), max_queue=queue, max_queue_per_client=more.pop("queue_per_client", queue))
        )
        self.pool.backend_up("b0", self.backend, slots=1, experts={"base", *experts})
        self.reloads = 0
        self.added: list[dict[str, Any]] = []
        facts: dict[str, Any] = {
            "encoder": "tiny-encoder",
            "max_body_bytes": 2000,
            "max_tokens": 100,
            "default_tokens": 50,
            "keep_alive_s": 30.0,
            "client_stall_s": 30.0,
            "thinking_off": False,
            "log_prompts": False,
            "started": 1000.0,
        }
        self.gateway = Gateway(
            registry=self.registry,
            selector=Selector(self.registry, cast("Router | None", router)),
            relay=Relay(self.pool, cast("Engine", self.engine), Limits(60.0, 60.0)),
            pool=self.pool,
            engine=cast("Engine", self.engine),
            metrics=Metrics(),
            keyring=Keyring(load_keys(None, keys), "admin-secret"),
            limiter=RateLimiter(more.pop("per_minute", 0), ManualClock()),
            reload=self._reload,
            add_backend=self._add_backend,
            **{**facts, **more},
        )
        self.app: ASGIApp = create_app(self.gateway)
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://gateway")

    async def _reload(self) -> dict[str, Any]:
        self.reloads += 1
        return {"experts": []}

    async def _add_backend(self, own: Mapping[str, Any]) -> str:
        if own.get("port") == 1:
            raise ConfigError("engine port 1 on 127.0.0.1 is taken")
        self.added.append(dict(own))
        return "embedded-2"

    async def post(self, path: str, body: Any = None, **more: Any) -> httpx.Response:
        if isinstance(body, bytes):
            return await self.client.post(path, content=body, **more)
        return await self.client.post(path, json=body, **more)

    def sent(self) -> dict[str, Any]:
        """The body that the backend got last."""
        return dict(self.backend.received[-1][1])


def error_of(response: httpx.Response, status: int, code: str | None) -> dict[str, Any]:
    """The error, after checking all that every error must have."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    body = response.json()
    assert list(body) == ["error"]
    error: dict[str, Any] = body["error"]
    assert list(error) == ["message", "type", "param", "code"]
    assert error["code"] == code
    assert error["message"]
    return error


# -- envelopes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "invalid_json"),
        (b"", 400, "invalid_json"),
        (b"[" * 1900, 400, "invalid_json"),
        (b"[]", 400, "invalid_request"),
        (b"{}", 400, "invalid_request"),
        (b" " * 2001, 413, "request_too_large"),
    ],
)
async def test_a_bad_body_is_an_envelope(tmp_path: Path, path: str, body: bytes, status: int, code: str) -> None:
    world = World(tmp_path)
    error = error_of(await world.post(path, body), status, code)
    assert error["type"] == "invalid_request_error"
    assert world.backend.received == []


@pytest.mark.parametrize("path", POSTS)
async def test_without_a_key_every_endpoint_is_401(tmp_path: Path, path: str) -> None:
    world = World(tmp_path, keys="secret")
    response = await world.post(path, POSTS[path])
    assert error_of(response, 401, "invalid_api_key")["type"] == "authentication_error"
    assert response.headers["www-authenticate"] == "Bearer"
    error_of(await world.post(path, POSTS[path], headers={"authorization": "Bearer wrong"}), 401, "invalid_api_key")


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/base"])
async def test_models_need_a_key_too(tmp_path: Path, path: str) -> None:
    world = World(tmp_path, keys="secret")
    error_of(await world.client.get(path), 401, "invalid_api_key")
    for headers in ({"authorization": "Bearer secret"}, {"x-api-key": "secret"}):
        assert (await world.client.get(path, headers=headers)).status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/admin/status"),
        ("GET", "/admin/experts"),
        ("POST", "/admin/experts/baking/enable"),
        ("POST", "/admin/experts/baking/disable"),
        ("POST", "/admin/reload"),
        ("GET", "/admin/backends"),
        ("POST", "/admin/backends"),
        ("POST", "/admin/backends/b0/drain"),
    ],
)
async def test_admin_needs_the_admin_key(tmp_path: Path, method: str, path: str) -> None:
    world = World(tmp_path, keys="secret")
    error_of(await world.client.request(method, path), 401, "invalid_api_key")
    error_of(await world.client.request(method, path, headers={"x-api-key": "secret"}), 403, "forbidden")
    assert (await world.client.request(method, path, headers=ADMIN)).is_success


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "not_found"),
        ("POST", "/v1/nothing", 404, "not_found"),
        ("GET", "/v1/models/a/b", 404, "not_found"),
        ("GET", "/v1/models/nobody", 404, "model_not_found"),
        ("GET", CHAT, 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("GET", "/docs", 404, "not_found"),
    ],
)
async def test_what_is_not_there_is_an_envelope(tmp_path: Path, method: str, path: str, status: int, code: str) -> None:
    response = await World(tmp_path).client.request(method, path)
    error_of(response, status, code)
    assert status != 405 or response.headers["allow"]


@pytest.mark.parametrize("path", COMPLETIONS)
@pytest.mark.parametrize("stream", [False, True])
async def test_an_unknown_model_is_404_streamed_or_not(tmp_path: Path, path: str, stream: bool) -> None:
    world = World(tmp_path)
    for model, says in (("nobody", "auto, base, baking, cycling"), ("broken", "its hash is wrong")):
        error = error_of(
            await world.post(path, {**COMPLETIONS[path], "model": model, "stream": stream}), 404, "model_not_found"
        )
        assert error["param"] == "model"
        assert says in error["message"]


@pytest.mark.parametrize("path", POSTS)
async def test_the_rate_limit_is_429_with_retry_after(tmp_path: Path, path: str) -> None:
    world = World(tmp_path, per_minute=1)
    await world.post(path, b"")
    response = await world.post(path, POSTS[path])
    assert error_of(response, 429, "rate_limit_exceeded")["type"] == "rate_limit_error"
    assert response.headers["retry-after"] == "60"


@pytest.mark.parametrize("stream", [False, True])
async def test_who_left_the_choice_to_us_is_routed_anew_when_the_expert_is_withdrawn(
    tmp_path: Path, stream: bool
) -> None:
    facts = {"generation": {"temperature": 0.0}, "system_prompt": "Speak of bread."}
    world = World(tmp_path, baking=facts)
    held = await world.pool.acquire("base", conversation="", client="other", wait_s=9)
    asking = asyncio.ensure_future(world.post(CHAT, {**HELLO, "stream": stream}))
    named = asyncio.ensure_future(world.post(CHAT, {**HELLO, "model": "baking", "stream": stream}))
    await _until(lambda: world.pool.scheduler.queued == 2)
    world.registry.set_enabled("baking", False)
    world.pool.withdraw("baking")
    await _until(lambda: world.pool.scheduler.queued == 1)
    held.release()
    response = await asking
    assert response.status_code == 200, response.text
    assert response.headers["x-pointsman-expert"] == "base"
    assert response.headers["x-pointsman-reason"] == "fallback"
    assert world.sent()["messages"] == HELLO["messages"], "nothing of the expert's is left in the request"
    assert "temperature" not in world.sent()
    error_of(await named, 404, "model_not_found")


async def test_who_was_told_which_expert_serves_while_another_was_looked_for_is_served_by_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looking takes time, in which the first comment and with it the headers may go out."""
    world = World(tmp_path, keep_alive_s=0.1)
    select, calls = world.gateway.selector.select, 0

    async def slow(*arguments: Any) -> Selection:
        nonlocal calls
        calls += 1
        if calls == 2:
            await asyncio.sleep(0.3)
        return await select(*arguments)

    monkeypatch.setattr(world.gateway.selector, "select", slow)
    held = await world.pool.acquire("base", conversation="", client="other", wait_s=9)
    asking = asyncio.ensure_future(world.post(CHAT, {**HELLO, "stream": True}))
    await _until(lambda: world.pool.scheduler.queued == 1)
    world.registry.set_enabled("baking", False)
    world.pool.withdraw("baking")
    response = await asking
    held.release()
    assert response.headers["x-pointsman-expert"] == "baking"
    assert '"code": "model_not_found"' in response.text
    assert not world.backend.received


@pytest.mark.parametrize("path", COMPLETIONS)
async def test_a_full_queue_is_429_with_retry_after(tmp_path: Path, path: str) -> None:
    world = World(tmp_path, queue=1)
    held = await world.pool.acquire("base", conversation="", client="other", wait_s=9)
    world.pool.retire("b0")
    waiting = asyncio.ensure_future(world.pool.acquire("base", conversation="", client="other", wait_s=9))
    await asyncio.sleep(0)
    response = await world.post(path, COMPLETIONS[path])
    error_of(response, 429, "queue_full")
    assert response.headers["retry-after"] == "1"
    waiting.cancel()
    held.release()


async def test_a_key_that_floods_is_turned_away_and_another_is_served_in_its_turn(tmp_path: Path) -> None:
    world = World(tmp_path, keys="loud,quiet", queue=100, queue_per_client=4)
    held = await world.pool.acquire("base", conversation="", client="other", wait_s=9)
    served: list[str] = []

    async def ask(key: str) -> httpx.Response:
        response = await world.post(CHAT, {**HELLO, "model": "base"}, headers={"authorization": f"Bearer {key}"})
        served.append(key if response.status_code == 200 else "refused")
        return response

    flood = [asyncio.ensure_future(ask("loud")) for _ in range(10)]
    await _until(lambda: served.count("refused") == 6)
    quiet = asyncio.ensure_future(ask("quiet"))
    await _until(lambda: world.pool.scheduler.queued == 5)
    flood += [asyncio.ensure_future(ask("loud")) for _ in range(10)]
    await _until(lambda: served.count("refused") == 16)
    held.release()
    assert (await quiet).status_code == 200
    answers = await asyncio.gather(*flood)
    assert served.index("quiet") <= 16 + 4  # behind no more than the flood's places in the queue
    for answer in answers:
        if answer.status_code != 200:
            error_of(answer, 429, "client_queue_full")
            assert answer.headers["retry-after"]


async def _until(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not check():  # noqa: ASYNC110
            await asyncio.sleep(0)


@pytest.mark.parametrize("path", COMPLETIONS)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_bug_is_500_with_an_id_and_tells_nothing(tmp_path: Path, path: str, stream: bool) -> None:
    world = World(tmp_path, KeyError("hidden detail"))
    response = await world.post(path, {**COMPLETIONS[path], "stream": stream}, headers={"origin": "http://a"})
    error = error_of(response, 500, "internal_error")
    assert error["type"] == "server_error"
    assert "hidden" not in response.text
    assert response.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_backend_that_cannot_be_reached_is_502_before_the_stream(tmp_path: Path, stream: bool) -> None:
    world = World(tmp_path, BackendUnavailable("refused"))
    world.backend.healthy = True
    error_of(await world.post(CHAT, {**HELLO, "stream": stream}), 502, "backend_unavailable")


async def test_more_answers_than_slots_is_400(tmp_path: Path) -> None:
    assert error_of(await World(tmp_path).post(CHAT, {**HELLO, "n": 2}), 400, "invalid_request")["param"] == "n"


# -- completions --------------------------------------------------------------------------------------------------

FACTS = {"requested-model": "auto", "expert": "baking", "reason": "routed", "score": "0.9", "backend": "b0"}


async def test_a_plain_answer_is_one_body_with_the_facts_beside_it(tmp_path: Path) -> None:
    world = World(tmp_path)
    response = await world.post(CHAT, HELLO)
    assert response.status_code == 200
    assert repr(world.pool) == "<LeasePool queued=0 leases=0 waiters=0 swaps=0>"
    body = response.json()
    assert (body["object"], body["model"]) == ("chat.completion", "baking")
    assert body["choices"][0]["message"]["content"] == "Hello"
    assert body["pointsman"]["expert"] == "baking"
    headers = {name: response.headers[f"x-pointsman-{name}"] for name in FACTS}
    assert headers == FACTS
    assert {"x-pointsman-queue-ms", "x-pointsman-route-ms", "x-request-id"} <= set(response.headers)


async def test_a_streamed_answer_is_events_with_the_same_headers(tmp_path: Path) -> None:
    world = World(tmp_path)
    response = await world.post(CHAT, {**HELLO, "stream": True})
    assert response.headers["content-type"] == "text/event-stream"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    assert {name: response.headers[f"x-pointsman-{name}"] for name in FACTS} == FACTS
    events = response.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert json.loads(events[0].removeprefix("data: "))["pointsman"]["expert"] == "baking"
    assert repr(world.pool) == "<LeasePool queued=0 leases=0 waiters=0 swaps=0>"


async def test_a_named_expert_has_no_score(tmp_path: Path) -> None:
    response = await World(tmp_path).post(CHAT, {**HELLO, "model": "cycling"})
    assert response.headers["x-pointsman-reason"] == "named"
    assert "x-pointsman-score" not in response.headers
    assert response.json()["model"] == "cycling"


async def test_an_early_end_is_an_error_event_streamed_and_502_plain(tmp_path: Path) -> None:
    broken = chat_events("x")[:2]
    world = World(tmp_path, broken)
    assert '"code": "backend_unavailable"' in (await world.post(CHAT, {**HELLO, "stream": True})).text
    error_of(await world.post(CHAT, HELLO), 502, "backend_unavailable")


@pytest.mark.parametrize(
    ("path", "script", "object_"),
    [
        (
            "/v1/completions",
            [sse({"choices": [{"index": 0, "text": "x", "finish_reason": "stop"}]})],
            "text_completion",
        ),
        ("/v1/responses", [sse({"type": "response.completed", "response": {"object": "response"}})], "response"),
    ],
)
async def test_the_other_shapes_answer_too(tmp_path: Path, path: str, script: Sequence[bytes], object_: str) -> None:
    world = World(tmp_path, script)
    response = await world.post(path, COMPLETIONS[path])
    assert (response.json()["object"], response.json()["model"]) == (object_, "baking")
    assert world.backend.received[0][0] == path


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({}, {"temperature": 0, "max_tokens": 20}),
        ({"temperature": 1, "max_tokens": 5}, {"temperature": 1, "max_tokens": 5}),
        ({"temperature": None, "max_tokens": None}, {"temperature": 0, "max_tokens": 20}),
        ({"model": "cycling"}, {"max_tokens": 50}),
        ({"model": "base", "max_completion_tokens": 7}, {"max_tokens": 7}),
    ],
)
async def test_what_the_client_left_out_comes_from_the_expert_then_the_gateway(
    tmp_path: Path, given: dict[str, Any], sent: dict[str, Any]
) -> None:
    world = World(tmp_path, baking={"generation": {"temperature": 0, "max_tokens": 20}})
    await world.post(CHAT, {**HELLO, **given})
    ignored = ("messages", "model", "stream_options")
    assert {key: value for key, value in world.sent().items() if key not in ignored} == sent


@pytest.mark.parametrize("role", ["system", "developer"])
async def test_an_experts_system_prompt_gives_way_to_the_clients(tmp_path: Path, role: str) -> None:
    world = World(tmp_path, baking={"system_prompt": "You bake."})
    await world.post(CHAT, HELLO)
    assert world.sent()["messages"] == [{"role": "system", "content": "You bake."}, *HELLO["messages"]]
    messages = [{"role": role, "content": "mine"}, *HELLO["messages"]]
    await world.post(CHAT, {"messages": messages})
    assert world.sent()["messages"] == messages


async def test_thinking_is_off_unless_the_client_says_otherwise(tmp_path: Path) -> None:
    world = World(tmp_path, thinking_off=True)
    await world.post(CHAT, HELLO)
    assert world.sent()["chat_template_kwargs"] == {"enable_thinking": False}
    await world.post(CHAT, {**HELLO, "chat_template_kwargs": {"enable_thinking": True, "x": 1}})
    assert world.sent()["chat_template_kwargs"] == {"enable_thinking": True, "x": 1}


# -- models, route, embeddings ------------------------------------------------------------------------------------


async def test_models_are_auto_base_then_the_enabled_experts(tmp_path: Path) -> None:
    world = World(tmp_path)
    body = (await world.client.get("/v1/models")).json()
    assert body["object"] == "list"
    assert [row["id"] for row in body["data"]] == ["auto", "base", "baking", "cycling"]
    assert all({"id", "object", "created", "owned_by"} <= set(row) for row in body["data"])
    assert body["data"][0]["created"] == 1000
    assert (await world.client.get("/v1/models/baking")).json() == body["data"][2]
    await world.post("/admin/experts/baking/disable", headers=ADMIN)
    body = (await world.client.get("/v1/models")).json()
    assert [row["id"] for row in body["data"]] == ["auto", "base", "cycling"]
    error_of(await world.post(CHAT, {**HELLO, "model": "baking"}), 404, "model_not_found")


async def test_a_dry_run_shows_the_decision_and_touches_no_backend(tmp_path: Path) -> None:
    world = World(tmp_path)
    body = (await world.post("/v1/route", {"input": "about cycling"})).json()
    assert body.pop("route_ms") >= 0
    assert body == {
        "object": "route",
        "expert": "cycling",
        "reason": "routed",
        "score": 0.9,
        "threshold": 0.5,
        "scores": {"cycling": 0.9, "baking": 0.1},
        "second": False,
    }
    assert list((await world.post("/v1/route", {"input": "about cycling"})).json()["scores"]) == ["cycling", "baking"]
    assert (await world.post("/v1/route", HELLO)).json()["expert"] == "baking"
    assert (await world.post("/v1/route", {"input": "hello"})).json()["reason"] == "fallback"
    assert world.backend.received == []


async def test_what_the_second_router_decided_is_said_and_counted(tmp_path: Path) -> None:
    world = World(tmp_path, second=True)
    assert (await world.post("/v1/route", {"input": "about cycling"})).json()["second"] is True
    assert (await world.post("/v1/route", {"input": "hello"})).json()["second"] is True
    assert "pointsman_second_readings_total 2.0" in (await world.client.get("/metrics")).text
    assert (await world.post(CHAT, {**HELLO, "model": "baking"})).status_code == 200
    assert "pointsman_second_readings_total 2.0" in (await world.client.get("/metrics")).text


async def test_a_dry_run_says_that_the_router_failed(tmp_path: Path) -> None:
    world = World(tmp_path, failure=EmbeddingError("no encoder"))
    assert (await world.post("/v1/route", {"input": "x"})).json()["note"] == "router failed: no encoder"


async def test_embeddings_are_floats_unless_base64_is_asked_for(tmp_path: Path) -> None:
    world = World(tmp_path)
    body = (await world.post("/v1/embeddings", {"input": ["ab", "c"]})).json()
    assert body == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [2.0, 0.5]},
            {"object": "embedding", "index": 1, "embedding": [1.0, 0.5]},
        ],
        "model": "tiny-encoder",
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    }
    body = (await world.post("/v1/embeddings", {"input": "ab", "encoding_format": "base64"})).json()
    assert struct.unpack("<2f", base64.b64decode(body["data"][0]["embedding"])) == (2.0, 0.5)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input"),
        ({"input": [1, 2]}, "input"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
        ({"input": "a", "dimensions": 5}, "dimensions"),
    ],
)
async def test_a_bad_embedding_request_names_the_field(tmp_path: Path, body: dict[str, Any], param: str) -> None:
    assert error_of(await World(tmp_path).post("/v1/embeddings", body), 400, "invalid_request")["param"] == param


async def test_too_many_texts_are_refused(tmp_path: Path) -> None:
    world = World(tmp_path, max_body_bytes=100_000)
    error = error_of(await world.post("/v1/embeddings", {"input": ["a"] * 2049}), 400, "invalid_request")
    assert "2049" in error["message"]


async def test_embeddings_without_an_encoder_or_with_a_failing_one_are_503(tmp_path: Path) -> None:
    error_of(await World(tmp_path / "a", routed=False).post("/v1/embeddings", {"input": "x"}), 503, "no_encoder")
    world = World(tmp_path / "b", failure=EmbeddingError("the router is closed"))
    error_of(await world.post("/v1/embeddings", {"input": "x"}), 503, "encoder_failed")


# -- ids, CORS ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path"), [("GET", "/health"), ("GET", "/nothing"), ("POST", CHAT)])
async def test_a_plain_request_id_is_echoed_and_any_other_replaced(tmp_path: Path, method: str, path: str) -> None:
    client = World(tmp_path).client
    response = await client.request(method, path, headers={"x-request-id": "my-id_1.2:3"})
    assert response.headers.get_list("x-request-id") == ["my-id_1.2:3"]
    both = await client.request(method, path, headers=[("x-request-id", "the-proxy"), ("x-request-id", "other")])
    assert both.headers.get_list("x-request-id") == ["the-proxy"]
    for given in ("", "two words", "x" * 129, 'quo"te'):
        made = (await client.request(method, path, headers={"x-request-id": given})).headers["x-request-id"]
        assert made.startswith("req_")
        assert len(made) == 36


async def test_a_preflight_needs_no_key_and_allows_what_it_asks_for(tmp_path: Path) -> None:
    headers = {
        "origin": "http://a",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,x-stainless-os",
    }
    response = await World(tmp_path, keys="secret").client.options(CHAT, headers=headers)
    assert response.status_code in (200, 204)
    assert response.headers["access-control-allow-origin"] == "*"
    assert "x-stainless-os" in response.headers["access-control-allow-headers"]
    assert "POST" in response.headers["access-control-allow-methods"]


async def test_a_browser_may_read_our_headers_on_answers_and_errors(tmp_path: Path) -> None:
    world = World(tmp_path)
    for body in (HELLO, {}):
        response = await world.post(CHAT, body, headers={"origin": "http://a"})
        exposed = response.headers["access-control-expose-headers"]
        assert all(name in exposed for name in ("x-request-id", "retry-after", "x-pointsman-expert"))


@pytest.mark.parametrize("origin", [{}, {"origin": "http://a"}])
async def test_a_cache_between_is_told_that_a_page_gets_other_headers(tmp_path: Path, origin: dict[str, str]) -> None:
    world = World(tmp_path)
    for response in (await world.post(CHAT, HELLO, headers=origin), await world.post(CHAT, {}, headers=origin)):
        allowed = response.headers.get("access-control-allow-origin")
        assert allowed == ("*" if origin else None)
        assert origin or response.headers.get_list("vary") == ["Origin"]


# -- health, metrics, admin ---------------------------------------------------------------------------------------


async def test_health_and_readiness(tmp_path: Path) -> None:
    world = World(tmp_path, keys="secret")
    assert (await world.client.get("/health")).json()["status"] == "ok"
    assert (await world.client.get("/ready")).status_code == 200
    world.engine.ready = False
    assert (await world.client.get("/ready")).status_code == 503


async def test_a_dry_run_explains_itself_when_asked_to(tmp_path: Path) -> None:
    world = World(tmp_path)
    plain = (await world.post("/v1/route", {"input": "about cycling", "explain": False})).json()
    body = (await world.post("/v1/route", {"input": "about cycling", "explain": True})).json()
    explanation = body.pop("explanation")
    assert "explanation" not in plain
    assert {**body, "route_ms": 0} == {**plain, "route_ms": 0}
    assert (explanation["why"], explanation["margin"], explanation["turns"]) == ("because of its name", 0.8, 1)
    assert explanation["nearest"][0] == {"text": "text 0", "route": None, "cosine": 0.5}
    error_of(await world.post("/v1/route", {"input": "x", "explain": "yes"}), 400, "invalid_request")


async def test_texts_near_the_threshold_are_kept_for_labelling_and_dry_runs_are_not(tmp_path: Path) -> None:
    label_log = LabelLog(tmp_path / "near.jsonl", band=0.35, max_bytes=16384)
    world = World(tmp_path, label_log=label_log)
    for text in ("hello", "about cycling"):  # 0.2 and 0.9, the threshold is 0.5
        await world.post(CHAT, {"messages": [{"role": "user", "content": text}]})
    await world.post(CHAT, {**HELLO, "model": "baking"})
    await world.post("/v1/route", {"input": "hello"})
    label_log.close()
    (line,) = (tmp_path / "near.jsonl").read_text().splitlines()
    row = json.loads(line)
    assert (row["text"], row["expert"], row["served"], row["score"]) == ("hello", "?", "base", 0.2)


async def test_metrics_count_what_was_answered(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.post(CHAT, {"messages": [{"role": "user", "content": "hello"}]})
    await world.post(CHAT, HELLO)
    await world.post(CHAT, {**HELLO, "stream": True})
    await world.post(CHAT, {**HELLO, "model": "nobody"})
    text = (await world.client.get("/metrics")).text
    for line in (
        f'pointsman_requests_total{{endpoint="{CHAT}",expert="baking",status="200"}} 2.0',
        f'pointsman_requests_total{{endpoint="{CHAT}",expert="none",status="404"}} 1.0',
        f'pointsman_errors_total{{code="model_not_found",endpoint="{CHAT}"}} 1.0',
        'pointsman_decisions_total{expert="baking",reason="routed"} 2.0',
        'pointsman_route_score_bucket{expert="baking",le="0.85"} 1.0',
        'pointsman_route_score_bucket{expert="baking",le="0.9"} 3.0',
        'pointsman_route_abstentions_total{expert="baking"} 1.0',
        'pointsman_tokens_total{expert="baking",type="completion"} 10.0',
        'pointsman_active_expert{backend="b0",expert="baking"} 1.0',
        "pointsman_requests_in_flight 0.0",
        'pointsman_experts{state="rejected"} 1.0',
    ):
        assert line in text
    assert "nobody" not in text


async def test_admin_shows_and_switches_experts(tmp_path: Path) -> None:
    world = World(tmp_path)
    body = (await world.client.get("/admin/experts", headers=ADMIN)).json()
    assert [(row["name"], row["enabled"]) for row in body["experts"]] == [("baking", True), ("cycling", True)]
    assert body["rejected"] == [{"name": "broken", "reason": "its hash is wrong"}]
    response = await world.post("/admin/experts/baking/disable", headers=ADMIN)
    assert response.json() == {"name": "baking", "enabled": False}
    assert not world.registry.is_enabled("baking")
    await world.post("/admin/experts/baking/enable", headers=ADMIN)
    assert world.registry.is_enabled("baking")
    error_of(await world.post("/admin/experts/nobody/enable", headers=ADMIN), 404, "model_not_found")
    status = (await world.client.get("/admin/status", headers=ADMIN)).json()
    assert status["router"] == {"routes": ["baking", "cycling"], "threshold": 0.5, "encoder": "tiny-encoder"}
    await world.post("/admin/reload", headers=ADMIN)
    assert world.reloads == 1


async def test_admin_adds_and_drains_backends(tmp_path: Path) -> None:
    world = World(tmp_path)
    rows = (await world.client.get("/admin/backends", headers=ADMIN)).json()["backends"]
    assert [row["name"] for row in rows] == ["b0"]
    response = await world.post("/admin/backends", {"slots": 2}, headers=ADMIN)
    assert (response.status_code, response.json(), world.added) == (201, {"name": "embedded-2"}, [{"slots": 2}])
    assert (await world.post("/admin/backends", b"", headers=ADMIN)).status_code == 201
    response = await world.post("/admin/backends/b0/drain", headers=ADMIN)
    assert response.json() == {"name": "b0", "retiring": True}
    assert world.engine.drained == ["b0"]


@pytest.mark.parametrize(
    ("body", "code"), [(b"{", "invalid_request"), (b"[]", "invalid_request"), (b'{"port": 1}', "config_error")]
)
async def test_a_backend_that_cannot_be_added_is_a_400(tmp_path: Path, body: bytes, code: str) -> None:
    world = World(tmp_path)
    error_of(await world.post("/admin/backends", body, headers=ADMIN), 400, code)
    assert world.added == []
