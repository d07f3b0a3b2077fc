"""Where do the experts' examples get in each other's way? Looks at vectors only; nothing is fitted.

Three findings, each about single examples, so that the person who wrote them can act on it:

- nearer: it is nearer to another route's examples than to the other examples of its own.
- duplicate: an example of another route says the same.
- out of scope: it is nearer to the texts that no route should get than to its own route's examples.

Near is the mean cosine of the 3 nearest texts, as in the evidence that the router weighs. It is a hint to look, not a
verdict: the router weighs more than this.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from router.classifier import N_NEAREST
from router.embedding import Vectors
from router.reference import Reference

DUPLICATE_COSINE = 0.9
"""From here on, two texts ask the same; on the shipped examples the closest two, both on one question, reach 0.86."""

MIN_LEAD = 0.05
"""By this much another route must be nearer: less is the noise of short texts."""

BLOCK = 1024
"""Texts compared with all others at a time: bounds the memory."""


@dataclass(frozen=True)
class Finding:
    """One example that stands in the way."""

    kind: str
    """nearer, duplicate or out of scope."""
    text: str
    route: str
    other: str | None
    """The other route; None for the texts that no route should get."""
    own: float
    """Cosine to its own route, -1 to 1."""
    others: float
    """Cosine to the other route, or to the duplicate."""
    neighbour: str
    """The nearest text of the other route."""


@dataclass(frozen=True)
class Overlap:
    """All findings, worst first, and how many examples were looked at."""

    examples: dict[str, int]
    negatives: int
    findings: tuple[Finding, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**asdict(self), "summary": self.count()}

    def count(self) -> dict[str, dict[str, int]]:
        """Count findings by route, then kind; routes without one are left out."""
        found: dict[str, dict[str, int]] = {}
        for (route, kind), number in Counter((row.route, row.kind) for row in self.findings).items():
            found.setdefault(route, {})[kind] = number
        return found

    def about(self, route: str) -> Overlap:
        """Keep the findings that this route has a part in."""
        kept = tuple(row for row in self.findings if route in (row.route, row.other))
        return Overlap({route: self.examples[route]}, self.negatives, kept)

    def warnings(self) -> list[str]:
        """Return at most one line a route, with its worst finding."""
        lines = []
        for route, kinds in sorted(self.count().items()):
            worst = next(row for row in self.findings if row.route == route)
            counts = ", ".join(f"{number} {_PHRASES[kind]}" for kind, number in sorted(kinds.items()))
            where = f"route {worst.other!r}" if worst.other else "the out-of-scope texts"
            lines.append(
                f"route {route!r}: of {self.examples[route]} examples {counts}; such as {worst.text[:80]!r}, "
                f"near {worst.neighbour[:80]!r} of {where}"
            )
        return lines


_PHRASES = {
    "nearer": "are nearer to another route",
    "duplicate": "say the same as one of another route",
    "out of scope": "look out of scope",
}


def find_overlap(reference: Reference) -> Overlap:
    """Compare every example with all labelled texts but itself."""
    routes = sorted({label for label in reference.labels if label is not None})
    columns = {label: np.array([found == label for found in reference.labels]) for label in [*routes, None]}
    findings: list[Finding] = []
    for start in range(0, len(reference.texts), BLOCK):
        rows = range(start, min(start + BLOCK, len(reference.texts)))
        cosines = reference.vectors[rows.start : rows.stop] @ reference.vectors.T
        cosines[np.arange(len(rows)), np.array(rows)] = -2.0  # itself
        for row, line in zip(rows, cosines, strict=True):
            route = reference.labels[row]
            if route is not None and (found := _judge(reference, row, route, line, columns)):
                findings.append(found)
    findings.sort(key=lambda row: (row.kind != "duplicate", row.own - row.others))
    negatives = int(columns[None].sum())
    return Overlap({route: int(columns[route].sum()) for route in routes}, negatives, tuple(findings))


def _judge(
    reference: Reference,
    row: int,
    route: str,
    cosines: Vectors,
    columns: dict[str | None, npt.NDArray[np.bool_]],
) -> Finding | None:
    near = {label: _near(cosines[chosen]) for label, chosen in columns.items() if chosen.any()}
    own = near.pop(route)
    if not near:
        return None
    nearest = int(np.where(columns[route], -2.0, cosines).argmax())
    other = reference.labels[nearest]
    if other is not None and cosines[nearest] >= DUPLICATE_COSINE:
        kind, cosine = "duplicate", float(cosines[nearest])
    else:
        other = max(near, key=lambda name: near[name])
        kind, cosine = ("out of scope" if other is None else "nearer"), near[other]
        if cosine < own + MIN_LEAD:
            return None
        nearest = int(np.where(columns[other], cosines, -2.0).argmax())
    return Finding(kind, reference.texts[row], route, other, round(own, 4), round(cosine, 4), reference.texts[nearest])


def _near(cosines: Vectors) -> float:
    others = cosines[cosines > -1.5]  # all but the text itself
    count = min(N_NEAREST, len(others))
    return float(np.partition(others, -count)[-count:].mean()) if count else -1.0
