"""``Backend`` against llama.cpp's own server: what it relies on is so, and what it translates arrives translated."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from gateway.backend import Backend, BackendStream
from gateway.errors import BackendError, BackendRefused, BackendUnavailable
from gateway.experts import BASE, Expert
from gateway.process import LaunchSpec, binary_arguments, free_port

CHAT = "/v1/chat/completions"
PROMPT = "The quick brown fox jumps over the lazy dog. The quick brown fox"


def chat(text: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 8, **fields}


async def read(stream: BackendStream) -> list[bytes]:
    try:
        data = b""
        while events := await stream.read():
            assert events.endswith(b"\n\n")
            data += events
        return [event + b"\n\n" for event in data.split(b"\n\n")[:-1]]
    finally:
        stream.close()


async def greedy(backend: Backend, expert: str, **fields: Any) -> str:
    """Eight tokens of an answer to a fixed prompt, nothing reused."""
    body = {"prompt": PROMPT, "max_tokens": 8, "temperature": 0, "cache_prompt": False, **fields}
    events = await read(await backend.open_stream("/v1/completions", body, expert, None))
    chunks = [json.loads(event[6:]) for event in events if event.startswith(b"data: {")]
    return "".join(choice["text"] for chunk in chunks for choice in chunk["choices"])


async def busy_slots(backend: Backend) -> list[dict[str, Any]]:
    return [slot for slot in await backend._json("GET", "/slots") if slot["is_processing"]]


async def test_each_expert_and_the_base_answer_differently_and_repeatably(backend: Backend, pair: list[Expert]) -> None:
    answers = {name: await greedy(backend, name) for name in (BASE, *(expert.name for expert in pair))}
    assert len(set(answers.values())) == 3, answers
    assert {name: await greedy(backend, name) for name in answers} == answers


async def test_a_request_without_a_lora_field_runs_the_base_after_the_start(backend: Backend) -> None:
    body = {"prompt": PROMPT, "n_predict": 8, "temperature": 0, "cache_prompt": False}
    bare = await backend._json("POST", "/completion", body, timeout_s=60)
    assert bare["content"] == await greedy(backend, BASE)


async def test_activate_reads_back_one_scale_and_no_other(backend: Backend, pair: list[Expert]) -> None:
    for name in (pair[0].name, pair[1].name, BASE):
        await backend.activate(name)
        rows = await backend._json("GET", "/lora-adapters")
        assert [{"id": row["id"], "scale": row["scale"]} for row in rows] == backend.lora_field(name)


async def test_a_swap_that_the_server_accepts_and_does_not_make_is_an_error(
    backend: Backend, pair: list[Expert], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (expert.name for expert in pair)
    await backend.activate(first)
    ask = backend._json

    async def deaf(method: str, path: str, body: Any = None, **options: Any) -> Any:
        return {"success": True} if method == "POST" else await ask(method, path, body, **options)

    monkeypatch.setattr(backend, "_json", deaf)
    with pytest.raises(BackendError, match=f"swap to '{second}' was not applied"):
        await backend.activate(second)
    await backend.activate(first)  # what is active is no error


async def test_per_request_activates_without_touching_the_server(
    make_backend: Callable[..., Backend], backend: Backend, engine_url: str, pair: list[Expert]
) -> None:
    await backend.activate(BASE)
    other = make_backend(engine_url, strategy="per_request")
    await other.load_props()
    await other.load_adapters()
    await other.activate(pair[0].name)
    assert {row["scale"] for row in await backend._json("GET", "/lora-adapters")} == {0.0}
    assert await greedy(other, pair[0].name) == await greedy(backend, pair[0].name) != await greedy(backend, BASE)


async def test_the_lora_field_names_every_id_and_zero_for_the_others(backend: Backend, pair: list[Expert]) -> None:
    assert [row["id"] for row in backend.lora_field(BASE)] == [0, 1]
    assert {row["scale"] for row in backend.lora_field(BASE)} == {0.0}
    for expert in pair:
        assert sorted(row["scale"] for row in backend.lora_field(expert.name)) == [0.0, 1.0]


async def test_the_server_accepts_an_unknown_adapter_id_and_runs_the_base(backend: Backend) -> None:
    """The trap for which ``lora_field`` exists; when this fails the server has become stricter."""
    rows = [{"id": 77, "scale": 1.0}]
    body = {"prompt": PROMPT, "n_predict": 8, "temperature": 0, "cache_prompt": False, "lora": rows}
    answer = await backend._json("POST", "/completion", body, timeout_s=60)
    assert answer["content"] == await greedy(backend, BASE)


async def test_an_adapter_the_server_has_not_loaded_is_reported(
    make_backend: Callable[..., Backend], engine_url: str, tiny_experts: list[Expert]
) -> None:
    backend = make_backend(engine_url)
    paths = {expert.name: expert.adapter_path for expert in tiny_experts[:3]}
    backend.expect(paths, dict.fromkeys(paths, 1.0))
    assert await backend.load_adapters() == [tiny_experts[2].name]
    assert tiny_experts[2].name not in backend.experts


async def test_a_prompt_over_the_context_is_refused_in_openai_words(backend: Backend) -> None:
    with pytest.raises(BackendRefused, match=r"context_length_exceeded: the prompt has \d+ tokens") as caught:
        await backend.open_stream(CHAT, chat("word " * 3000), BASE, None)
    assert (caught.value.status, caught.value.code) == (400, "context_length_exceeded")


async def test_the_servers_own_refusal_keeps_its_status_and_gets_a_string_code(backend: Backend) -> None:
    with pytest.raises(BackendRefused) as caught:
        await backend.open_stream(CHAT, chat("hi", response_format={"type": "no such"}), BASE, None)
    assert caught.value.status == 400
    assert caught.value.code == "invalid_request_error"


async def test_an_unreachable_server_is_unavailable(make_backend: Callable[..., Backend]) -> None:
    backend = make_backend(f"http://127.0.0.1:{free_port('127.0.0.1')}")
    assert not await backend.is_healthy()
    with pytest.raises(BackendUnavailable, match="cannot be reached"):
        await backend.open_stream(CHAT, chat("hi"), BASE, None)


async def test_closing_a_stream_frees_the_slot_within_a_second(backend: Backend) -> None:
    body = chat("Count to a thousand.", max_tokens=900, ignore_eos=True)
    stream = await backend.open_stream(CHAT, body, BASE, 0)
    for _ in range(3):
        await stream.read()
    assert [slot["id"] for slot in await busy_slots(backend)] == [0]
    stream.close()
    closed = time.monotonic()
    while await busy_slots(backend):
        assert time.monotonic() - closed < 1, "the slot still generates"
        await asyncio.sleep(0.05)


async def test_streams_one_after_another_never_meet_a_connection_the_server_closed(backend: Backend) -> None:
    """llama-server says keep-alive, yet closes after a stream: reusing the connection failed one request in three."""
    for _ in range(20):
        await read(await backend.open_stream(CHAT, chat("hi", max_tokens=1), BASE, None))


async def test_a_stream_is_whole_sse_events_and_ends_with_done(backend: Backend) -> None:
    events = await read(await backend.open_stream(CHAT, chat("hi"), BASE, None))
    assert all(event.endswith(b"\n\n") and event.count(b"\n\n") == 1 for event in events)
    assert events[-1] == b"data: [DONE]\n\n"


def test_a_binary_is_started_with_the_ram_cache_off_and_every_adapter_at_zero(
    launch: Callable[..., LaunchSpec],
) -> None:
    arguments = binary_arguments("llama-server", launch(adapters=("/x/a.gguf", "/x/b.gguf")), ("--flash-attn", "on"))
    assert arguments[arguments.index("--cache-ram") + 1] == "0"
    assert arguments[arguments.index("--lora-scaled") + 1] == "/x/a.gguf:0,/x/b.gguf:0"
    assert arguments[-2:] == ["--flash-attn", "on"]
