"""Tells a running gateway that experts were published. Not running is no failure: it will find them when it starts."""

from __future__ import annotations

import os
from pathlib import Path

import httpx

__all__ = ["reload_gateway"]

_TIMEOUT_S = 300.0  # a reload starts an engine and fits the router


def reload_gateway(url: str, cache_dir: Path) -> str:
    """Ask the gateway at `url` to pick up published experts; returns what happened, in a few words.

    The admin key is `$GATEWAY_ADMIN_KEY`, or the one the gateway keeps in the cache.
    """
    key = os.environ.get("GATEWAY_ADMIN_KEY", "")
    key_file = cache_dir / "admin.key"
    if not key and key_file.is_file():
        key = key_file.read_text(encoding="utf-8").strip()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        answer = httpx.post(f"{url.rstrip('/')}/admin/reload", headers=headers, timeout=_TIMEOUT_S, trust_env=False)
    except httpx.ConnectError:
        return f"no gateway is running at {url}"
    except httpx.HTTPError as error:
        return f"the gateway at {url} could not be told: {error or type(error).__name__}"
    if answer.status_code != 200:
        return f"the gateway at {url} refused to reload: {answer.status_code} {answer.text[:300]}"
    return f"the gateway at {url} serves {', '.join(answer.json()['experts'])}"
