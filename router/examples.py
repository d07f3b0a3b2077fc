"""What may be fitted on: checks of labelled texts, with messages for the person who wrote them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from router.errors import RouterError

MIN_EXAMPLES = 2
FEW_EXAMPLES = 50
"""Below it a route is fitted with a warning: measured on CLINC150, accuracy and abstention fall steeply there."""


def check_examples(
    examples: Mapping[str, Sequence[str]], negatives: Sequence[str]
) -> tuple[list[tuple[str, str | None]], tuple[str, ...]]:
    """Return every text once with its route (None for a negative), routes in alphabetical order, and warnings.

    Raises:
        RouterError: no routes, fewer than two examples of one, an empty text, or a text under two labels.
    """
    if not examples:
        raise RouterError("no routes: give examples of at least one")
    owners: dict[str, str | None] = {}
    originals: list[tuple[str, str | None]] = []
    warnings: list[str] = []
    for route, texts in [*sorted(examples.items()), (None, negatives)]:
        before = len(originals)
        for text in texts:
            key = _normalise(text, route)
            if key not in owners:
                owners[key] = route
                originals.append((text, route))
            elif owners[key] != route:
                raise RouterError(f"{text!r} stands under both {_name(owners[key])} and {_name(route)}; keep one")
        count = len(originals) - before
        if count < len(texts):
            warnings.append(f"{_name(route)}: {len(texts) - count} repeated texts were left out")
        warnings += _judge_count(route, count)
    return originals, tuple(warnings)


def _normalise(text: str, route: str | None) -> str:
    key = " ".join(text.split()).casefold()
    if not key:
        raise RouterError(f"{_name(route)} has an empty text")
    return key


def _judge_count(route: str | None, count: int) -> list[str]:
    if route is None:
        return [] if count else ["no negatives: the threshold rests on the examples alone"]
    if count < MIN_EXAMPLES:
        raise RouterError(f"{_name(route)} has {count} different examples, at least {MIN_EXAMPLES} are needed")
    if count < FEW_EXAMPLES:
        return [f"{_name(route)} has {count} examples; below {FEW_EXAMPLES}, expect wrong and missed routes"]
    return []


def _name(route: str | None) -> str:
    return "the negatives" if route is None else f"route {route!r}"
