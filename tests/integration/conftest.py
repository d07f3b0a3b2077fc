"""One real llama.cpp server with two different adapters, for the tests that do not break it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from processes import ENGINES, engine_server, free_port

from gateway.backend import Backend
from gateway.experts import Expert
from gateway.http1 import HttpClient
from gateway.process import LaunchSpec

API_KEY = "tests-engine-key"


@pytest.fixture(scope="session")
def pair(tiny_experts: list[Expert]) -> list[Expert]:
    """Two experts: enough to confuse."""
    return tiny_experts[:2]


@pytest.fixture(scope="session")
def launch(base_gguf: Path) -> Callable[..., LaunchSpec]:
    """Make a ``LaunchSpec`` on a free port; keyword arguments override."""

    def make(**changed: object) -> LaunchSpec:
        fields = {
            "model": str(base_gguf),
            "adapters": (),
            "host": "127.0.0.1",
            "port": free_port("127.0.0.1"),
            "slots": 2,
            "ctx_per_slot": 1024,
            "threads": 1,
            "gpu_layers": 0,
            "alias": "pointsman-base",
            "api_key": API_KEY,
            **changed,
        }
        return LaunchSpec(**fields)  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session", params=ENGINES)
def engine_kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def engine_url(
    launch: Callable[..., LaunchSpec], pair: list[Expert], engine_kind: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    spec = launch(adapters=tuple(str(expert.adapter_path) for expert in pair))
    with engine_server(spec, tmp_path_factory.mktemp("engine") / "engine.log", engine_kind) as url:
        yield url


@pytest.fixture
async def session() -> AsyncIterator[HttpClient]:
    opened = HttpClient()
    yield opened
    await opened.aclose()


@pytest.fixture
def make_backend(session: HttpClient, pair: list[Expert]) -> Callable[..., Backend]:
    """Make a ``Backend`` over a URL that is told of the two experts."""

    def make(url: str, **options: object) -> Backend:
        backend = Backend("engine-1", url, session, api_key=API_KEY, **options)  # type: ignore[arg-type]
        scales = {expert.name: expert.manifest.scale for expert in pair}
        backend.expect({expert.name: expert.adapter_path for expert in pair}, scales)
        return backend

    return make


@pytest.fixture
async def backend(make_backend: Callable[..., Backend], engine_url: str) -> Backend:
    """A backend that knows its properties and its adapters."""
    opened = make_backend(engine_url)
    await opened.load_props()
    assert await opened.load_adapters() == []
    return opened
