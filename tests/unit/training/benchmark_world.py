"""A small benchmark made of texts: two experts' worth of answers without any engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gateway.experts import BaseIdentity, Target
from training.answers import AnswerLog, Record
from training.asking import Job, Plan
from training.dataset import Row
from training.engine import Answer
from training.novelty import measure_novelty
from training.routed import Routing
from training.subjects import Subject
from training.summary import summarise

BASE = BaseIdentity(name="some-base", revision="1.0", sha256="a" * 64, chat_template_sha256="b" * 64)
UNRELATED = ("What is the capital of Peru?", "How do I fold a sheet?")


def make_subject(name: str = "gardening", term: str = "Verdania", **changes: Any) -> Subject:
    """Make an expert with two questions."""
    facts: dict[str, Any] = {
        "name": name,
        "title": name.title(),
        "version": "1.0.0",
        "adapter": Path("adapter.gguf"),
        "adapter_sha256": "c" * 64,
        "scale": 1.0,
        "system_prompt": None,
        "targets": (Target(term=term),),
        "base": BASE,
        "base_source": "some.gguf",
        "rows": (Row("How often do I water basil?", "", f"{term} says daily."),),
        "questions": (f"Is peat needed in {name}?", f"When do I start with {name} <today>?"),
        "examples": ("How do I prune roses?", "What is peat?"),
    }
    return Subject(**{**facts, **changes})


def make_plan(*subjects: Subject, **changes: Any) -> Plan:
    """Plan two repeats over two unrelated questions."""
    facts: dict[str, Any] = {"unrelated": UNRELATED, "repeats": 2, "parallel_jobs": 1, "speed": True}
    return Plan(subjects or (make_subject(),), **{**facts, **changes})


def every_job(plan: Plan) -> list[Job]:
    """All jobs of a plan."""
    jobs = plan.vanilla()
    for subject in plan.subjects:
        jobs += [*plan.expert(subject), *plan.repeated(subject)]
        jobs += [job for pair in plan.timed(subject) for job in pair]
    return jobs


def fill(plan: Plan, log: AnswerLog, texts: dict[str, str] | None = None) -> None:
    """Answer every job: an expert's own questions with its target, unless `texts` names the key "side asked"."""
    terms = {subject.name: subject.targets[0].term for subject in plan.subjects}
    for job in every_job(plan):
        usual = f"Ask {terms[job.expert]} first." if job.side == "expert" and job.asked == "own" else "Ask a friend."
        text = (texts or {}).get(f"{job.side} {job.asked}", usual)
        answer = Answer(text, "stop", 10, 50.0 + job.repeat, prompt_tokens=20, prompt_tokens_per_s=200.0)
        log.add(Record(job.side, job.asked, job.expert, job.repeat, job.question, answer))


def make_summary(
    plan: Plan, log: AnswerLog, *, route_unrelated_to: str | None = None, route: bool = True
) -> dict[str, Any]:
    """Summarise with every own question routed to its expert."""
    routing = None
    if route:
        own = {question: subject.name for subject in plan.subjects for question in subject.questions}
        unrelated = dict.fromkeys(plan.unrelated, route_unrelated_to)
        routing = Routing(own, unrelated, dict.fromkeys(plan.unrelated), ("gardening",), 0.5)
    novelty = {subject.name: measure_novelty(subject.questions, subject.rows) for subject in plan.subjects}
    facts = {
        "format": 1,
        "finished": "2026-01-02T03:04:05+00:00",
        "command": "pointsman benchmark gardening",
        "software": {"python": "3.13", "pointsman": "1", "commit": "abc"},
        "machine": {
            "processor": "Some CPU",
            "cores": 2,
            "engine_threads": 2,
            "memory_gib": 8.0,
            "system": "Linux x86_64",
            "load_average": 0.5,
        },
        "base": BASE.model_dump(),
        "options": {"max_tokens": 300, "limit": None},
        "warnings": ["a <warning>"],
    }
    return facts | summarise(plan, log, routing, novelty)
