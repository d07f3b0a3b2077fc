"""Mistakes at the start: one clear line on standard error, exit code 2; a bad expert alone does not stop the rest."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from processes import GatewayProcess
from tiny_experts import manifest_of, write_expert

from gateway.base import BaseIdentity
from gateway.experts import MANIFEST_FILE
from training.versions import write_manifest


def complaint(gateway: GatewayProcess, code: int = 2) -> str:
    """The one line of a start that fails."""
    gateway.start()
    assert gateway.wait_ended(120) == code, gateway.log
    assert "Traceback" not in gateway.log
    assert " error " not in gateway.log
    complaints = [line for line in gateway.log.splitlines() if line.startswith("pointsman: ")]
    assert len(complaints) == 1, gateway.log
    assert gateway.log.rstrip().endswith(complaints[0]), gateway.log
    return complaints[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("server: [", ["not valid YAML"]),
        ("server: {port: 1}\nserver: {port: 2}", ["duplicate key 'server'"]),
        ("scheduler: {quantum: 2}", ["scheduler.quantum", "allowed here: strategy, quantum_s"]),
        ("enginee: {}", ["enginee", "allowed here", "engine"]),
        ("scheduler: {quantum_s: 0}", ["scheduler.quantum_s", "greater than 0", "0"]),
        ("engine: {kind: gpu}", ["engine.kind", "embedded", "binary", "url", "gpu"]),
        ("engine: {kind: url}", ["engine.url is needed"]),
        ("api_keys: secret", ["GATEWAY_API_KEYS", "environment"]),
        ("- a\n- b", ["a mapping of sections is expected, found list"]),
        ("server: {host: 0.0.0.0}", ["0.0.0.0", "no API key", "auth.allow_open"]),
        ("auth: {keys_file: no-such-keys.txt}", ["no-such-keys.txt", "No such file"]),
        ("engine: {base: no-such-base.gguf}", ["no-such-base.gguf"]),
        ("engine: {base_sha256: '" + "0" * 64 + "'}", ["sha256", "0" * 64]),
        ("experts: {dir: no-such-directory}", ["no-such-directory", "does not exist"]),
        ("router: {fallback: nobody}", ["router.fallback 'nobody' is not served", "base"]),
    ],
)
def test_a_configuration_mistake(make_gateway: Callable[..., GatewayProcess], text: str, words: list[str]) -> None:
    gateway = make_gateway()
    gateway.config.write_text(text if "fallback" not in text else gateway.config.read_text() + text, encoding="utf-8")
    line = complaint(gateway)
    assert all(word in line for word in words), line


def test_an_unknown_environment_variable(make_gateway: Callable[..., GatewayProcess]) -> None:
    assert "GATEWAY_SCHEDULLER__QUANTUM_S" in complaint(make_gateway(env={"GATEWAY_SCHEDULLER__QUANTUM_S": "1"}))


@pytest.mark.parametrize("which", ["port", "engine_port"])
def test_a_taken_port(make_gateway: Callable[..., GatewayProcess], which: str) -> None:
    gateway = make_gateway()
    with socket.socket() as taken:
        port = getattr(gateway, which)
        taken.bind(("127.0.0.1", port))
        taken.listen()
        line = complaint(gateway)
    assert str(port) in line
    assert "--port" in line if which == "port" else "engine.port" in line


def test_bad_experts_are_refused_in_one_line_each_and_the_good_one_is_served(
    make_gateway: Callable[..., GatewayProcess], base_identity: BaseIdentity, tmp_path: Path
) -> None:
    root = tmp_path / "experts"

    def expert(name: str, base: BaseIdentity = base_identity) -> Path:
        return write_expert(root, name, base, seed=len(name), examples=[f"{name} {i}" for i in range(3)]).directory

    write_expert(root, "baking", base_identity, seed=1)
    write_expert(root, "cycling", base_identity, seed=2)
    with (expert("wrong-hash") / "adapter.gguf").open("ab") as adapter:
        adapter.write(b"!")
    expert("wrong-base", base_identity.model_copy(update={"sha256": "1" * 64, "name": "other"}))
    broken = expert("broken")
    adapter_bytes = (broken / "adapter.gguf").read_bytes()
    (broken / "adapter.gguf").write_bytes(adapter_bytes[: len(adapter_bytes) // 2])
    write_manifest(manifest_of(broken, base_identity), broken / MANIFEST_FILE)
    (expert("scrambled") / MANIFEST_FILE).write_text("name: [", encoding="utf-8")
    (root / "unfinished").mkdir()

    with make_gateway(experts={"dir": str(root)}) as gateway:
        ready = next(line for line in gateway.log.splitlines() if "is ready at" in line)
        assert "Experts: baking, cycling." in ready
        refused = {row["name"]: row["reason"] for row in gateway.admin("GET", "experts")["rejected"]}
        assert set(refused) == {"wrong-hash", "wrong-base", "broken", "scrambled"}
        assert "sha256 is" in refused["wrong-hash"]
        assert "the manifest says" in refused["wrong-hash"]
        assert "other" in refused["wrong-base"]
        assert base_identity.sha256 in refused["wrong-base"]
        assert "cannot load this adapter" in refused["broken"]
        assert "not valid YAML" in refused["scrambled"]
        for name, reason in refused.items():
            assert "\n" not in reason
            assert f"not served: {name}: " in gateway.log
            named: Any = httpx.post(
                f"{gateway.url}/v1/chat/completions",
                json={"model": name, "messages": [{"role": "user", "content": "hi"}]},
                timeout=60,
            )
            assert named.status_code == 404
            assert named.json()["error"]["code"] == "model_not_found"
        body = {"messages": [{"role": "user", "content": "My bicycle chain keeps skipping gears"}], "max_tokens": 1}
        served = httpx.post(f"{gateway.url}/v1/chat/completions", json=body, timeout=200)
        assert served.headers["x-pointsman-expert"] == "cycling"
