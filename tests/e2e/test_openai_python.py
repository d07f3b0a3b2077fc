"""The official Python SDK as its users call it: plain, streamed, and its own exceptions."""

from __future__ import annotations

import math
from typing import Any

import openai
import pytest

HELLO: list[Any] = [{"role": "user", "content": "Say hello."}]


def ask(question: str) -> list[Any]:
    return [{"role": "user", "content": question}]


def check_facts(facts: Any, *, requested: str, expert: str, reason: str) -> None:
    assert (facts["requested_model"], facts["expert"], facts["reason"]) == (requested, expert, reason)
    assert facts["queue_ms"] >= 0
    assert facts["backend"].startswith("embedded-")
    if reason == "named":
        assert facts["score"] is None
    else:
        assert 0 <= facts["score"] <= 1


# -- chat ---------------------------------------------------------------------------------------------------------


def test_a_plain_chat_is_routed_and_says_by_whom_it_was_served(
    client: openai.OpenAI, expert: str, question: str
) -> None:
    raw = client.chat.completions.with_raw_response.create(model="auto", messages=ask(question), max_tokens=4)
    answer = raw.parse()
    reason = "fallback" if expert == "base" else "routed"
    assert answer.model == expert
    assert answer.model_extra is not None
    check_facts(answer.model_extra["pointsman"], requested="auto", expert=expert, reason=reason)
    assert raw.headers["x-pointsman-requested-model"] == "auto"
    assert raw.headers["x-pointsman-expert"] == expert
    assert raw.headers["x-pointsman-reason"] == reason
    assert 0 <= float(raw.headers["x-pointsman-score"]) <= 1
    assert float(raw.headers["x-pointsman-queue-ms"]) >= 0
    assert float(raw.headers["x-pointsman-route-ms"]) > 0
    assert raw.headers["x-pointsman-backend"].startswith("embedded-")
    assert raw.headers["x-request-id"] == answer._request_id
    assert answer.object == "chat.completion"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert 1 <= answer.usage.completion_tokens <= 4


def test_a_streamed_chat_names_its_expert_on_every_chunk(client: openai.OpenAI, expert: str, question: str) -> None:
    chunks = list(
        client.chat.completions.create(
            model="auto", messages=ask(question), max_tokens=4, stream=True, stream_options={"include_usage": True}
        )
    )
    assert {chunk.model for chunk in chunks} == {expert}
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].model_extra is not None
    reason = "fallback" if expert == "base" else "routed"
    check_facts(chunks[0].model_extra["pointsman"], requested="auto", expert=expert, reason=reason)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == ["length"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 4


def test_plain_and_streamed_give_the_same_greedy_answer(client: openai.OpenAI) -> None:
    same: dict[str, Any] = {"model": "gardening", "messages": HELLO, "max_tokens": 8, "temperature": 0}
    plain = client.chat.completions.create(**same).choices[0].message.content
    streamed = "".join(c.choices[0].delta.content or "" for c in client.chat.completions.create(**same, stream=True))
    assert plain == streamed


def test_the_streaming_helper_accepts_the_stream(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="base", messages=HELLO, max_tokens=200, temperature=0) as stream:
        answer = stream.get_final_completion()
    assert answer.choices[0].message.content


def test_experts_and_base_differ_under_their_names(client: openai.OpenAI) -> None:
    answers = {}
    for name in ("base", "baking", "cycling", "gardening", "stargazing"):
        answer = client.chat.completions.create(model=name, messages=HELLO, max_tokens=24, temperature=0)
        assert answer.model == name
        assert answer.model_extra is not None
        check_facts(answer.model_extra["pointsman"], requested=name, expert=name, reason="named")
        answers[name] = answer.choices[0].message.content
    assert len(set(answers.values())) == 5, answers


def test_a_follow_up_stays_with_its_expert(client: openai.OpenAI) -> None:
    messages = [
        *ask("How do I keep slugs off the lettuce in my vegetable garden?"),
        {"role": "assistant", "content": "Beer traps work."},
        {"role": "user", "content": "And after that?"},
    ]
    answer = client.chat.completions.create(model="auto", messages=messages, max_tokens=2)
    assert answer.model == "gardening"
    assert answer.model_extra is not None
    assert answer.model_extra["pointsman"]["reason"] == "sticky"


def test_two_choices_come_from_one_request(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="base", messages=HELLO, max_tokens=3, n=2, temperature=1, seed=1)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert all(choice.finish_reason for choice in answer.choices)


def test_logprobs_and_json_schema_pass_through(client: openai.OpenAI) -> None:
    schema = {"name": "n", "schema": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}}
    answer = client.chat.completions.create(
        model="base",
        messages=ask("Give me a number."),
        max_tokens=24,
        temperature=0,
        logprobs=True,
        top_logprobs=2,
        response_format={"type": "json_schema", "json_schema": schema},  # type: ignore[arg-type]
    )
    assert (answer.choices[0].message.content or "").lstrip().startswith("{")
    assert answer.choices[0].logprobs is not None
    assert answer.choices[0].logprobs.content
    assert all(len(row.top_logprobs) == 2 for row in answer.choices[0].logprobs.content)


