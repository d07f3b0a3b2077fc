"""How long after it was published does an expert answer?

A running, idle gateway of three experts; the fourth is put in place as ``pointsman publish`` does it, the gateway is
told, and a question is asked until it answers: by its name, and with ``model="auto"``. Cold: nothing of the new expert
was embedded before, so that its examples are read and the router is fitted anew. Warm: it was published before and
taken away again.
The floor is what no publish can do without: an engine's start with all four.

    python benchmarks/publish.py [--expert stargazing]
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import serving

from gateway.base import default_cache_dir
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
        cache, served, aside = Path(folder) / "cache", Path(folder) / "experts", Path(folder) / given.expert
        borrow_cache(cache)
        shutil.copytree(given.experts, served)
        (served / given.expert).rename(aside)
        settings = {"experts": {"dir": str(served), "out_of_scope": str(served / "out_of_scope.jsonl")}}
        with serving.gateway(settings, env={"GATEWAY_CACHE_DIR": str(cache)}) as url:
            cold = publish(url, cache, aside, served)
            (served / given.expert).rename(aside)
            reload_gateway(url, cache, [])
            warm = publish(url, cache, aside, served)
    rows = [["cold", *cold], ["warm", *warm], ["floor: the engine's start", floor_s, ""]]
    serving.print_table(["published", "answers by name after s", "with auto after s"], rows)
    serving.finish(
        "publish",
        cold_named_s=round(cold[0], 1),
        cold_auto_s=round(cold[1], 1),
        warm_named_s=round(warm[0], 1),
        warm_auto_s=round(warm[1], 1),
        floor_s=round(floor_s, 2),
        auto_ratio=round(cold[1] / floor_s, 2),
        ratio=round(cold[0] / floor_s, 2),
    )


def borrow_cache(cache: Path) -> None:
    """A cache with the models of this machine's and no router."""
    cache.mkdir()
    for part in default_cache_dir().iterdir():
        if part.is_dir() and part.name != _REMEMBERS:
            (cache / part.name).symlink_to(part)


def publish(url: str, cache: Path, folder: Path, served: Path) -> tuple[float, float]:
    """Seconds from putting the folder in place until the expert answers by name, and with ``auto``."""
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
