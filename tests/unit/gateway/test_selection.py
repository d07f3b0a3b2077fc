"""From a model name and the user's turns to an expert, with a router that looks for names."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from unit.fakes import FakeRouter, write_expert_files

from gateway.errors import ExpertNotFound
from gateway.experts import ExpertRegistry, Rejected, load_expert
from gateway.selection import Selection, Selector
from router import EmbeddingError, Router


@pytest.fixture
def registry(tmp_path: Path) -> ExpertRegistry:
    names = ("baking", "cycling", "gardening")
    experts = {name: load_expert(write_expert_files(tmp_path, name), None) for name in names}
    registry = ExpertRegistry(experts, [Rejected("broken", "its hash is wrong")])
    registry.set_enabled("gardening", False)
    return registry


def selector(registry: ExpertRegistry, router: FakeRouter | None, **more: Any) -> Selector:
    return Selector(registry, cast("Router | None", router), **more)


async def select(registry: ExpertRegistry, model: str | None, *turns: str, **more: Any) -> Selection:
    return await selector(registry, FakeRouter("baking", "cycling", "gardening"), **more).select(model, turns)


@pytest.mark.parametrize("model", ["base", "baking"])
async def test_a_named_expert_serves_without_the_router(registry: ExpertRegistry, model: str) -> None:
    router = FakeRouter("baking")
    found = await selector(registry, router).select(model, ["about cycling"])
    assert (found.requested, found.expert, found.reason, found.score) == (model, model, "named", None)
    assert router.seen == []


@pytest.mark.parametrize("model", [None, "", "auto"])
@pytest.mark.parametrize(
    ("turns", "expert", "reason"),
    [
        (["about baking"], "baking", "routed"),
        (["about baking", "and then?"], "baking", "sticky"),
        (["about baking", "about cycling"], "cycling", "routed"),
        (["hello"], "base", "fallback"),
        (["about gardening"], "base", "fallback"),
        ([], "base", "fallback"),
        ([" "], "base", "fallback"),
    ],
)
async def test_auto_asks_the_router(
    registry: ExpertRegistry, model: str | None, turns: list[str], expert: str, reason: str
) -> None:
    found = await select(registry, model, *turns)
    assert (found.requested, found.expert, found.reason) == ("auto", expert, reason)


async def test_a_fallback_says_why(registry: ExpertRegistry) -> None:
    assert (await select(registry, None)).note == "there is nothing to route on"
    assert (await select(registry, None, "gardening")).note == "expert 'gardening' is not in service"
    assert (await select(registry, None, "hello")).note is None
    assert (await selector(registry, None).select(None, ["x"])).note == "there is nothing to route on"


async def test_empty_turns_do_not_reach_the_router(registry: ExpertRegistry) -> None:
    router = FakeRouter("baking")
    await selector(registry, router).select(None, ["baking", " ", "more"])
    assert router.seen == [["baking", "more"]]


async def test_a_router_failure_falls_back(registry: ExpertRegistry) -> None:
    router = FakeRouter("baking", failure=EmbeddingError("no encoder"))
    found = await selector(registry, router).select(None, ["baking"])
    assert (found.expert, found.reason, found.score) == ("base", "fallback", None)
    assert found.note == "router failed: no encoder"


async def test_the_fallback_is_a_setting_and_base_when_it_is_disabled(registry: ExpertRegistry) -> None:
    assert (await select(registry, None, "hello", fallback="cycling")).expert == "cycling"
    registry.set_enabled("cycling", False)
    assert (await select(registry, None, "hello", fallback="cycling")).expert == "base"


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("nobody", "'nobody' does not exist. Available: auto, base, baking, cycling."),
        ("gardening", "'gardening' is disabled"),
        ("broken", "'broken' is not served: its hash is wrong"),
        ("x" * 1000, "x" * 100 + "' does not exist"),
    ],
)
async def test_an_expert_not_served_is_404_and_says_why(registry: ExpertRegistry, model: str, says: str) -> None:
    with pytest.raises(ExpertNotFound) as caught:
        await select(registry, model, "hello")
    assert says in caught.value.message
    assert len(caught.value.message) < 300
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


async def test_the_facts_of_a_decision(registry: ExpertRegistry) -> None:
    found = await select(registry, None, "baking")
    facts = found.facts()
    assert facts.pop("route_ms") >= 0
    assert facts == {"requested_model": "auto", "expert": "baking", "reason": "routed", "score": 0.9}
    assert (found.threshold, found.scores["cycling"]) == (0.5, 0.1)


async def test_a_router_replaced_while_it_decides_is_asked_again_in_its_new_form(registry: ExpertRegistry) -> None:
    """A reload closes the old router, with texts in its queue."""

    class Replaced(FakeRouter):
        async def decide(self, turns: Any) -> Any:
            chosen.router = cast("Router", FakeRouter("baking"))
            raise EmbeddingError("the router was closed")

    chosen = selector(registry, Replaced("baking"))
    found = await chosen.select("auto", ["about baking"])
    assert (found.expert, found.reason, found.note) == ("baking", "routed", None)
