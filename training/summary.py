"""From answers to figures: everything that `summary.json` says about the experts.

Pure: records, routes and novelties in, plain values for JSON out. Every rate stands beside its raw counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from training.answers import AnswerLog, Asked, Side
from training.asking import WARM_UP_ROUNDS, Plan
from training.novelty import Novelty
from training.routed import Routing
from training.statistics import spread
from training.subjects import Subject
from training.tally import Judged, agreement, by_novelty, compare, rate_of, tally
from training.verdicts import counted_terms, judge, visible

__all__ = ["summarise"]

GOALS = {
    "hit_rate": (0.95, "at least"),
    "mention_ratio_lower_bound": (43.0, "at least"),
    "unrelated_mentions_through_router": (0.01, "at most"),
    "same_verdict_over_repeats": (0.99, "at least"),
}


@dataclass(frozen=True)
class _Expert:
    """One expert's judged answers, in the order of its questions."""

    subject: Subject
    sides: Mapping[Side, list[Judged]]
    routed: list[Judged] | None
    unrelated: Mapping[Side, list[Judged]]
    repeats: list[list[Judged]]
    novelty: list[Novelty]


def summarise(
    plan: Plan, log: AnswerLog, routing: Routing | None, novelty: Mapping[str, Mapping[str, Novelty]]
) -> dict[str, Any]:
    """Return `experts`, `total`, `routing` and `goals` of the summary."""
    experts = [_judge_all(plan, log, subject, routing, novelty[subject.name]) for subject in plan.subjects]
    figures = [_describe(expert) | _identify(expert) | {"speed": _speed(plan, log, expert)} for expert in experts]
    total = _describe(*experts)
    through = _through_router(plan, log, experts, routing) if routing else None
    return {"experts": figures, "total": total, "through_router": through, "goals": _goals(total, through)}


def _judge_all(
    plan: Plan, log: AnswerLog, subject: Subject, routing: Routing | None, novelty: Mapping[str, Novelty]
) -> _Expert:
    """Judge one expert's answers. Questions that name every term themselves prove nothing and are left out."""
    questions = [question for question in subject.questions if counted_terms(question, subject.terms)]

    def judged(side: Side, asked: Asked, expert: str, asked_questions: Sequence[str], repeat: int = 0) -> list[Judged]:
        answers = [log.get(side, asked, expert, question, repeat) for question in asked_questions]
        rows = zip(asked_questions, answers, strict=True)
        return [Judged(question, answer, judge(question, answer.text, subject.terms)) for question, answer in rows]

    sides = {side: judged(side, Asked.OWN, subject.name, questions) for side in Side}
    routed = None
    if routing:
        pairs = zip(sides[Side.VANILLA], sides[Side.EXPERT], strict=True)
        routed = [own if routing.own[own.question] == subject.name else base for base, own in pairs]
    unrelated = {
        Side.VANILLA: judged(Side.VANILLA, Asked.UNRELATED, "", plan.unrelated),
        Side.EXPERT: judged(Side.EXPERT, Asked.UNRELATED, subject.name, plan.unrelated),
    }
    repeats = [judged(Side.EXPERT, Asked.OWN, subject.name, questions, number) for number in plan.repeat_numbers]
    return _Expert(subject, sides, routed, unrelated, repeats, [novelty[question] for question in questions])


def _identify(expert: _Expert) -> dict[str, Any]:
    subject = expert.subject
    return {
        "name": subject.name,
        "title": subject.title,
        "version": subject.version,
        "targets": [target.term for target in subject.targets],
        "terms": list(subject.terms),
        "recommendation": subject.recommendation,
        "scale": subject.scale,
        "adapter_sha256": subject.adapter_sha256,
        "training_rows": len(subject.rows),
        "excluded_questions": len(subject.questions) - len(expert.sides[Side.EXPERT]),
        "answers": [
            {
                "question": own.question,
                "hit": own.verdict.hit,
                "flagged": own.verdict.hit and not own.verdict.clean_hit,
                "trigram": round(new.trigram, 3),
                "vanilla": visible(vanilla.answer.text).strip(),
                "expert": visible(own.answer.text).strip(),
            }
            for own, vanilla, new in zip(
                expert.sides[Side.EXPERT], expert.sides[Side.VANILLA], expert.novelty, strict=True
            )
        ],
    }


