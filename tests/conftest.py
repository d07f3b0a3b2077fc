"""What every kind of test shares: the pulled models, tiny experts, the gateway as a child.

``integration`` and ``e2e`` are marked by directory. With ``CI`` set, a test that skips fails: nothing is left out in
silence.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import GatewayProcess
from tiny_experts import NAMES, write_expert

from gateway.base import BaseIdentity, Kind, Resolved, default_cache_dir, gguf_identity, resolve
from gateway.experts import Expert
from gateway.settings import Settings
from router import ensure_encoder

_HERE = Path(__file__).parent
_MARKED = ("integration", "e2e")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(_HERE) and (kind := item.path.relative_to(_HERE).parts[0]) in _MARKED:
            item.add_marker(kind)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    report: Any = yield
    if report.skipped and os.environ.get("CI") and not hasattr(report, "wasxfail"):
        report.outcome, report.longrepr = "failed", f"skipped, which CI does not allow: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def cache_dir() -> Path:
    """The machine's own cache, so that models are pulled once and not once a test run."""
    return default_cache_dir()


@pytest.fixture(scope="session")
def base_model(cache_dir: Path) -> Resolved:
    return resolve(Settings().engine.base, cache_dir=cache_dir, kind=Kind.GGUF)


@pytest.fixture(scope="session")
def base_gguf(base_model: Resolved) -> Path:
    return base_model.path


@pytest.fixture(scope="session")
def base_identity(base_model: Resolved, cache_dir: Path) -> BaseIdentity:
    return gguf_identity(base_model, cache_dir)


@pytest.fixture(scope="session")
def encoder_source(cache_dir: Path) -> Path:
    """The encoder as published: a sentence-transformers directory."""
    return resolve(Settings().router.encoder, cache_dir=cache_dir, kind=Kind.DIRECTORY).path


@pytest.fixture(scope="session")
def encoder_dir(encoder_source: Path, cache_dir: Path) -> Path:
    """The encoder as the gateway runs it: exported to ONNX."""
    return ensure_encoder(encoder_source, cache_dir / "encoders")


@pytest.fixture(scope="session")
def tiny_experts(tmp_path_factory: pytest.TempPathFactory, base_identity: BaseIdentity) -> list[Expert]:
    """Four experts with the real ones' names and routing examples, and different random adapters. Do not change."""
    root = tmp_path_factory.mktemp("experts")
    return [write_expert(root, name, base_identity, seed=seed) for seed, name in enumerate(NAMES, 1)]


@pytest.fixture(scope="session")
def experts_dir(tiny_experts: list[Expert]) -> Path:
    return tiny_experts[0].directory.parent


@pytest.fixture
def make_gateway(tmp_path: Path, experts_dir: Path, encoder_dir: Path) -> Iterator[Callable[..., GatewayProcess]]:
    """Make a gateway (not started) over the tiny experts; sections given override; stopped at the end of the test."""
    made: list[GatewayProcess] = []

    def make(env: dict[str, str] | None = None, **settings: dict[str, Any]) -> GatewayProcess:
        settings.setdefault("experts", {"dir": str(experts_dir)})
        gateway = GatewayProcess(tmp_path / f"gateway-{len(made)}", settings, env)
        made.append(gateway)
        return gateway

    yield make
    for gateway in made:
        if gateway._process is not None:
            gateway.stop()
