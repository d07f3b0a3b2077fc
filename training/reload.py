"""Tells a running gateway that experts were published. Not running is no failure: it will find them when it starts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from training.errors import PublishError

__all__ = ["reload_gateway"]

_TIMEOUT_S = 300.0  # a reload starts an engine and fits the router


def reload_gateway(url: str, cache_dir: Path, names: Sequence[str]) -> str:
    """Ask the gateway at `url` to pick up the experts `names`; returns what happened, in a few words.

    The admin key is `$GATEWAY_ADMIN_KEY`, or the one the gateway keeps in the cache.

    Raises:
        PublishError: a gateway runs there, and does not serve them now, or by name only: says why. They stay published.
    """
    key, key_from = os.environ.get("GATEWAY_ADMIN_KEY", ""), "GATEWAY_ADMIN_KEY"
    if not key:
        key_file = cache_dir / "admin.key"
        key_from = str(key_file)
        key = key_file.read_text(encoding="utf-8").strip() if key_file.is_file() else ""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        answer = httpx.post(f"{url.rstrip('/')}/admin/reload", headers=headers, timeout=_TIMEOUT_S, trust_env=False)
    except (httpx.ConnectError, httpx.ConnectTimeout):
        return f"no gateway is running at {url}"
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise PublishError(
            f"published, but the gateway at {url} could not be told: {error or type(error).__name__}"
        ) from error
    if answer.status_code in (401, 403):
        why = f"does not take the admin key of {key_from}" if key else f"wants an admin key, and {key_from} has none"
        advice = "set GATEWAY_ADMIN_KEY, or --cache-dir to the cache that it uses"
        raise PublishError(f"published, but the gateway at {url} {why}: {advice}")
    if (refusal := _error(answer)).get("code") == "router_not_renewed":
        raise PublishError(f"published, but the gateway at {url} serves by name only: {refusal.get('message')}")
    if answer.status_code != 200:
        raise PublishError(
            f"published, but the gateway at {url} refused to reload: {answer.status_code} {answer.text[:300]}"
        )
    return _outcome(url, answer.json(), names)


def _error(answer: httpx.Response) -> dict[str, Any]:
    try:
        error = answer.json()["error"]
    except (ValueError, TypeError, KeyError):
        return {}
    return error if isinstance(error, dict) else {}


def _outcome(url: str, answer: dict[str, Any], names: Sequence[str]) -> str:
    rejected = {row["name"]: row["reason"] for row in answer["rejected"]}
    for name in names:
        if name in rejected:
            raise PublishError(f"published, but the gateway at {url} does not serve {name}: {rejected[name]}")
        if name not in answer["experts"]:
            raise PublishError(
                f"published, but the gateway at {url} does not know {name}: does it read another experts directory?"
            )
    return f"the gateway at {url} serves {', '.join(answer['experts'])}"
