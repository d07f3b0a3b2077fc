"""The command line of a llama-server child."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gateway.errors import ConfigError
from gateway.process import THREADS_WAIT, EngineProcess, LaunchSpec, binary_arguments, free_port

SPEC = LaunchSpec(
    model="m.gguf",
    adapters=("x/a.gguf", "y/b.gguf"),
    host="127.0.0.1",
    port=8081,
    slots=3,
    ctx_per_slot=1000,
    threads=2,
    gpu_layers=-1,
    alias="base",
)


def value_after(arguments: list[str], flag: str) -> str:
    assert arguments.count(flag) == 1
    return arguments[arguments.index(flag) + 1]


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--model", "m.gguf"),
        ("--host", "127.0.0.1"),
        ("--port", "8081"),
        ("--parallel", "3"),
        ("--ctx-size", "3000"),
        ("--threads", "2"),
        ("--alias", "base"),
        ("--cache-ram", "0"),
        ("--lora-scaled", "x/a.gguf:0,y/b.gguf:0"),
    ],
)
def test_the_child_is_started_safe_to_swap(flag: str, value: str) -> None:
    arguments = binary_arguments("llama-server", SPEC)
    assert arguments[0] == "llama-server"
    assert value_after(arguments, flag) == value


def test_no_adapters_and_automatic_layers_need_no_flags() -> None:
    arguments = binary_arguments("llama-server", replace(SPEC, adapters=()))
    assert "--lora-scaled" not in arguments
    assert "--n-gpu-layers" not in arguments
    assert "--lora-init-without-apply" not in arguments


@pytest.mark.parametrize("layers", [0, 99])
def test_layers_on_the_gpu_are_passed_on(layers: int) -> None:
    assert value_after(binary_arguments("x", replace(SPEC, gpu_layers=layers)), "--n-gpu-layers") == str(layers)


def test_further_arguments_come_last_so_that_they_win() -> None:
    assert binary_arguments("x", SPEC, ["--flash-attn", "on"])[-2:] == ["--flash-attn", "on"]


@pytest.mark.parametrize("path", ["a,b.gguf", "c:/a.gguf"])
def test_an_adapter_path_that_would_be_split_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match="comma or a colon") as caught:
        binary_arguments("x", replace(SPEC, adapters=(path,)))
    assert repr(path) in caught.value.message


def test_the_key_is_new_for_each_child_and_not_on_the_command_line() -> None:
    other = replace(SPEC, api_key=LaunchSpec.__dataclass_fields__["api_key"].default_factory())  # type: ignore[misc]
    assert other.api_key != SPEC.api_key
    assert SPEC.api_key not in " ".join(binary_arguments("x", SPEC))


@pytest.mark.parametrize(("host", "url"), [("127.0.0.1", "http://127.0.0.1:8081"), ("::1", "http://[::1]:8081")])
async def test_a_child_never_started_is_not_running_and_can_be_stopped(host: str, url: str) -> None:
    process = EngineProcess(replace(SPEC, host=host))
    assert (process.url, process.running, process.pid) == (url, False, None)
    assert process.last_words() == "it logged nothing"
    await process.stop()


@pytest.mark.parametrize(("ours", "expected"), [(None, THREADS_WAIT[1]), ("7", "7")])
async def test_its_threads_do_not_spin_for_long_unless_told(
    ours: str | None, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = THREADS_WAIT[0]
    monkeypatch.delenv(name, raising=False)
    if ours is not None:
        monkeypatch.setenv(name, ours)
    script = tmp_path / "llama-server"
    script.write_text(f'#!/bin/sh\necho "${name}" > "{tmp_path}/seen"\n')
    script.chmod(0o755)
    process = EngineProcess(replace(SPEC, port=free_port("127.0.0.1")), executable=str(script))
    await process.start()
    await process.wait()
    await process.stop()
    assert (tmp_path / "seen").read_text().strip() == expected
