"""Does a turn that says too little alone continue the conversation before it? Numpy only.

Owns what is looked at (`continuation_signals`) and the fitted judgement (`Continuation`). Knows nothing of how a
conversation is replayed, nor of fitting.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from router.classifier import N_KINDS, Evidence
from router.embedding import Vectors
from router.threshold import Scores, squash

N_SIGNALS = 3 + 2 * N_KINDS
JOINT_COSINE, PHRASE_COSINE = 1, 2
TURN_EVIDENCE = slice(3, 3 + N_KINDS)


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """All that is known about one text."""

    vector: Vectors
    """[dim]."""

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

    phrases: Vectors
    """[n_phrases, dim]: follow-ups that could stand in any conversation."""

    means: Scores
    """[n_signals]."""

    scales: Scores
    """[n_signals], all above zero."""

    weights: Scores
    """[n_signals]."""

    bias: float
    threshold: float
    """0–1."""

    def score(self, signals: Scores) -> Scores:
        """Return 0–1 for each row of `continuation_signals`: [n] from [n, n_signals]."""
        return squash(((signals - self.means) / self.scales) @ self.weights + self.bias)


def continuation_signals(anchor: Encoded, turn: Encoded, joint: Encoded, route: int, phrase_cosine: float) -> Scores:
    """Describe how a turn relates to the anchor before it: [n_signals].

    A turn that brings a subject of its own moves the joint text away from the anchor; one without a subject does not,
    and resembles other follow-ups.

    Args:
        phrase_cosine: of the turn to the nearest follow-up phrase.
    """
    cosines = [float(anchor.vector @ turn.vector), float(anchor.vector @ joint.vector), phrase_cosine]
    return np.concatenate([cosines, turn.evidence[route], joint.evidence[route]])
