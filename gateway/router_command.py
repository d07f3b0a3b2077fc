"""The subcommands of ``pointsman router``: fit, evaluate, explain, overlap.

Each prints for a person, or JSON for a script, and returns the exit code. Deciding, measuring and drawing belong to
the ``router`` package.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from router import (
    Decided,
    Evaluation,
    Explanation,
    FittedRouter,
    Labelled,
    OnnxEmbedder,
    Overlap,
    Reference,
    Router,
    RouterError,
    decide_all,
    find_overlap,
    finetune,
    fit,
    render_report,
    split,
    summarise,
)

from .app import router_factory
from .bundle import OWN, read_bundle, write_bundle
from .errors import ConfigError
from .experts import BASE, Expert
from .labelled import as_examples, read_labelled
from .offline import scan
from .routing import RouterFactory, Source
from .settings import Settings

__all__ = ["evaluate_router", "explain_text", "fit_router", "show_overlap"]

LISTED = 20
"""Findings of the overlap report that are printed; all of them stand in the JSON."""


def fit_router(
    settings: Settings,
    files: Sequence[Path],
    out: Path | None,
    *,
    false_abstain: float | None,
    finetuned: bool,
    as_json: bool,
) -> int:
    """Fit on labelled files, or on what stands in ``experts/``; into a directory, or the gateway's cache."""
    factory = router_factory(settings)
    started = time.monotonic()
    if out is None:
        if files:
            raise ConfigError("--examples needs --out DIR: the gateway's own router is fitted on its experts")
        if false_abstain is not None:
            raise ConfigError("--false-abstain needs --out DIR: the gateway's own router takes router.false_abstain")
        if finetuned:
            raise ConfigError("--finetune needs --out DIR: the tuned encoder is kept there, for router.artifact")
        source = factory.read_source(_experts(settings))
        fitted = factory.fit_all(source)
        overlap = find_overlap(factory.reference(source))
    else:
        if false_abstain is None:
            false_abstain = factory.false_abstain
        fitted, overlap = _fit_into(
            factory, _source(factory, settings, files), out, false_abstain, finetuned=finetuned, own=not files
        )
    warnings = [*fitted.warnings, *overlap.warnings()]
    if out is not None and settings.router.second_encoder is not None:
        warnings.append(f"{out} holds the first router alone: router.second_encoder is not part of it")
    facts: dict[str, Any] = {
        "routes": fitted.routes,
        "threshold": round(fitted.threshold, 4),
        "out_of_fold": {name: round(float(value), 4) for name, value in fitted.metrics.items()},
        "warnings": warnings,
        "seconds": round(time.monotonic() - started, 1),
        "out": str(out) if out else None,
    }
    if as_json:
        print(json.dumps(facts))
        return 0
    print(f"routes: {', '.join(fitted.routes)}; threshold {fitted.threshold:.3f}; {facts['seconds']} s")
    print("measured out of fold: " + ", ".join(f"{name} {value}" for name, value in facts["out_of_fold"].items()))
    for warning in warnings:
        print(f"warning: {warning}")
    if out:
        print(f"written to {out}")
    return 0


def _fit_into(
    factory: RouterFactory, source: Source, out: Path, false_abstain: float, *, finetuned: bool, own: bool
) -> tuple[FittedRouter, Overlap]:
    try:
        judged, embedder = _finetune(factory, source, out) if finetuned else (source, factory.encoder_to_fit())
        # The gateway's vectors are those of its experts' texts: no others are kept there.
        bulk = factory.bulk(embedder, keeps=own and not finetuned)
        fitted = fit(
            judged.examples,
            judged.negatives,
            bulk,
            passages=judged.passages,
            further=judged.further,
            max_false_abstain=false_abstain,
            workers=factory.threads,
            progress=True,
        )
        reference = Reference.build(source.examples, source.negatives, bulk, source.further)
    except RouterError as error:
        raise ConfigError(f"router: {error}") from error
    write_bundle(out, fitted, reference, embedder, OWN if finetuned else factory.encoder)
    bulk.save()
    return fitted, find_overlap(reference)


def _finetune(factory: RouterFactory, source: Source, out: Path) -> tuple[Source, OnnxEmbedder]:
    """Tune the configured encoder on half of the texts. What it was tuned on teaches, and calibrates nothing."""
    parts = split(source.examples, source.negatives)
    finetune(factory.locate_encoder(factory.encoder), parts.tuned, parts.tuned_negatives, out / OWN)
    judged = Source(parts.judged, parts.judged_negatives, source.passages, parts.further(source.further))
    return judged, OnnxEmbedder(out / OWN)


def evaluate_router(
    settings: Settings,
    files: Sequence[Path],
    *,
    artifact: Path | None,
    encoder: str | None,
    decisions: Path | None,
    html: Path | None,
    as_json: bool,
) -> int:
    """Measure a router on labelled texts; prints, and writes a page with pictures."""
    rows = read_labelled(files)
    router = _open(settings, artifact, encoder, remembers=False)
    try:
        decided = asyncio.run(_decide(router, rows))
    except RouterError as error:
        raise ConfigError(f"{', '.join(map(str, files))}: {error}") from error
    result = summarise(decided, router.routes, router.threshold)
    if decisions is not None:
        _write(decisions, "".join(json.dumps(row.to_dict(), ensure_ascii=False) + "\n" for row in decided))
    page = html or (artifact or settings.cache / "router") / "report.html"
    facts = [f"{len(rows)} texts of {', '.join(path.name for path in files)}", f"router {artifact or 'of the gateway'}"]
    if twice := sum(row.decision.second for row in decided):
        facts.append(f"{twice} decided by the second router, whose threshold is another than the one shown")
    _write(page, render_report(result, title="Router evaluation", facts=[*facts, time.strftime("%Y-%m-%d %H:%M")]))
    if as_json:
        print(json.dumps({**result.to_dict(), "html": str(page)}))
    else:
        _print_evaluation(result)
        print(f"\npage with pictures: {page}")
    return 0


