"""Does a turn that says too little alone continue the conversation before it? Numpy only.

Owns what is looked at (`continuation_signals`) and the fitted judgement (`Continuation`). Knows nothing of how a
conversation is replayed, nor of fitting.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from router.classifier import N_KINDS, Evidence, apply_kernel
from router.embedding import Vectors
from router.threshold import Scores, squash

N_RELATIONS, N_MARKS = 3, 3
N_SIGNALS = N_RELATIONS + N_MARKS + 3 * N_KINDS
JOINT_COSINE, DEPENDENCE = 1, 2
TURN_EVIDENCE = slice(N_RELATIONS + N_MARKS, N_RELATIONS + N_MARKS + N_KINDS)

WORDS = re.compile(r"[^\W_]+(?:['’][^\W_]+)?")
OPENING = re.compile(
    r"(?:also|alright|although|and|actually|but|cheers|else|great|hmm|how's|ok|okay|nah|no|nope|oh|or|really|right|so|still"
    r"|sure|thanks|then|though|wait|well|yeah|yep|yes)$"
)
"""English words that answer somebody or go on with something when a turn starts with them."""

REFERRING = re.compile(
    r"(?:again|already|another|anyway|both|each|either|enough|first|instead|it(?:'ll|'d|'s)?|its|less|longer|mine|more"
    r"|neither|ones?|others?|otherwise|same|second|still|such|that(?:'d|'ll|'s)?|theirs?|them|then|there|these|they"
    r"|they're|this|those|too)$"
)
"""English words that point at something said before."""

ANNOUNCES = re.compile(
    r"\b(?:(?:another|different|unrelated|new|next|separate|other) (?:question|topic|subject|matter)"
    r"|on (?:another|a different) note|chang(?:e|ing) (?:the|of) (?:subject|topic)|something (?:completely |totally )?"
    r"(?:else|different|unrelated)|off[- ]topic|unrelated)\b"
)
"""English words that say that what follows is about something else."""


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """All that is known about one text."""

    vector: Vectors
    """As `Embedder.read` gives it."""

    evidence: Evidence
    """[n_routes, n_kinds]."""

    scores: Scores
    """[n_routes]."""


def join_turns(anchor: str, turn: str) -> str:
    """Return the text that is embedded to see a turn in its context."""
    return f"{anchor}\n{turn}"


@dataclass(frozen=True, eq=False)
class Continuation:
    """Does a turn that abstains alone continue the conversation about a route? A calibrated yes or no."""

    texts: Vectors
    """[n_texts, width]: follow-ups, and texts that stand alone."""

    duals: Vectors
    """[n_texts], of a kernel ridge regression that tells the first (1) from the second (-1)."""

    offset: float

    means: Scores
    """[n_signals]."""

    scales: Scores
    """[n_signals], all above zero."""

    weights: Scores
    """[n_signals]."""

    bias: float
    threshold: float
    """0–1."""

    def dependence(self, vector: Vectors) -> float:
        """Return how much a turn needs what was said before: about 1 for a follow-up, -1 for a text of its own."""
        return float(apply_kernel(self.texts @ vector) @ self.duals) + self.offset

    def score(self, signals: Scores) -> Scores:
        """Return 0–1 for each row of `continuation_signals`: [n] from [n, n_signals]."""
        return squash(((signals - self.means) / self.scales) @ self.weights + self.bias)


def continuation_signals(
    anchor: Encoded, turn: Encoded, joint: Encoded, route: int, dependence: float, marks: Scores
) -> Scores:
    """Describe how a turn relates to the anchor before it: [n_signals].

    A turn that brings a subject of its own moves the joint text away from the anchor; one without a subject does not,
    needs what was said before, and points at it.

    Args:
        route: the anchor's.
        dependence: of the turn, as `Continuation.dependence` gives it.
        marks: of the turn, as `referring_marks` gives them.
    """
    relations = [float(anchor.vector @ turn.vector), float(anchor.vector @ joint.vector), dependence]
    others = np.delete(turn.evidence, route, axis=0)
    rival = others.max(axis=0) if len(others) else np.zeros(N_KINDS)
    return np.concatenate([relations, marks, turn.evidence[route], joint.evidence[route], rival])


def referring_marks(text: str) -> Scores:
    """Return what the words of a turn tell of its need for a context: [n_marks].

    Whether it opens as a reply does, how many words point back (up to 3), and the logarithm of its length in words.
    Of a language other than English only the last counts.
    """
    words = WORDS.findall(text.lower().replace("’", "'"))
    opens = float(bool(words and OPENING.match(words[0])))
    return np.array([opens, min(3, sum(bool(REFERRING.match(word)) for word in words)), np.log1p(len(words))])
