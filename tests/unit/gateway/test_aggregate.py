"""Streams put together into plain answers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.fakes import chat_events, sse

from gateway.aggregate import Aggregate, event_data
from gateway.errors import BackendUnavailable
from gateway.schemas import Shape

FACTS = {"expert": "baking"}


def choice(delta: dict[str, Any], finish: str | None = None, *, index: int = 0, **more: Any) -> bytes:
    return sse(
        {"choices": [{"index": index, "delta": delta, "finish_reason": finish, **more}], "id": "x", "created": 7}
    )


def whole(shape: Shape, *events: bytes) -> dict[str, Any]:
    aggregate = Aggregate(shape)
    for event in events:
        aggregate.add(event)
    return aggregate.body("baking", FACTS)


def message(*events: bytes) -> dict[str, Any]:
    found: dict[str, Any] = whole(Shape.CHAT, *events)["choices"][0]["message"]
    return found


def test_a_chat_answer_is_openais_body_with_every_required_null() -> None:
    assert whole(Shape.CHAT, *chat_events("Hello")) == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 7,
        "model": "baking",
        "choices": [
            {
                "message": {"role": "assistant", "content": "Hello", "refusal": None},
                "index": 0,
                "finish_reason": "stop",
                "logprobs": None,
            }
        ],
        "timings": {"cache_n": 3, "prompt_n": 4, "predicted_n": 5, "predicted_ms": 50.0},
        "pointsman": FACTS,
    }


def test_tool_calls_come_in_pieces_and_in_parallel() -> None:
    def piece(index: int, **function: str) -> dict[str, Any]:
        return {"index": index, "function": function}

    calls = [
        {**piece(0, name="f", arguments=""), "id": "call_0", "type": "function"},
        piece(0, arguments='{"x":'),
        {**piece(1, name="g", arguments="{}"), "id": "call_1", "type": "function"},
        piece(0, arguments=" 1}"),
    ]
    made = message(*(choice({"tool_calls": [call]}) for call in calls), choice({}, "tool_calls"))
    assert made["content"] is None
    assert made["tool_calls"] == [
        {"id": "call_0", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}},
        {"id": "call_1", "type": "function", "function": {"name": "g", "arguments": "{}"}},
    ]


def test_reasoning_stays_apart_from_content() -> None:
    made = message(
        choice({"role": "assistant", "content": None, "reasoning_content": "h"}),
        choice({"reasoning_content": "m"}),
        choice({"content": "yes"}, "stop"),
    )
    assert made == {"role": "assistant", "content": "yes", "refusal": None, "reasoning_content": "hm"}


def test_logprobs_are_joined() -> None:
    body = whole(
        Shape.CHAT,
        choice({"content": "a"}, logprobs={"content": [{"token": "a"}]}),
        choice({"content": "b"}, logprobs={"content": [{"token": "b"}]}),
        choice({}, "stop", logprobs=None),
    )
    assert body["choices"][0]["logprobs"] == {"content": [{"token": "a"}, {"token": "b"}]}


def test_several_answers_are_kept_apart_and_in_order() -> None:
    body = whole(
        Shape.CHAT,
        choice({"content": "b"}, index=1),
        choice({"content": "a"}, index=0),
        choice({"content": "B"}, "length", index=1),
        choice({}, "stop", index=0),
    )
    found = [(c["index"], c["message"]["content"], c["finish_reason"]) for c in body["choices"]]
    assert found == [(0, "a", "stop"), (1, "bB", "length")]


def test_usage_from_the_last_chunk_without_choices_is_kept() -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    body = whole(Shape.CHAT, choice({"content": "a"}, "stop"), sse({"choices": [], "usage": usage}))
    assert body["usage"] == usage


def test_a_completion_is_text() -> None:
    parts = [{"index": 0, "text": "a", "finish_reason": None}, {"index": 0, "text": "b", "finish_reason": "stop"}]
    body = whole(Shape.COMPLETION, *(sse({"choices": [part], "id": "x", "model": "theirs"}) for part in parts))
    assert body["object"] == "text_completion"
    assert body["model"] == "baking"
    assert body["choices"] == [{"text": "ab", "index": 0, "finish_reason": "stop", "logprobs": None}]


@pytest.mark.parametrize("kind", ["response.completed", "response.incomplete"])
def test_a_response_is_the_one_in_its_last_event(kind: str) -> None:
    last = {"type": kind, "response": {"id": "r", "model": "theirs", "output": [1]}, "timings": {"n": 1}}
    body = whole(
        Shape.RESPONSE,
        b"event: response.created\n" + sse({"type": "response.created", "response": {"id": "r"}}),
        b"event: " + kind.encode() + b"\n" + sse(last),
    )
    assert body == {"id": "r", "model": "baking", "output": [1], "timings": {"n": 1}, "pointsman": FACTS}


@pytest.mark.parametrize(
    ("shape", "events"),
    [
        (Shape.CHAT, []),
        (Shape.CHAT, [b": ping\n\n", b"data: [DONE]\n\n"]),
        (Shape.CHAT, [choice({"content": "a"})]),
        (Shape.CHAT, [choice({"content": "a"}, "stop"), choice({"content": "b"}, index=1)]),
        (Shape.RESPONSE, [sse({"type": "response.created", "response": {"id": "r"}})]),
    ],
)
def test_an_answer_that_ended_early_is_an_error(shape: Shape, events: list[bytes]) -> None:
    with pytest.raises(BackendUnavailable, match="before it was complete"):
        whole(shape, *events)


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (b": ping\n\n", None),
        (b"data: [DONE]\n\n", None),
        (b"event: x\n\n", None),
        (b"event: x\ndata: {}\n\n", {}),
        (b'data: {"a":\ndata: 1}\n\n', {"a": 1}),
        (b"data:[1]\n\n", [1]),
    ],
)
def test_the_data_of_an_event(event: bytes, data: Any) -> None:
    assert event_data(event) == data


def test_data_that_is_not_json_is_the_backends_fault() -> None:
    with pytest.raises(BackendUnavailable, match="not JSON"):
        event_data(b"data: {oops\n\n")


# -- events that are alike but for their text ---------------------------------------------------------------------

TEXTS = st.one_of(st.text(max_size=4), st.sampled_from(['"', "\\", '\\"', "\n", '"}}]', '","content":"', "é", ""]))
DELTAS = st.one_of(
    TEXTS.map(lambda text: {"content": text}),
    TEXTS.map(lambda text: {"reasoning_content": text}),
    TEXTS.map(lambda text: {"content": text, "reasoning_content": text}),
    st.sampled_from([{"role": "assistant"}, {"role": "assistant", "content": None}, {}]),
)
CHUNKS = st.tuples(DELTAS, st.sampled_from([0, 0, 0, 1]), st.sampled_from([7, 7, 7, 8]), st.booleans())


@given(st.lists(CHUNKS), st.sampled_from([Shape.CHAT, Shape.COMPLETION]), st.booleans())
def test_events_alike_give_what_each_gives_when_it_is_read(
    chunks: list[tuple[dict[str, Any], int, int, bool]], shape: Shape, together: bool
) -> None:
    def event(delta: dict[str, Any], index: int, created: int, odd: bool, finish: str | None = None) -> dict[str, Any]:
        own = {"delta": delta} if shape is Shape.CHAT else {"text": delta.get("content")}
        logprobs = {"logprobs": {"content": [1]}} if odd and finish is None and index else {}
        return {
            "choices": [{"finish_reason": finish, "index": index, **own, **logprobs}],
            "created": created,
            "id": "x",
        }

    data = [event(*chunk) for chunk in chunks] + [event({}, index, 9, False, "stop") for index in (0, 1)]
    compact = [sse(one) for one in data]
    spaced = [b"data: " + json.dumps(one).encode() + b"\n\n" for one in data]  # so that no two are seen to be alike
    assert whole(shape, *([b"".join(compact)] if together else compact)) == whole(shape, *spaced)


def test_only_what_differs_in_its_text_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    read = 0

    def counted(event: bytes) -> Any:
        nonlocal read
        read += 1
        return event_data(event)

    monkeypatch.setattr("gateway.aggregate.event_data", counted)
    assert message(*(choice({"content": f" {n}"}) for n in range(100)), choice({}, "stop"))["content"] == "".join(
        f" {n}" for n in range(100)
    )
    assert read == 2


def test_a_text_that_json_does_not_allow_is_the_backends_fault() -> None:
    good = choice({"content": "good"})
    with pytest.raises(BackendUnavailable, match="not JSON"):
        message(good, good.replace(b"good", b"\x01"), choice({}, "stop"))


def test_a_text_elsewhere_in_an_event_is_not_taken_for_the_answers() -> None:
    def event(other: str) -> bytes:
        return sse({"content": other, "choices": [{"index": 0, "delta": {"content": "a"}}]})

    assert message(event("x"), event("y"), choice({}, "stop"))["content"] == "aa"
