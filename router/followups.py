"""What a follow-up looks like: the fitting of `Continuation` on conversations made from the texts of `taught.py`.

The conversations have two turns: an example as anchor, then a phrase or follow-up (continues), another example of the
same route (continues), an example of another route (does not), or a negative or request (does not). Some of the
examples and negatives follow an opening, as people put before a change of subject.
Each is judged by witnesses that saw neither turn, and by a regression on dependence that did not see the second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from router.calibrate import fit_logistic
from router.classifier import OUTSIDE, Indices, apply_kernel, ridge_matrix
from router.continuation import (
    DEPENDENCE,
    JOINT_COSINE,
    N_SIGNALS,
    TURN_EVIDENCE,
    Continuation,
    Encoded,
    continuation_signals,
    join_turns,
    referring_marks,
)
from router.embedding import Embedder, Vectors, take_meaning
from router.lots import Draw, Lots, choose, draw_lots, shuffle
from router.taught import OPENINGS
from router.threshold import Gate, Scores, choose_split
from router.witnesses import Witnesses

MAX_OPENED = 600
"""So many examples and negatives stand after an opening."""

MAX_FALSE_BREAK = 0.2
MAX_NEGATIVES = 600
NEIGHBOURS_PER_ROUTE = 40
SWITCHES_PER_ROUTE = 100
SAME_MEANING = 0.6
"""Cosine from which a negative counts as a follow-up phrase: alone it has no topic, but it continues any."""

MAX_ALONE = 1500
"""So many texts that stand alone the regression on dependence is fitted on: all follow-ups are some thousand."""

NO_FOLD = -1
_Row = tuple[int, int, bool]  # anchor and turn, as indices of texts; does the turn continue the anchor?


@dataclass(frozen=True, eq=False)
class Corpus:
    """Embedded texts to fit on; the arrays belong together, one row a text."""

    texts: list[str]
    """What lexical evidence is fitted on: passages without their marks."""

    vectors: Vectors
    """Of the texts as they were given: [n_texts, width], as `Embedder.read` gives them."""

    labels: Indices
    """Route or `OUTSIDE`."""

    folds: Indices
    """`NO_FOLD` for a text that is never held out."""

    phrases: slice
    """Where `PHRASES` and `FOLLOW_UPS` stand."""

    requests: slice
    """Where `REQUESTS` stand."""

    opened: Indices
    """[n_opened], which texts stand again after an opening, behind the requests."""

    learnt: npt.NDArray[np.bool_]
    """Which texts witnesses may be fitted on: not `FOLLOW_UPS`, `REQUESTS` nor what stands after an opening."""

    n_meaning: int
    """The first so many values of a vector are the text's meaning."""

    @property
    def beside(self) -> Indices:
        """Requests and what stands after an opening: no follow-ups, though some begin like one."""
        return np.arange(self.requests.start, self.requests.stop + len(self.opened))

    def without_vague(self, rows: Indices) -> Indices:
        """Leave out the negatives that mean the same as one of `PHRASES`."""
        phrases = take_meaning(self.vectors[self.phrases][self.learnt[self.phrases]], self.n_meaning)
        likeness = (take_meaning(self.vectors[rows], self.n_meaning) @ phrases.T).max(axis=1, initial=-1.0)
        kept: Indices = rows[(self.labels[rows] != OUTSIDE) | (likeness < SAME_MEANING)]
        return kept


@dataclass(frozen=True, eq=False)
class Dependence:
    """Which turns need what was said before; the first three are `Continuation`'s."""

    texts: Vectors
    duals: Vectors
    offset: float
    of: Scores
    """[n_texts of the corpus], each by a regression that was not fitted on it."""


