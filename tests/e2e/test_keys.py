"""Keys from a file and the environment, the rate limit, and what an address that others can reach needs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from processes import ADMIN_KEY, GatewayProcess

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]


def sdk(gateway: GatewayProcess, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=key, max_retries=0, timeout=200)


def use_up(client: openai.OpenAI) -> None:
    for _ in range(10):
        client.chat.completions.create(model="base", messages=HELLO, max_tokens=1)


def test_keys_and_their_rate_limit(make_gateway: Callable[..., GatewayProcess], tmp_path: Path) -> None:
    keys = tmp_path / "keys.txt"
    hashed = hashlib.sha256(b"key-of-ann").hexdigest()
    keys.write_text(f"# name key\nann sha256:{hashed}\nbob key-of-bob  # in plain\n", encoding="utf-8")
    auth = {"keys_file": str(keys), "rate_limit_per_minute": 3}
    with make_gateway(env={"GATEWAY_API_KEYS": "key-of-env"}, auth=auth) as gateway:
        for key in ("key-of-ann", "key-of-bob", "key-of-env", ADMIN_KEY):
            with sdk(gateway, key) as client:
                answer = client.chat.completions.create(model="base", messages=HELLO, max_tokens=1)
                assert answer.model == "base"
        for key in ("wrong", hashed, f"sha256:{hashed}"):
            with sdk(gateway, key) as client, pytest.raises(openai.AuthenticationError) as refused:
                client.chat.completions.create(model="base", messages=HELLO, max_tokens=1)
            assert refused.value.code == "invalid_api_key"
            assert refused.value.response.headers["www-authenticate"] == "Bearer"
        by_header = httpx.get(f"{gateway.url}/v1/models", headers={"x-api-key": "key-of-ann"})
        assert by_header.status_code == 200
        assert httpx.get(f"{gateway.url}/v1/models").status_code == 401
        assert httpx.get(f"{gateway.url}/health").status_code == 200
        forbidden = httpx.get(f"{gateway.url}/admin/status", headers={"authorization": "Bearer key-of-ann"})
        assert forbidden.status_code == 403

        preflight = httpx.options(
            f"{gateway.url}/v1/models",
            headers={"origin": "https://example.org", "access-control-request-method": "GET"},
        )
        assert preflight.status_code in (200, 204), "a browser's preflight carries no key"

        with sdk(gateway, "key-of-bob") as client, pytest.raises(openai.RateLimitError) as limited:
            use_up(client)
        assert limited.value.code == "rate_limit_exceeded"
        assert 1 <= int(limited.value.response.headers["retry-after"]) <= 60
        assert "key-of" not in gateway.log
