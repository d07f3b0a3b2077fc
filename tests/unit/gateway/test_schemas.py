"""What is taken out of a request body, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.errors import InvalidRequest
from gateway.schemas import CompletionRequest, Shape, parse_completion, route_turns

CHAT, COMPLETION, RESPONSE = Shape.CHAT, Shape.COMPLETION, Shape.RESPONSE
USER = {"role": "user", "content": "hi"}
SMALLEST: dict[Shape, dict[str, Any]] = {
    CHAT: {"messages": [USER]},
    COMPLETION: {"prompt": "hi"},
    RESPONSE: {"input": "hi"},
}


def parse(shape: Shape, **fields: Any) -> CompletionRequest:
    return parse_completion(shape, {**SMALLEST[shape], **fields}, max_tokens=100)


@pytest.mark.parametrize("shape", Shape)
def test_the_smallest_request_of_each_shape(shape: Shape) -> None:
    wanted = parse(shape)
    assert (wanted.model, wanted.turns, wanted.stream, wanted.width) == (None, ("hi",), False, 1)
    assert wanted.body == SMALLEST[shape]


def test_unknown_fields_pass_untouched_and_the_given_body_is_not_changed() -> None:
    given = {"messages": [USER], "max_completion_tokens": 5, "grammar": "root ::= 'x'", "samplers": [1]}
    wanted = parse_completion(CHAT, given, max_tokens=100)
    assert wanted.body == {"messages": [USER], "max_tokens": 5, "grammar": "root ::= 'x'", "samplers": [1]}
    assert given["max_completion_tokens"] == 5


@pytest.mark.parametrize(
    ("shape", "fields", "turns"),
    [
        (
            CHAT,
            {"messages": [{"role": "system", "content": "s"}, USER, {"role": "assistant", "content": "a"}]},
            ("hi",),
        ),
        (CHAT, {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": []}, USER]}, ("hi", "hi")),
        (CHAT, {"messages": [{"role": "user", "content": " "}, USER]}, ("hi",)),
        (CHAT, {"messages": [{"role": "system", "content": "s"}]}, ()),
        (
            CHAT,
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "text", "text": "a"},
                            {"type": "image_url", "image_url": {"url": "x"}},
                            {"type": "text", "text": "b"},
                        ],
                    }
                ]
            },
            ("a\n\nb",),
        ),
        (COMPLETION, {"prompt": ["a", "b"]}, ("a\nb",)),
        (COMPLETION, {"prompt": [1, 2]}, ("",)),
        (RESPONSE, {"input": ["a", "b"]}, ("a", "b")),
        (RESPONSE, {"input": [{"content": "a"}, {"type": "function_call_output", "output": "1"}]}, ("a",)),
        (RESPONSE, {"input": [{"type": "message", "role": "user", "content": [{"text": "a"}]}]}, ("a",)),
    ],
)
def test_the_users_turns_are_found(shape: Shape, fields: dict[str, Any], turns: tuple[str, ...]) -> None:
    assert parse(shape, **fields).turns == turns


@pytest.mark.parametrize(
    ("shape", "fields", "width"),
    [
        (CHAT, {"n": 3}, 3),
        (CHAT, {"n": None}, 1),
        (COMPLETION, {"prompt": ["a", "b"], "n": 2}, 4),
        (COMPLETION, {"prompt": [[1, 2], [3]]}, 2),
        (COMPLETION, {"prompt": [1, 2, 3]}, 1),
    ],
)
def test_each_answer_needs_a_slot(shape: Shape, fields: dict[str, Any], width: int) -> None:
    assert parse(shape, **fields).width == width


@pytest.mark.parametrize(
    ("shape", "fields", "limit"),
    [
        (CHAT, {"max_tokens": 7}, {"max_tokens": 7}),
        (CHAT, {"max_tokens": 7, "max_completion_tokens": 5, "n_predict": 9}, {"max_tokens": 5}),
        (CHAT, {"n_predict": -1, "max_tokens": None}, {}),
        (COMPLETION, {"n_predict": 100}, {"max_tokens": 100}),
        (RESPONSE, {"max_output_tokens": 7}, {"max_output_tokens": 7}),
        (RESPONSE, {"max_tokens": 7}, {"max_tokens": 7}),
    ],
)
def test_the_output_limit_stands_under_one_name(shape: Shape, fields: dict[str, Any], limit: dict[str, int]) -> None:
    assert parse(shape, **fields).body == {**SMALLEST[shape], **limit}


@pytest.mark.parametrize(
    ("shape", "fields", "param", "says"),
    [
        (CHAT, {"messages": None}, "messages", "found nothing"),
        (CHAT, {"messages": []}, "messages", "an empty list"),
        (CHAT, {"messages": "hi"}, "messages", "a string"),
        (CHAT, {"messages": ["hi"]}, "messages[0]", "must be an object"),
        (CHAT, {"messages": [{"content": "hi"}]}, "messages[0].role", "found nothing"),
        (CHAT, {"messages": [USER, {"role": 1}]}, "messages[1].role", "a number"),
        (CHAT, {"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "a list of parts"),
        (CHAT, {"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content[0]", "must be an object"),
        (CHAT, {"messages": [{"role": "user", "content": [{"text": 1}]}]}, "messages[0].content", "must be a string"),
        (CHAT, {"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content", "not text"),
        (CHAT, {"model": 5}, "model", "found 5"),
        (CHAT, {"stream": "yes"}, "stream", "'yes'"),
        (CHAT, {"n": 0}, "n", "from 1 to 128"),
        (CHAT, {"n": True}, "n", "True"),
        (CHAT, {"n": 1.5}, "n", "1.5"),
        (CHAT, {"n": 129}, "n", "129"),
        (CHAT, {"max_tokens": 101}, "max_tokens", "from 1 to 100"),
        (CHAT, {"max_completion_tokens": 0}, "max_completion_tokens", "0"),
        (CHAT, {"n_predict": -2}, "n_predict", "-2"),
        (RESPONSE, {"max_output_tokens": 101}, "max_output_tokens", "101"),
        (CHAT, {"lora": []}, "lora", "'model'"),
        (CHAT, {"id_slot": 0}, "id_slot", "set by the gateway"),
        (CHAT, {"slot_id": 0}, "slot_id", "set by the gateway"),
        (CHAT, {"lora": -1}, "lora", "set by the gateway"),
        (COMPLETION, {"prompt": ""}, "prompt", "not empty"),
        (COMPLETION, {"prompt": []}, "prompt", "an empty list"),
        (COMPLETION, {"prompt": ["a", 1]}, "prompt", "a list"),
        (COMPLETION, {"prompt": {}}, "prompt", "an object"),
        (RESPONSE, {"input": 5}, "input", "a number"),
        (RESPONSE, {"input": " "}, "input", "no text"),
        (RESPONSE, {"input": []}, "input", "no text"),
        (RESPONSE, {"input": [{"role": "assistant", "content": "x"}]}, "input", "no text"),
    ],
)
def test_a_bad_field_is_named(shape: Shape, fields: dict[str, Any], param: str, says: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(shape, **fields)
    assert (caught.value.status, caught.value.param) == (400, param)
    assert says in caught.value.message


@pytest.mark.parametrize(
    "fields", [{"lora": None}, {"id_slot": None}, {"slot_id": None}, {"id_slot": -1}, {"slot_id": -1}]
)
def test_a_reserved_field_that_leaves_the_choice_to_us_is_no_mistake_and_goes_no_further(
    fields: dict[str, Any],
) -> None:
    parsed = parse(CHAT, **fields)
    assert parsed.turns == ("hi",)
    assert not fields.keys() & parsed.body.keys()


def test_a_client_may_forbid_the_reuse_of_its_prompt() -> None:
    assert parse(CHAT, cache_prompt=False).body["cache_prompt"] is False


@pytest.mark.parametrize("body", [None, [], "x", 5, True])
def test_a_body_that_is_no_object_is_refused(body: Any) -> None:
    for call in (lambda: parse_completion(CHAT, body, max_tokens=1), lambda: route_turns(body)):
        with pytest.raises(InvalidRequest, match="must be a JSON object"):
            call()


def opening(**fields: Any) -> str:
    return parse(CHAT, **fields).opening


def test_a_conversation_is_known_by_its_system_text_and_first_turn() -> None:
    answered = [USER, {"role": "assistant", "content": "yes"}, {"role": "user", "content": "and?"}]
    system = {"role": "system", "content": "s"}
    assert opening(messages=[USER]) == opening(messages=answered)
    assert opening(messages=[system, USER]) == opening(messages=[{**system, "role": "developer"}, USER])
    assert len({opening(messages=m) for m in ([USER], [system, USER], [{**USER, "content": "ho"}])}) == 3


@pytest.mark.parametrize(
    ("body", "turns"),
    [
        ({"input": "a"}, ("a",)),
        ({"input": ["a", "b"]}, ("a", "b")),
        ({"messages": [USER, {"role": "user", "content": "b"}]}, ("hi", "b")),
        ({"messages": None, "input": "a"}, ("a",)),
    ],
)
def test_a_dry_run_takes_messages_or_input(body: Any, turns: tuple[str, ...]) -> None:
    assert route_turns(body) == turns


@pytest.mark.parametrize(
    ("body", "param"),
    [({}, "input"), ({"input": ""}, "input"), ({"messages": [{"role": "system", "content": "s"}]}, "messages")],
)
def test_a_dry_run_without_text_is_refused(body: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        route_turns(body)
    assert caught.value.param == param