@dataclass(frozen=True, eq=False)
class FollowUpPairs:
    """Conversations of two turns; rows of the arrays belong together."""

    dependence: Dependence
    anchors: Indices
    """[n], index of the anchor in the corpus."""

    routes: Indices
    """[n], the anchor's route."""

    turns: Indices
    """[n], index of the turn in the corpus."""

    joints: list[str]
    joint_vectors: Vectors
    """[n, width]."""

    continues: npt.NDArray[np.bool_]

    def signals(self, rows: Indices, witnesses: Witnesses, data: Corpus) -> Scores:
        """Return `continuation_signals` of some rows under these witnesses: [n_rows, n_signals]."""
        turns, vectors = self.turns[rows], data.vectors
        turn_evidence = witnesses.evidence([data.texts[turn] for turn in turns], vectors[turns])
        joint_evidence = witnesses.evidence([self.joints[row] for row in rows], self.joint_vectors[rows])
        nothing = np.empty(0)
        result = np.empty((len(rows), N_SIGNALS))
        for index, row in enumerate(rows):
            anchor = Encoded(vectors[self.anchors[row]], nothing, nothing)
            turn = Encoded(vectors[self.turns[row]], turn_evidence[index], nothing)
            joint = Encoded(self.joint_vectors[row], joint_evidence[index], nothing)
            marks = referring_marks(data.texts[self.turns[row]])
            needs = float(self.dependence.of[self.turns[row]])
            result[index] = continuation_signals(anchor, turn, joint, int(self.routes[row]), needs, marks)
        return result


def after_openings(
    judged: Sequence[tuple[str, str | None]], lots: Lots
) -> tuple[Indices, list[tuple[str, str | None]]]:
    """Draw texts and put openings before them: which were drawn, ascending, and each with its label.

    Args:
        lots: [n_judged or more], of the texts.
    """
    drawn = np.sort(shuffle(np.arange(len(judged)), lots, Draw.OPENED)[:MAX_OPENED])
    openings = [OPENINGS[lots[row] % np.uint64(len(OPENINGS))] for row in drawn]
    return drawn, [
        (f"{opening} {judged[row][0]}", judged[row][1]) for opening, row in zip(openings, drawn, strict=True)
    ]


def fit_dependence(data: Corpus, seed: int) -> Dependence:
    """Tell follow-ups from texts that stand alone, by kernel ridge regression as `fit.py` does topics.

    A text that the regression is fitted on is judged by one without it, exactly and at no cost: the residual left out
    is the dual coefficient over the inverse kernel's diagonal (Cawley and Talbot, "Efficient leave-one-out
    cross-validation of kernel Fisher discriminant classifiers", Pattern Recognition 36, 2003).
    """
    from scipy.linalg import cho_factor, cho_solve

    judged = data.without_vague(np.setdiff1d(np.arange(data.phrases.start), data.opened))
    drawn = np.random.default_rng(seed).permutation(judged)[: max(0, MAX_ALONE - len(data.beside))]
    follow_ups = np.arange(data.phrases.start, data.phrases.stop)
    rows = np.concatenate([follow_ups, data.beside, np.sort(drawn)])
    targets = np.where(np.arange(len(rows)) < len(follow_ups), np.float32(1), np.float32(-1))
    offset = float(targets.mean())
    texts = data.vectors[rows]
    factor = cho_factor(ridge_matrix(texts), overwrite_a=True)
    inverse = cho_solve(factor, np.eye(len(rows), dtype=np.float32))
    duals = (inverse @ (targets - np.float32(offset))).astype(np.float32)
    needs = (apply_kernel(data.vectors @ texts.T) @ duals + offset).astype(np.float64)
    needs[rows] = targets - duals / np.diagonal(inverse)
    return Dependence(texts, duals, offset, needs)


def build_pairs(data: Corpus, embedder: Embedder, seed: int) -> FollowUpPairs:
    """Make the conversations; both turns of one lie in the same fold."""
    lots = draw_lots(data.texts, seed)
    rows = _phrase_rows(data, lots) + _neighbour_rows(data, lots)
    rows += _negative_rows(data, lots) + _switch_rows(data, lots)
    anchors = np.array([anchor for anchor, _, _ in rows], dtype=np.int64)
    turns = np.array([turn for _, turn, _ in rows], dtype=np.int64)
    joints = [join_turns(data.texts[anchor], data.texts[turn]) for anchor, turn, _ in rows]
    return FollowUpPairs(
        dependence=fit_dependence(data, seed),
        anchors=anchors,
        routes=data.labels[anchors],
        turns=turns,
        joints=joints,
        joint_vectors=embedder.read(joints),
        continues=np.array([continues for _, _, continues in rows], dtype=np.bool_),
    )


