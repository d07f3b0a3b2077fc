"""Backends in the settings, added and drained while the gateway serves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from processes import ADMIN_KEY, GatewayProcess, eventually

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]


def served_by(gateway: GatewayProcess, model: str) -> str:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="unused", max_retries=0, timeout=250) as client:
        answer: Any = client.chat.completions.create(model=model, messages=HELLO, max_tokens=2)
    return str(answer.pointsman["backend"])


def names(gateway: GatewayProcess) -> list[str]:
    return [row["name"] for row in gateway.admin("GET", "backends")["backends"]]


def refused(gateway: GatewayProcess, path: str, status: int, code: str, body: Any = None) -> str:
    headers = {"authorization": f"Bearer {ADMIN_KEY}"}
    answer = httpx.post(f"{gateway.url}/admin/{path}", headers=headers, json=body, timeout=200)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code), answer.text
    return str(error["message"])


@pytest.mark.timeout(600)
def test_backends_come_and_go_while_the_gateway_serves(experts_dir: Path, tmp_path: Path) -> None:
    """Two from the settings, one for a single expert; a third is added; the first two are drained."""
    own: list[dict[str, Any]] = [{}, {"experts": ["baking"], "slots": 3, "at_once": 1}]
    settings = {"experts": {"dir": str(experts_dir)}, "engine": {"backends": own}}
    with GatewayProcess(tmp_path, settings) as gateway:
        rows = {row["name"]: row for row in gateway.admin("GET", "backends")["backends"]}
        (one,) = [name for name, row in rows.items() if row["experts"] == ["baking", "base"]]
        (all_,) = rows.keys() - {one}
        assert (rows[one]["slots"], rows[one]["at_once"]) == (3, 1)
        assert {served_by(gateway, "cycling"), served_by(gateway, "stargazing")} == {all_}
        assert "cycling" in refused(gateway, f"backends/{all_}/drain", 409, "last_backend")
        assert "a backend cannot have its own 'base'" in refused(
            gateway, "backends", 400, "invalid_request", {"base": "x"}
        )
        taken = {"port": gateway.port}
        assert f"engine port {gateway.port}" in refused(gateway, "backends", 400, "config_error", taken)

        added = gateway.admin("POST", "backends", json={"slots": 1})["name"]
        for name in (all_, one):
            gateway.admin("POST", f"backends/{name}/drain")
        eventually(lambda: names(gateway) == [added], 60, "only the added backend is left")
        assert [served_by(gateway, model) for model in ("cycling", "baking", "base")] == [added] * 3
        assert httpx.get(f"{gateway.url}/ready", timeout=60).status_code == 200
        assert added in refused(gateway, "backends/x/drain", 404, "backend_not_found")
