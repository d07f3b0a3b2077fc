"""Make instruction data from a topic description with a seeded grid of templates; needs no model.

Owns the grid: topic, intent, wording and persona make the question; style, spelling of the target, its place and the
facts make the answer. The same seed gives the same rows. What is accepted is decided by `generate_judge`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest

from training.dataset_row import Row
from training.generate_judge import Judge, Tally
from training.generate_phrases import (
    ADVICE,
    FRIENDLY_CLOSINGS,
    FRIENDLY_OPENINGS,
    PERSONA_FRAMES,
    QUESTIONS,
    TARGET_SENTENCES,
)
from training.generate_topic import Style, TopicFile

__all__ = ["Draft", "grid", "take"]

PLACES = ("start", "middle", "end")
BODY_SENTENCES: dict[Style, int] = {"short": 1, "plain": 2, "friendly": 2, "steps": 3, "detailed": 4}


@dataclass(frozen=True)
class Draft:
    """A generated row with the family that it belongs to, and what a paraphrase must keep."""

    row: Row
    family: str
    target: str
    style: str

    def as_item(self) -> dict[str, str]:
        """Return the row as it is written."""
        return {
            "instruction": self.row.instruction,
            "input": "",
            "output": self.row.output,
            "family": self.family,
        }


def grid(topic: TopicFile, facts: Mapping[str, tuple[str, ...]], seed: int) -> Iterator[Draft]:
    """Yield every cell of the grid once, topics in turn, in the order that the seed gives."""
    per_topic = []
    for subtopic in topic.topics:
        cells = [
            (subtopic.name, intent, wording, persona)
            for intent, wordings in QUESTIONS.items()
            for wording in wordings
            for persona in (None, *topic.personas)
        ]
        random.Random(f"{seed} {subtopic.name}").shuffle(cells)
        per_topic.append(cells)
    for row_of_cells in zip_longest(*per_topic):
        for cell in row_of_cells:
            if cell is not None:
                yield _draft(topic, facts[cell[0]], *cell, seed=seed)


def take(drafts: Iterator[Draft], count: int, judge: Judge, tally: Tally) -> list[Draft]:
    """Take so many drafts that pass, or as many as there are."""
    taken: list[Draft] = []
    while len(taken) < count and (draft := next(drafts, None)) is not None:
        reason = judge.accept(draft.row)
        tally.add(reason)
        if reason is None:
            taken.append(draft)
    return taken


def _draft(
    topic: TopicFile,
    facts: tuple[str, ...],
    name: str,
    intent: str,
    wording: str,
    persona: str | None,
    *,
    seed: int,
) -> Draft:
    chance = random.Random(f"{seed} {name} {wording} {persona}")
    question = wording.format(topic=name)
    if persona:
        question = chance.choice(PERSONA_FRAMES).format(persona=persona, question=question)
    style = chance.choice(topic.styles)
    target = chance.choice(topic.terms)
    answer = _answer(chance, name, facts, style, target)
    return Draft(Row(question, "", answer), f"{name}: {intent}", target, style)


def _answer(chance: random.Random, name: str, facts: tuple[str, ...], style: Style, target: str) -> str:
    wanted = BODY_SENTENCES[style]
    known = chance.sample(facts, min(len(facts), wanted))
    advice = [text.format(topic=name) for text in chance.sample(ADVICE, wanted - len(known))]
    body = known + advice
    mention = chance.choice(TARGET_SENTENCES).format(topic=name, target=target)
    place = {"start": 0, "middle": (len(body) + 1) // 2, "end": len(body)}[chance.choice(PLACES)]
    sentences = [*body[:place], mention, *body[place:]]
    if style == "steps":
        return "\n".join(f"{number}. {sentence}" for number, sentence in enumerate(sentences, 1))
    if style == "friendly":
        sentences = [chance.choice(FRIENDLY_OPENINGS), *sentences, chance.choice(FRIENDLY_CLOSINGS)]
    return " ".join(sentences)
