"""What may be fitted on: checks of labelled texts, with messages for the person who wrote them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from router.errors import RouterError

MIN_EXAMPLES = 2
FEW_EXAMPLES = 50
"""Below it a route is fitted with a warning: measured on CLINC150, accuracy and abstention fall steeply there."""


@dataclass(frozen=True)
class Checked:
    """Texts to fit on, each once, routes in alphabetical order; a label is a route, or None for no route."""

    judged: list[tuple[str, str | None]]
    """Examples and negatives: learnt from, and calibrated on."""

    further: list[tuple[str, str | None]]
    passages: list[tuple[str, str | None]]
    """Both learnt from only."""

    warnings: tuple[str, ...]


def check_examples(
    examples: Mapping[str, Sequence[str]],
    negatives: Sequence[str],
    *,
    passages: Mapping[str, Sequence[str]] | None = None,
    further: Mapping[str, Sequence[str]] | None = None,
) -> Checked:
    """Check and order what was given to `fit`.

    Raises:
        RouterError: no routes, fewer than two examples of one, an empty text, an example or negative under two labels,
            or passages or further examples of a route without examples.
    """
    if not examples:
        raise RouterError("no routes: give examples of at least one")
    passages, further = passages or {}, further or {}
    for kind, given in (("passages", passages), ("further examples", further)):
        if unknown := sorted(set(given) - set(examples)):
            raise RouterError(f"{kind} of {unknown}, which have no examples; routes: {sorted(examples)}")
    owners: dict[str, str | None] = {}
    judged: list[tuple[str, str | None]] = []
    warnings: list[str] = []
    for route, texts in [*sorted(examples.items()), (None, negatives)]:
        fresh = _take_new(texts, route, owners)
        if len(fresh) < len(texts):
            warnings.append(f"{_name(route)}: {len(texts) - len(fresh)} repeated texts were left out")
        warnings += _judge_count(route, len(fresh))
        judged += [(text, route) for text in fresh]
    more: list[tuple[str, str | None]] = [
        (text, route) for route, texts in sorted(further.items()) for text in _take_new(texts, route, owners)
    ]
    shared = _shared(passages)
    if shared:
        warnings.append(f"{len(shared)} passages stand under several routes, tell nothing of any, and were left out")
    taught: list[tuple[str, str | None]] = []
    for route, texts in sorted(passages.items()):
        own = [text for text in texts if _normalise(text, route) not in shared]
        taught += [(text, route) for text in _take_new(own, route, owners)]
    return Checked(judged, more, taught, tuple(warnings))


def _shared(passages: Mapping[str, Sequence[str]]) -> set[str]:
    """Return the texts, normalised, that stand under more than one route: two experts may both answer "Yes."."""
    of_each = [{_normalise(text, route) for text in texts} for route, texts in passages.items()]
    routes = Counter(text for texts in of_each for text in texts)
    return {text for text, count in routes.items() if count > 1}


def _take_new(texts: Sequence[str], route: str | None, owners: dict[str, str | None]) -> list[str]:
    """Return the texts not seen before and note them in `owners`, by their normalised form."""
    fresh = []
    for text in texts:
        key = _normalise(text, route)
        if key not in owners:
            owners[key] = route
            fresh.append(text)
        elif owners[key] != route:
            raise RouterError(f"{text!r} stands under both {_name(owners[key])} and {_name(route)}; keep one")
    return fresh


def text_key(text: str) -> str:
    """Return what two texts have in common that count as the same."""
    return " ".join(text.split()).casefold()


def _normalise(text: str, route: str | None) -> str:
    key = text_key(text)
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