async def _decide(router: Router, rows: Sequence[Labelled]) -> list[Decided]:
    try:
        return await decide_all(router, rows)
    finally:
        await router.aclose()


def explain_text(
    settings: Settings, turns: Sequence[str], *, artifact: Path | None, encoder: str | None, as_json: bool
) -> int:
    """Show all that a decision rests on."""
    found = asyncio.run(_explain(_open(settings, artifact, encoder), turns))
    if as_json:
        print(json.dumps(found.to_dict()))
        return 0
    decision = found.decision
    by = ", by the second router" if decision.second else ""
    print(f"{decision.route or BASE} ({decision.reason.value}{by})\n  {found.why}\n")
    kinds = [weighed.kind for weighed in next(iter(found.evidence.values()))]
    print(f"{'route':16}{'score':>7}  " + "".join(f"{kind:>10}" for kind in kinds))
    for route, weighed in found.evidence.items():
        row = "".join(f"{kind.contribution:+10.2f}" for kind in weighed)
        print(f"{route:16}{decision.scores[route]:7.3f}  {row}")
    print(f"each column is evidence times its weight; the score is their sum {found.bias:+.2f}, squashed to 0–1")
    print(f"threshold {decision.threshold:.3f}, lead over the runner-up {decision.margin:.3f}\n\nnearest examples")
    for example in found.nearest:
        print(f"  {example.cosine:.3f}  {example.route or '(out of scope)':16} {example.text[:90]}")
    return 0


async def _explain(router: Router, turns: Sequence[str]) -> Explanation:
    try:
        return await router.explain(turns)
    except RouterError as error:
        raise ConfigError(f"router: {error}") from error
    finally:
        await router.aclose()


def show_overlap(settings: Settings, files: Sequence[Path], *, expert: str | None, as_json: bool) -> int:
    """Report examples that get in another expert's way."""
    factory = router_factory(settings)
    source = _source(factory, settings, files)
    if expert is not None and expert not in source.examples:
        raise ConfigError(f"--expert {expert!r} has no examples; allowed: {', '.join(sorted(source.examples))}")
    try:
        bulk = factory.bulk(factory.open_encoder(factory.encoder))
        overlap = find_overlap(Reference.build(source.examples, source.negatives, bulk, source.further))
    except RouterError as error:
        raise ConfigError(f"router: {error}") from error
    if expert is not None:
        overlap = overlap.about(expert)
    if as_json:
        print(json.dumps(overlap.to_dict()))
        return 0
    for name, count in overlap.examples.items():
        kinds = overlap.count().get(name, {})
        print(f"{name:16} {count:5} examples  " + (", ".join(f"{n} {kind}" for kind, n in kinds.items()) or "clear"))
    for row in overlap.findings[:LISTED]:
        print(f"\n{row.kind}: {row.route}, {row.own:.2f} to its own, {row.others:.2f} to {row.other or 'out of scope'}")
        print(f"  {row.text[:150]}\n  {row.neighbour[:150]}")
    if len(overlap.findings) > LISTED:
        print(f"\n{len(overlap.findings) - LISTED} more; --json shows all")
    return 0


# -- what they share ----------------------------------------------------------------------------------------------


def _experts(settings: Settings) -> list[Expert]:
    experts, _ = scan(settings)
    if not experts:
        raise ConfigError(f"{settings.experts.dir}: there is no expert to fit a router on")
    return list(experts.values())


def _source(factory: RouterFactory, settings: Settings, files: Sequence[Path]) -> Source:
    return Source(*as_examples(read_labelled(files))) if files else factory.read_source(_experts(settings))


def _open(settings: Settings, artifact: Path | None, encoder: str | None, *, remembers: bool = True) -> Router:
    factory = router_factory(settings)
    if artifact is not None:
        return factory.open_bundle(read_bundle(artifact), encoder=encoder, remembers=remembers)
    if encoder is not None:
        raise ConfigError("--encoder belongs to --artifact; the gateway's own is router.encoder")
    router = factory.build(_experts(settings), remembers=remembers)
    assert router is not None  # there are experts
    return router


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror or error}") from error


def _print_evaluation(result: Evaluation) -> None:
    print(
        f"{result.n_in_scope} texts in scope, {result.n_out_of_scope} out of scope; threshold {result.threshold:.3f}\n"
    )
    for name, value in (
        ("accuracy (best route)", result.accuracy),
        ("correct decisions", result.correct),
        ("false abstentions", result.false_abstain),
        ("out-of-scope recall", result.out_of_scope_recall),
        ("AUROC", result.auroc),
        ("expected calibration error", result.calibration_error),
    ):
        print(f"{name:28}" + ("–" if value is None else f"{value:.4f}"))
    print(f"{'one decision, ms':28}p50 {result.latency_ms['p50']:.2f}, p95 {result.latency_ms['p95']:.2f}\n")
    _print_confusion(result.confusion)


def _print_confusion(confusion: Mapping[str, Mapping[str, int]]) -> None:
    labels = list(confusion)
    width = max(12, *(len(label) + 2 for label in labels))
    print("true \\ decided".ljust(width + 2) + "".join(label.rjust(width) for label in labels))
    for label in labels:
        print(label.ljust(width + 2) + "".join(str(confusion[label][other]).rjust(width) for other in labels))