def _phrase_rows(data: Corpus, lots: Lots) -> list[_Row]:
    """Every phrase after each route, every other follow-up after one."""
    rows: list[_Row] = []
    routes = [np.flatnonzero(data.labels == route) for route in range(int(data.labels.max()) + 1)]
    members: dict[int, list[Indices]] = {}
    for fold in np.unique(data.folds[data.phrases]).tolist():
        members[fold] = [found for route in routes if len(found := route[data.folds[route] == fold])]
    for phrase in range(data.phrases.start, data.phrases.stop):
        anchors = [choose(lots[phrase], found, lots, Draw.ANCHOR) for found in members[int(data.folds[phrase])]]
        if anchors and not data.learnt[phrase]:
            anchors = [choose(lots[phrase], np.array(anchors), lots, Draw.ROUTE)]
        rows += [(anchor, phrase, True) for anchor in anchors]
    return rows


def _neighbour_rows(data: Corpus, lots: Lots) -> list[_Row]:
    rows: list[_Row] = []
    for route in range(int(data.labels.max()) + 1):
        members = np.flatnonzero((data.labels == route) & (data.folds != NO_FOLD))
        for turn in shuffle(members, lots, Draw.NEIGHBOURS)[:NEIGHBOURS_PER_ROUTE].tolist():
            anchors = members[(data.folds[members] == data.folds[turn]) & (members != turn)]
            if len(anchors):
                rows.append((choose(lots[turn], anchors, lots, Draw.ANCHOR), turn, True))
    return rows


def _negative_rows(data: Corpus, lots: Lots) -> list[_Row]:
    """Requests and negatives, up to `MAX_NEGATIVES`; those without an opening, as they were given, last."""
    rows: list[_Row] = []
    outside = data.labels == OUTSIDE
    outside[data.phrases] = False
    found = shuffle(data.without_vague(np.flatnonzero(outside)), lots, Draw.NEGATIVES)
    chosen = np.concatenate([found[found >= data.requests.start], found[found < data.requests.start]])
    for turn in chosen[:MAX_NEGATIVES].tolist():
        anchors = np.flatnonzero((data.labels != OUTSIDE) & (data.folds == data.folds[turn]))
        if len(anchors):
            rows.append((choose(lots[turn], anchors, lots, Draw.ANCHOR), turn, False))
    return rows


def _switch_rows(data: Corpus, lots: Lots) -> list[_Row]:
    rows: list[_Row] = []
    for route in range(int(data.labels.max()) + 1):
        members = np.flatnonzero((data.labels == route) & (data.folds != NO_FOLD))
        for turn in shuffle(members, lots, Draw.SWITCHES)[:SWITCHES_PER_ROUTE].tolist():
            anchors = np.flatnonzero(
                (data.labels != OUTSIDE) & (data.labels != route) & (data.folds == data.folds[turn])
            )
            if len(anchors):
                rows.append((choose(lots[turn], anchors, lots, Draw.ANCHOR), turn, False))
    return rows


def fit_continuation(pairs: FollowUpPairs, signals: Scores, gate: Gate) -> tuple[Continuation, dict[str, float]]:
    """Fit the judgement on signals given out of fold, and measure it on the same signals.

    Turns that qualify alone are left out, since no judgement is asked for them.
    """
    evidence = signals[:, None, TURN_EVIDENCE]
    asked = gate.scores(evidence)[:, 0] < gate.threshold
    signals, continues = signals[asked], pairs.continues[asked]
    means, scales = signals.mean(axis=0), np.maximum(signals.std(axis=0), 1e-3)
    if continues.all():
        # No negatives: continue whatever resembles a follow-up or hardly moves the joint text.
        weights, bias = np.zeros(N_SIGNALS), 0.0
        weights[[JOINT_COSINE, DEPENDENCE]] = 1.0
    else:
        weights, bias = fit_logistic((signals - means) / scales, continues)
    needs = pairs.dependence
    fitted = Continuation(needs.texts, needs.duals, needs.offset, means, scales, weights, bias, threshold=0.5)
    scores = fitted.score(signals)
    threshold = choose_split(scores[continues], scores[~continues], max_false_abstain=MAX_FALSE_BREAK)
    metrics = {
        "follow_up_kept": float(np.mean(scores[continues] >= threshold)),
        "topic_change_noticed": float(np.mean(scores[~continues] < threshold)) if not continues.all() else 1.0,
    }
    return replace(fitted, threshold=threshold), metrics
