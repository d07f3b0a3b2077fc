"""Which servers need not be probed again."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.kv_probe import Proofs, server_identity
from gateway.member import EngineConfig
from gateway.process import LaunchSpec


def _launch(base: Path) -> LaunchSpec:
    return LaunchSpec(str(base), (), "127.0.0.1", port=1, slots=1, ctx_per_slot=1, threads=1, gpu_layers=0, alias="b")


def test_a_folder_that_cannot_be_read_knows_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(path)

    monkeypatch.setattr(Path, "exists", refuse)
    assert "a server" not in Proofs(tmp_path)


def test_what_was_proved_stays_proved_where_there_is_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "kv-apart"
    Proofs(folder).add("a server")
    assert "a server" in Proofs(folder)
    assert "another" not in Proofs(folder)
    forgetful = Proofs()
    forgetful.add("a server")
    assert "a server" in forgetful
    assert "a server" not in Proofs()


def test_a_folder_that_cannot_be_written_costs_only_the_memory_of_it(tmp_path: Path) -> None:
    (tmp_path / "blocked").write_text("")
    proofs = Proofs(tmp_path / "blocked" / "kv-apart")
    assert "a server" not in proofs
    proofs.add("a server")
    assert "a server" in proofs


def test_a_server_is_another_with_another_executable_base_argument_or_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, base = tmp_path / "llama-server", tmp_path / "base.gguf"
    server.write_text("1")
    base.write_text("1")
    launch = _launch(base)
    config = EngineConfig(kind="binary", launch=launch, executable=str(server), extra_arguments=("--flash-attn", "on"))
    known = server_identity(config, "b1")
    assert server_identity(replace(config, launch=replace(launch, port=2, adapters=("a.gguf",))), "b1") == known
    found = {
        known,
        server_identity(config, "b2"),
        server_identity(replace(config, extra_arguments=("--cache-ram", "100")), "b1"),
        server_identity(replace(config, executable=None), "b1"),
        server_identity(replace(config, launch=replace(launch, cache_ram_mib=1)), "b1"),
        server_identity(replace(config, launch=replace(launch, slots=8)), "b1"),
    }
    monkeypatch.setenv("LLAMA_ARG_CACHE_REUSE", "64")
    found.add(server_identity(config, "b1"))
    os.utime(server, (1, 1))
    found.add(server_identity(config, "b1"))
    base.write_text("12")
    found.add(server_identity(config, "b1"))
    assert len(found) == 9
    assert None not in found


def test_a_server_that_cannot_be_told_from_others_is_never_known(tmp_path: Path) -> None:
    gone = server_identity(EngineConfig(kind="binary", launch=_launch(tmp_path / "gone.gguf")), "b1")
    assert gone is None
    proofs = Proofs(tmp_path)
    proofs.add(gone)
    assert gone not in proofs
    assert server_identity(EngineConfig(kind="url", launch=None, url="http://a"), "b1") is None