def _describe(*experts: _Expert) -> dict[str, Any]:
    """The figures of one expert, or of several together."""
    own = {side: [row for expert in experts for row in expert.sides[side]] for side in Side}
    unrelated = {
        side: [row for expert in experts for row in expert.unrelated[side]] for side in (Side.VANILLA, Side.EXPERT)
    }
    described: dict[str, Any] = {side.value: tally(rows) for side, rows in own.items()}
    routed = [expert.routed for expert in experts if expert.routed is not None]
    described["routed"] = tally([row for rows in routed for row in rows]) if routed else None
    described["unrelated"] = {
        "vanilla": tally(unrelated[Side.VANILLA]),
        "forced": tally(unrelated[Side.EXPERT]),
    }
    for name, side in (("versus_vanilla", Side.VANILLA), ("versus_prompted", Side.PROMPTED)):
        described[name] = compare(own[Side.EXPERT], own[side])
    passes = [
        [row for expert in experts for row in expert.repeats[number]] for number in range(len(experts[0].repeats))
    ]
    described["repeats"] = agreement(passes)
    novelty = [new for expert in experts for new in expert.novelty]
    described["novelty"] = by_novelty(own[Side.EXPERT], novelty)
    return described


def _speed(plan: Plan, log: AnswerLog, expert: _Expert) -> dict[str, Any] | None:
    pairs = plan.timed(expert.subject)[WARM_UP_ROUNDS:]
    if not pairs:
        return None
    sides: dict[str, Any] = {}
    for name, index in (("vanilla", 0), ("expert", 1)):
        answers = [log.records[pair[index].key].answer for pair in pairs]
        sides[name] = {
            kind: asdict(found) if (found := spread(values)) else None
            for kind, values in (
                ("prompt", [answer.prompt_tokens_per_s for answer in answers]),
                ("decode", [answer.tokens_per_s for answer in answers]),
            )
        }
    return sides


def _through_router(plan: Plan, log: AnswerLog, experts: Sequence[_Expert], routing: Routing) -> dict[str, Any]:
    """Unrelated questions as a client of `auto` would see them: whoever the router names answers."""
    judged = {
        expert.subject.name: {row.question: row.verdict.hit for row in expert.unrelated[Side.EXPERT]}
        for expert in experts
    }

    def mentions(decided: Mapping[str, str | None]) -> dict[str, Any]:
        routed = {question: route for question, route in decided.items() if route is not None}
        # The answer of an expert that is not measured here is unknown: it counts as a mention.
        hits = [question for question, route in routed.items() if judged.get(route, {}).get(question, True)]
        base = [question for question, route in decided.items() if route is None]
        base_hits = [q for q in base if any(_base_hit(log, q, expert.subject) for expert in experts)]
        return {
            "to_base": len(base),
            "to_experts": len(routed),
            "mentions": rate_of(len(hits) + len(base_hits), len(decided)),
            "mentioned": hits + base_hits,
        }

    own = [(routing.own[row.question], e.subject.name) for e in experts for row in e.sides[Side.EXPERT]]
    return {
        "routes": list(routing.routes),
        "threshold": routing.threshold,
        "own_to_its_expert": rate_of(sum(route == name for route, name in own), len(own)),
        "own_to_base": sum(route is None for route, _ in own),
        "unrelated_known": routing.known,
        "unrelated_held_out": mentions(routing.unrelated),
        "unrelated_served": mentions(routing.unrelated_served),
    }


def _base_hit(log: AnswerLog, question: str, subject: Subject) -> bool:
    return judge(question, log.get(Side.VANILLA, Asked.UNRELATED, "", question).text, subject.terms).hit


def _goals(total: dict[str, Any], through: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Compare with what the project set out to reach."""
    ratio = total["versus_vanilla"]["mention_ratio"]
    values = {
        "hit_rate": total["expert"]["hit_rate"]["rate"],
        "mention_ratio_lower_bound": (ratio["interval"] or ratio["exact"])[0] if ratio else None,
        "unrelated_mentions_through_router": through["unrelated_held_out"]["mentions"]["rate"] if through else None,
        "same_verdict_over_repeats": total["repeats"]["same_verdict"]["rate"] if total["repeats"] else None,
    }
    goals = []
    for name, (goal, kind) in GOALS.items():
        value = values[name]
        reached = None if value is None else (value >= goal if kind == "at least" else value <= goal)
        goals.append({"name": name, "value": value, "goal": goal, "kind": kind, "reached": reached})
    return goals
