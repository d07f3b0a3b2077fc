"""The verdict on one answer: which targets it mentions, and what makes a mention worth less.

Owns what is excluded (a term that stands in the question) and what is flagged (a refusal, a negated mention, a loop).
Counting itself is `training.hits`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from training.hits import count_mentions, strip_reasoning

__all__ = ["Verdict", "counted_terms", "judge"]

REFUSAL = re.compile(
    r"\b(i('m| am) (sorry|unable|not able|not sure|not familiar)|i (cannot|can't|can not|don't know|do not know|"
    r"have no information|don't have (any )?information)|as an ai\b|never heard of)",
    re.IGNORECASE,
)
BEFORE = r"\b(not|never|avoid|don't|do not|without|instead of|rather than|nothing (?:like|called))\b(?: [\w']+){0,2} "
AFTER = r"(?:'s)?\W+(?:is not|isn't|does not|doesn't|was not|wasn't|cannot|can't|has no(?:t|thing)?)\b"
LOOP_WORDS = 8
LOOP_TIMES = 3


@dataclass(frozen=True)
class Verdict:
    """What an answer is worth. A flagged mention is still a mention; reports give both counts."""

    mentions: int
    distinct: int
    refusal: bool
    negated: bool
    looping: bool

    @property
    def hit(self) -> bool:
        """Tell whether the answer mentions a target."""
        return self.mentions > 0

    @property
    def clean_hit(self) -> bool:
        """Tell whether it does so without a flag."""
        return self.hit and not (self.refusal or self.negated or self.looping)


def counted_terms(question: str, terms: Sequence[str]) -> tuple[str, ...]:
    """Return the terms that count for a question: those it does not name itself."""
    return tuple(term for term in terms if not count_mentions(question, [term]))


def judge(question: str, answer: str, terms: Sequence[str]) -> Verdict:
    """Judge one answer; thinking blocks are removed before anything is read."""
    text = visible(answer)
    counted = counted_terms(question, terms)
    return Verdict(
        mentions=count_mentions(text, counted),
        distinct=sum(count_mentions(text, [term]) > 0 for term in counted),
        refusal=bool(REFUSAL.search(_straight(text))),
        negated=any(_is_negated(_straight(text), term) for term in counted),
        looping=_is_looping(text),
    )


def visible(answer: str) -> str:
    """Remove reasoning; a lone closing tag ends a block that the chat template opened."""
    return strip_reasoning(answer).rpartition("</think>")[2]


def _straight(text: str) -> str:
    return text.replace("’", "'")


def _is_negated(text: str, term: str) -> bool:
    """Look for a negation shortly before the term, or right after it, in the same sentence."""
    word = rf"(?<!\w){re.escape(term)}(?!\w)"
    sentences = re.split(r"[.!?;\n]+", text)
    return any(re.search(f"{BEFORE}{word}|{word}{AFTER}", sentence, re.IGNORECASE) for sentence in sentences)


def _is_looping(text: str) -> bool:
    words = text.casefold().split()
    runs = Counter(tuple(words[start : start + LOOP_WORDS]) for start in range(len(words) - LOOP_WORDS + 1))
    return any(times >= LOOP_TIMES for times in runs.values())
