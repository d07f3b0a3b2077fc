"""How long after it was published does an expert answer?

A running, idle gateway of three experts; the fourth is put in place as ``pointsman publish`` does it, the gateway is
told, and a question is asked until it answers: by its name, and with ``model="auto"``.

Measured: as ``pointsman publish`` takes it, which refuses what ``pointsman measure`` has not measured; that has fitted
the router of all four, and left it in the cache. Cold: nothing of the new expert was ever embedded, as when it was
measured elsewhere. Warm: it was published before and taken away again.
The floor is what no publish can do without: an engine's start with all four.

    python benchmarks/publish.py [--expert stargazing]
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import serving

from gateway.base import default_cache_dir
from gateway.experts import Expert
from gateway.routing import RouterFactory
from gateway.settings import Settings
from training.reload import reload_gateway

_QUESTIONS = Path(__file__).parent / "data" / "acceptance.jsonl"
_REMEMBERS = "router"
"""The part of the cache with routers and the vectors of examples."""
_LIMIT_S = 300.0


def main() -> None:
    parser = serving.arguments(__doc__)
    parser.add_argument("--expert", default="stargazing", help="the one that is published (default: %(default)s)")
    given = parser.parse_args()
    experts = serving.load_experts(given.experts)
    if given.expert not in (names := [expert.name for expert in experts]):
        parser.error(f"--expert {given.expert!r} is not in {given.experts}; allowed: {', '.join(names)}")
    begun = time.monotonic()
    with serving.engine(experts, ctx=4096):
        floor_s = time.monotonic() - begun
    with tempfile.TemporaryDirectory() as folder:
        cold, warm = publish_twice(Path(folder), given.experts, given.expert)
    with tempfile.TemporaryDirectory() as folder:
        measured, _ = publish_twice(Path(folder), given.experts, given.expert, measured=experts)
    rows = [
        ["measured", *measured],
        ["cold", *cold],
        ["warm", *warm],
        ["floor: the engine's start", floor_s, ""],
    ]
    serving.print_table(["published", "answers by name after s", "with auto after s"], rows)
    serving.finish(
        "publish",
        measured_named_s=round(measured[0], 1),
        measured_auto_s=round(measured[1], 1),
        cold_named_s=round(cold[0], 1),
        cold_auto_s=round(cold[1], 1),
        warm_named_s=round(warm[0], 1),
        warm_auto_s=round(warm[1], 1),
        floor_s=round(floor_s, 2),
        cold_auto_ratio=round(cold[1] / floor_s, 2),
        ratio=round(measured[1] / floor_s, 2),
    )


Answered = tuple[float, float]
"""Seconds until the expert answered by its name, and with ``auto``."""


def publish_twice(
    folder: Path, source: Path, name: str, measured: Sequence[Expert] | None = None
) -> tuple[Answered, Answered]:
    """Publish an expert to a gateway of the others with a fresh cache, take it away, publish it again.

    Args:
        measured: all experts, when the router of all is to be in the cache before.
    """
    cache, served, aside = folder / "cache", folder / "experts", folder / name
    borrow_cache(cache)
    shutil.copytree(source, served)
    out_of_scope = served / "out_of_scope.jsonl"
    if measured is not None:
        router = Settings().router
        factory = RouterFactory(router.encoder, out_of_scope, cache, threads=router.threads)
        factory.fit_on(factory.read_source(measured))
    (served / name).rename(aside)
    settings = {"experts": {"dir": str(served), "out_of_scope": str(out_of_scope)}}
    with serving.gateway(settings, env={"GATEWAY_CACHE_DIR": str(cache)}) as url:
        first = publish(url, cache, aside, served)
        (served / name).rename(aside)
        reload_gateway(url, cache, [])
        return first, publish(url, cache, aside, served)


def borrow_cache(cache: Path) -> None:
    """A cache with the models of this machine's and no router."""
    cache.mkdir()
    for part in default_cache_dir().iterdir():
        if part.is_dir() and part.name != _REMEMBERS:
            (cache / part.name).symlink_to(part)


def publish(url: str, cache: Path, folder: Path, served: Path) -> Answered:
    """Put the folder in place and tell the gateway."""
    name = folder.name
    begun = time.monotonic()
    folder.rename(served / name)
    with ThreadPoolExecutor(1) as thread:
        told = thread.submit(reload_gateway, url, cache, [name])
        named_s = ask_until_served(url, name, name, begun)
        told.result()  # who asks meanwhile takes the fit's cores
        auto_s = ask_until_served(url, "auto", name, begun)
    return named_s, auto_s


def ask_until_served(url: str, model: str, expert: str, begun: float) -> float:
    """Seconds since ``begun`` when the expert first answered a question to ``model``."""
    asked = [json.loads(line) for line in _QUESTIONS.read_text(encoding="utf-8").splitlines()]
    question = next(row["text"] for row in asked if row["expert"] == expert)
    body = {"model": model, "messages": [{"role": "user", "content": question}], "max_tokens": 8}
    while time.monotonic() - begun < _LIMIT_S:
        answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=_LIMIT_S)
        if answer.is_success and answer.headers["x-pointsman-expert"] == expert:
            return time.monotonic() - begun
        time.sleep(0.1)
    raise RuntimeError(f"{expert} answered nothing within {_LIMIT_S:g} s: {answer.status_code} {answer.text[:200]}")


if __name__ == "__main__":
    main()