# -- the other endpoints ------------------------------------------------------------------------------------------


def test_completions_plain_and_streamed(client: openai.OpenAI) -> None:
    same: dict[str, Any] = {"model": "baking", "prompt": "Flour, water and", "max_tokens": 5, "temperature": 0}
    plain = client.completions.create(**same)
    chunks = list(client.completions.create(**same, stream=True))
    assert plain.model == "baking"
    assert plain.object == "text_completion"
    assert {chunk.model for chunk in chunks} == {"baking"}
    assert plain.usage is not None
    assert plain.usage.completion_tokens == 5
    assert plain.choices[0].text == "".join(c.choices[0].text for c in chunks if c.choices)


def test_responses_plain_and_streamed(client: openai.OpenAI) -> None:
    same: dict[str, Any] = {"model": "cycling", "input": "Say hello.", "max_output_tokens": 5, "temperature": 0}
    plain = client.responses.create(**same)
    assert plain.model == "cycling"
    assert plain.output_text
    assert plain.usage is not None
    assert plain.usage.output_tokens == 5
    events = list(client.responses.create(**same, stream=True))
    assert events[0].type == "response.created"
    assert events[-1].type in ("response.completed", "response.incomplete")
    assert events[-1].response.model == "cycling"
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == plain.output_text


def test_embeddings_are_the_same_as_floats_and_as_base64(client: openai.OpenAI) -> None:
    texts = ["a red apple", "a green apple", "the stock exchange"]
    floats = client.embeddings.create(model="any", input=texts, encoding_format="float")
    default = client.embeddings.create(model="any", input=texts)  # the SDK asks for base64 by itself
    assert [row.index for row in floats.data] == [0, 1, 2]
    one, two, three = (row.embedding for row in floats.data)
    assert math.isclose(math.hypot(*one), 1, abs_tol=1e-3)
    assert math.dist(one, two) < math.dist(one, three)
    for row, other in zip(floats.data, default.data, strict=True):
        assert row.embedding == pytest.approx(other.embedding, abs=1e-6)
    assert floats.usage.prompt_tokens > 0


def test_models_are_auto_base_and_the_experts(client: openai.OpenAI) -> None:
    models = [model.id for model in client.models.list()]
    assert models == ["auto", "base", "baking", "cycling", "gardening", "stargazing"]
    assert client.models.retrieve("cycling").owned_by == "pointsman"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")


# -- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_an_unknown_model_is_not_found(client: openai.OpenAI, stream: bool) -> None:
    with pytest.raises(openai.NotFoundError, match="nobody") as caught:
        client.chat.completions.create(model="nobody", messages=HELLO, stream=stream)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert caught.value.request_id


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_too_long_says_so_in_code_and_message(client: openai.OpenAI, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError, match="prompt is too long") as caught:
        client.chat.completions.create(model="base", messages=ask("word " * 5000), stream=stream)
    assert caught.value.code == "context_length_exceeded"
    assert "context_length_exceeded" in caught.value.message


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": "hi"}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": HELLO, "max_tokens": 0}, "max_tokens"),
        ({"messages": HELLO, "max_tokens": 10**9}, "max_tokens"),
        ({"messages": HELLO, "n": 3}, "n"),
        ({"messages": HELLO, "lora": [{"id": 0, "scale": 1}]}, "lora"),
        ({"messages": HELLO, "id_slot": 0}, "id_slot"),
        ({"messages": HELLO, "stream": "yes"}, "stream"),
    ],
)
def test_a_bad_request_names_its_field(client: openai.OpenAI, body: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.post("/chat/completions", body={"model": "base", **body}, cast_to=object)
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"
