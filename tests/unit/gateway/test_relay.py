"""From a backend's events to the client's: what is changed in them, what is noticed, and what follows a failure."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any, cast

import pytest
from unit.fakes import FakeEngine, ScriptedBackend, chat_events, sse

from gateway.aggregate import event_data
from gateway.engine import Engine
from gateway.errors import (
    BackendError,
    BackendRefused,
    BackendTimeout,
    BackendUnavailable,
    GatewayError,
    InvalidRequest,
    LeaseTimeout,
)
from gateway.leases import LeasePool
from gateway.pace import Pace
from gateway.relay import Answer, Limits, Relay, error_event
from gateway.scheduler import Scheduler
from gateway.schemas import Shape, parse_completion
from gateway.selection import Selection

DONE = b"data: [DONE]\n\n"
NOTHING_HELD = "<LeasePool queued=0 leases=0 waiters=0 swaps=0>"
BODIES: dict[Shape, dict[str, Any]] = {
    Shape.CHAT: {"messages": [{"role": "user", "content": "hi"}]},
    Shape.COMPLETION: {"prompt": "hi"},
    Shape.RESPONSE: {"input": "hi"},
}
SELECTION = Selection("auto", "baking", "routed", 0.9, 0.001, {})


class World:
    def __init__(self, *backends: ScriptedBackend, limits: Limits | None = None) -> None:
        self.engine = FakeEngine({f"b{number}": backend for number, backend in enumerate(backends)})
        self.pool = LeasePool(Scheduler(pace=Pace(1.0), max_queue=9, max_queue_per_client=9))
        for name, backend in self.engine.backends.items():
            self.pool.backend_up(name, backend, slots=1, experts={"base", "baking"})
        self.relay = Relay(self.pool, cast("Engine", self.engine), limits or Limits(60.0, 60.0))

    async def begin(self, shape: Shape = Shape.CHAT, **fields: Any) -> Answer:
        wanted = parse_completion(shape, {**BODIES[shape], **fields}, max_tokens=10)
        return await self.relay.begin(wanted, SELECTION, client="me")


async def read_all(answer: Answer) -> list[bytes]:
    got = []
    while events := await answer.read():
        got.append(events)
    return got


async def relayed(
    *events: bytes | Exception | None, shape: Shape = Shape.CHAT, alias: str = "their-base"
) -> list[bytes]:
    world = World(ScriptedBackend(list(events), alias=alias))
    answer = await world.begin(shape)
    got = await read_all(answer)
    await answer.aclose()
    await answer.aclose()
    assert repr(world.pool) == NOTHING_HELD
    return got


async def test_every_event_carries_the_experts_name_and_the_first_our_facts() -> None:
    got = await relayed(*chat_events("Hello"))
    datas = [event_data(event) for event in got[:-1]]
    assert {data["model"] for data in datas} == {"baking"}
    assert ["pointsman" in data for data in datas] == [True] + [False] * (len(datas) - 1)
    facts = datas[0]["pointsman"]
    assert {**facts, "queue_ms": 0, "route_ms": 0} == {
        "requested_model": "auto",
        "expert": "baking",
        "reason": "routed",
        "score": 0.9,
        "route_ms": 0,
        "backend": "b0",
        "queue_ms": 0,
    }
    assert got[-1] == DONE


@pytest.mark.parametrize(
    "text",
    ['"model":"their-base"', '{"model":"their-base"}', "data: {", '","model":"their-base', '"content":null', "ü\\"],
)
async def test_what_the_model_says_is_never_changed(text: str) -> None:
    head = {"id": "x", "model": "their-base"}
    chunks = [
        sse({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}], **head}),
        sse({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], **head}),
        DONE,
    ]
    got = await relayed(*chunks)
    first = event_data(got[0])
    assert first["choices"][0]["delta"]["content"] == text
    assert first["model"] == "baking"
    assert got[1] == chunks[1].replace(b"their-base", b"baking")


async def test_an_alias_that_needs_escaping_is_replaced_too() -> None:
    got = await relayed(*chat_events("x", model='m"ü'), alias='m"ü')
    assert {event_data(event)["model"] for event in got[:-1]} == {"baking"}


async def test_comments_pass_untouched_and_do_not_take_the_facts() -> None:
    comment = b': "model":"their-base" data: {\n\n'
    got = await relayed(comment, *chat_events("x"))
    assert got[0] == comment
    assert "pointsman" in event_data(got[1])


async def test_events_with_a_name_are_marked_in_their_data() -> None:
    created = b"event: response.created\n" + sse({"type": "response.created", "response": {"model": "their-base"}})
    done = b"event: response.completed\n" + sse({"type": "response.completed", "response": {"model": "their-base"}})
    got = await relayed(created, done, shape=Shape.RESPONSE)
    assert got[0].startswith(b'event: response.created\ndata: {"pointsman":{')
    assert event_data(got[0])["response"]["model"] == "baking"
    assert got[1] == done.replace(b"their-base", b"baking")


# -- what is noticed ----------------------------------------------------------------------------------------------


def delta(**fields: Any) -> bytes:
    return sse({"choices": [{"index": 0, "delta": fields, "finish_reason": None}]})


@pytest.mark.parametrize(
    ("event", "token"),
    [
        (delta(role="assistant", content=None), False),
        (delta(), False),
        (b": ping\n\n", False),
        (b"event: x\n" + sse({"type": "response.created"}), False),
        (delta(content="a"), True),
        (delta(reasoning_content="a"), True),
        (delta(tool_calls=[{"index": 0}]), True),
        (delta(content=None, reasoning_content="a"), True),
        (delta(content=None, tool_calls=[{"index": 0}]), True),
        (sse({"choices": [{"index": 0, "text": "a", "finish_reason": None}]}), True),
        (b"event: x\n" + sse({"type": "response.output_text.delta", "delta": "a"}), True),
    ],
)
async def test_the_first_token_is_told_from_what_comes_before_it(event: bytes, token: bool) -> None:
    answer = await World(ScriptedBackend([event, None])).begin()
    await answer.read()
    assert (answer.outcome.first_token_s is not None) is token
    await answer.aclose()


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
async def test_events_that_arrive_together_are_passed_on_together_and_are_the_same(size: int) -> None:
    alone = [*chat_events("Hello")[:3], b": ping\n\n", *chat_events("Hello")[3:]]
    pieces = [b"".join(alone[at : at + size]) for at in range(0, len(alone), size)]
    got = await relayed(*pieces)
    assert len(got) == len(pieces)
    ours = [event.replace(b'"model":"their-base"', b'"model":"baking"') for event in alone]
    whole = b"".join(got)
    facts = whole[whole.index(b'"pointsman":{') : whole.index(b"},", whole.index(b'"pointsman":{')) + 2]
    assert whole.replace(facts, b"", 1) == b"".join(ours)


async def test_an_error_event_behind_others_lets_them_through_first() -> None:
    first, second, *_ = chat_events("Hello")
    broken = sse({"error": {"code": 500, "message": "broke", "type": "server_error"}})
    got = await relayed(first + second + broken + second)
    assert got[0].endswith(second.replace(b"their-base", b"baking"))
    assert json.loads(got[1].removesuffix(DONE).removeprefix(b"data: "))["error"]["code"] == "backend_error"
    assert len(got) == 2


async def test_tokens_and_times_are_counted_from_the_last_timings() -> None:
    answer = await World(ScriptedBackend(chat_events("Hello"))).begin()
    body = await answer.whole()
    await answer.aclose()
    outcome = answer.outcome
    counts = (outcome.cached_tokens, outcome.prompt_tokens, outcome.completion_tokens, outcome.decode_s)
    assert counts == (3, 7, 5, 0.05)
    assert outcome.finished
    assert body["model"] == "baking"
    assert body["pointsman"] == answer.facts


async def test_the_request_reaches_the_leased_slot_with_its_expert() -> None:
    backend = ScriptedBackend(chat_events("x"))
    answer = await World(backend).begin(stream=True)
    await answer.whole()
    await answer.aclose()
    assert backend.received == [(Shape.CHAT.value, {**BODIES[Shape.CHAT], "stream": True}, "baking", 0)]
    assert backend.active == "baking"
    assert backend.streams[0].closed == 1


@pytest.mark.parametrize(
    ("shape", "stream", "asked"),
    [
        (Shape.CHAT, False, True),
        (Shape.COMPLETION, False, True),
        (Shape.RESPONSE, False, False),
        (Shape.CHAT, True, False),
    ],
)
async def test_usage_is_asked_for_when_the_client_wants_a_plain_answer(shape: Shape, stream: bool, asked: bool) -> None:
    backend = ScriptedBackend(chat_events("x"))
    answer = await World(backend).begin(shape, stream=stream)
    await answer.aclose()
    assert backend.received[0][1].get("stream_options") == ({"include_usage": True} if asked else None)


# -- failures after the first byte --------------------------------------------------------------------------------

BROKEN: list[tuple[list[bytes | Exception | None], str]] = [
    ([BackendUnavailable("gone")], "backend_unavailable"),
    ([BackendTimeout("stalled")], "backend_timeout"),
    ([], "backend_unavailable"),
    ([DONE], "backend_unavailable"),
    ([sse({"error": {"code": 500, "message": "broke", "type": "server_error"}})], "backend_error"),
    ([sse({"error": {"code": 400, "message": "no", "type": "invalid_request_error"}})], "invalid_request_error"),
]


@pytest.mark.parametrize(("rest", "code"), BROKEN)
async def test_a_failure_after_the_first_byte_is_an_error_event_then_the_end(
    rest: list[bytes | Exception | None], code: str
) -> None:
    first = chat_events("x")[0]
    got = await relayed(first, *rest)
    assert got[-1].endswith(DONE)
    error = json.loads(got[-1].removesuffix(DONE).removeprefix(b"data: "))["error"]
    assert error["code"] == code
    assert set(error) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(("rest", "code"), BROKEN)
async def test_the_same_failure_of_a_plain_answer_is_raised(rest: list[bytes | Exception | None], code: str) -> None:
    world = World(ScriptedBackend([chat_events("x")[0], *rest]))
    answer = await world.begin()
    with pytest.raises(BackendError) as caught:
        await answer.whole()
    assert caught.value.code == code
    await answer.aclose()
    assert repr(world.pool) == NOTHING_HELD


async def test_a_request_over_its_time_ends_with_an_error_event() -> None:
    world = World(ScriptedBackend([chat_events("x")[0], None]), limits=Limits(0.02, 60.0))
    answer = await world.begin()
    got = await read_all(answer)
    assert b'"code": "request_timeout"' in got[-1]
    await answer.aclose()
    assert repr(world.pool) == NOTHING_HELD


@pytest.mark.parametrize("shape", [Shape.CHAT, Shape.COMPLETION])
def test_an_error_event_is_openais_envelope_and_the_end(shape: Shape) -> None:
    error = InvalidRequest("what", param="n")
    assert error_event(error, shape) == b"data: " + json.dumps(error.body()).encode() + b"\n\n" + DONE


def test_an_error_event_of_a_response_is_its_own_type() -> None:
    event = error_event(InvalidRequest("what", param="n"), Shape.RESPONSE)
    assert event.startswith(b"event: error\ndata: ")
    assert event_data(event) == {
        "type": "error",
        "code": "invalid_request",
        "message": "what",
        "param": "n",
        "sequence_number": 0,
    }


# -- failures before it: rule 8 -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "script",
    [
        BackendUnavailable("refused"),
        BackendTimeout("silent"),
        [],
        [BackendUnavailable("broke")],
        [sse({"error": {"code": 503, "message": "loading"}})],
    ],
)
@pytest.mark.parametrize("healthy", [True, False])
async def test_rule_8_a_failure_before_the_first_byte_is_tried_again(
    script: Sequence[bytes] | Exception, healthy: bool
) -> None:
    backend = ScriptedBackend(script, chat_events("x"))
    backend.healthy = healthy
    world = World(backend)
    answer = await world.begin()
    assert (await answer.whole())["choices"][0]["message"]["content"] == "x"
    await answer.aclose()
    assert world.engine.failures == ([] if healthy else ["b0"])
    assert repr(world.pool) == NOTHING_HELD


async def test_rule_8_three_failures_are_enough() -> None:
    backend = ScriptedBackend(BackendUnavailable("refused"))
    world = World(backend)
    with pytest.raises(BackendUnavailable, match="refused"):
        await world.begin()
    assert len(backend.received) == 3
    assert repr(world.pool) == NOTHING_HELD


@pytest.mark.parametrize(
    "failure",
    [BackendRefused("too long", status=400), BackendError("500"), KeyError("what")],
    ids=["4xx", "5xx", "bug"],
)
async def test_what_another_try_cannot_mend_is_raised_at_once(failure: Exception) -> None:
    backend = ScriptedBackend(failure)
    world = World(backend)
    with pytest.raises(type(failure)):
        await world.begin()
    assert len(backend.received) == 1
    assert world.engine.failures == []
    assert repr(world.pool) == NOTHING_HELD


async def test_a_request_over_its_time_before_the_first_byte_is_not_tried_again() -> None:
    backend = ScriptedBackend([None])
    world = World(backend, limits=Limits(0.02, 60.0))
    with pytest.raises(BackendTimeout) as caught:
        await world.begin()
    assert (caught.value.status, caught.value.code, len(backend.received)) == (504, "request_timeout", 1)
    assert backend.streams[0].closed == 1
    assert repr(world.pool) == NOTHING_HELD


async def test_a_backend_that_went_away_after_the_grant_is_another_try() -> None:
    world = World(ScriptedBackend(chat_events("x")))
    del world.engine.backends["b0"]
    with pytest.raises(BackendUnavailable, match="went away"):
        await world.begin()
    assert repr(world.pool) == NOTHING_HELD


async def test_no_lease_in_time_is_503() -> None:
    world = World(limits=Limits(60.0, 0.01))
    with pytest.raises(LeaseTimeout):
        await world.begin()
    assert repr(world.pool) == NOTHING_HELD


@pytest.mark.parametrize("rounds", range(12))
async def test_a_client_gone_at_any_moment_leaves_nothing_held(rounds: int) -> None:
    backend = ScriptedBackend([None])
    world = World(backend)
    begun = asyncio.ensure_future(world.begin())
    for _ in range(rounds):
        await asyncio.sleep(0)
    begun.cancel()
    with pytest.raises(asyncio.CancelledError):
        await begun
    for _ in range(5):
        await asyncio.sleep(0)
    assert repr(world.pool) == NOTHING_HELD
    assert [stream.closed for stream in backend.streams] in ([], [1])


def test_the_errors_of_a_relay_are_gateway_errors() -> None:
    assert issubclass(BackendError, GatewayError)
