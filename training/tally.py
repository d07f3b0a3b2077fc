"""Counts over judged answers: rates, mentions, comparisons in pairs, agreement, novelty.

Pure; every rate stands beside its raw counts. Knows nothing of experts or of where answers come from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from training.engine import Answer
from training.hits import Rate
from training.novelty import COSINE_EDGES, NOVEL_BELOW, TRIGRAM_EDGES, Novelty
from training.statistics import bootstrap_ratio, mcnemar_exact, rate_ratio, spread
from training.verdicts import Verdict

__all__ = ["Judged", "agreement", "by_novelty", "compare", "rate_of", "tally"]


@dataclass(frozen=True)
class Judged:
    """One answer with its verdict."""

    question: str
    answer: Answer
    verdict: Verdict


def rate_of(hits: int, n: int) -> dict[str, Any]:
    """Return a share with its counts and its Wilson interval; None for nothing of nothing."""
    if not n:
        return {"hits": 0, "n": 0, "rate": None, "interval_95": None}
    rate = Rate(hits, n)
    return {"hits": hits, "n": n, "rate": rate.value, "interval_95": list(rate.interval)}


def tally(rows: Sequence[Judged]) -> dict[str, Any]:
    """Count hits, mentions, tokens and flags."""
    tokens = sum(row.answer.completion_tokens for row in rows)
    mentions = sum(row.verdict.mentions for row in rows)
    return {
        "hit_rate": rate_of(sum(row.verdict.hit for row in rows), len(rows)),
        "clean_hit_rate": rate_of(sum(row.verdict.clean_hit for row in rows), len(rows)),
        "mentions": mentions,
        "distinct_terms": sum(row.verdict.distinct for row in rows),
        "tokens": tokens,
        "mentions_per_1000_tokens": 1000 * mentions / tokens if tokens else None,
        "mentions_per_answer": mentions / len(rows) if rows else None,
        "tokens_per_answer": tokens / len(rows) if rows else None,
        "truncated": sum(row.answer.finish_reason == "length" for row in rows),
        "refusals": sum(row.verdict.refusal for row in rows),
        "negated": sum(row.verdict.negated for row in rows),
        "looping": sum(row.verdict.looping for row in rows),
    }


def compare(expert: Sequence[Judged], other: Sequence[Judged]) -> dict[str, Any]:
    """Compare mentions for each token, answers with a mention, and verdicts in pairs."""
    gained = sum(a.verdict.hit and not b.verdict.hit for a, b in zip(expert, other, strict=True))
    lost = sum(b.verdict.hit and not a.verdict.hit for a, b in zip(expert, other, strict=True))
    compared = {"mcnemar": {"gained": gained, "lost": lost, "p": mcnemar_exact(gained, lost)}}
    both = [[(row.verdict.mentions, row.answer.completion_tokens) for row in rows] for rows in (expert, other)]
    tokens = [sum(count for _, count in pairs) for pairs in both]
    if not all(tokens):
        return compared | {"mention_ratio": None, "hit_ratio": None}
    mentions = [sum(count for count, _ in pairs) for pairs in both]
    ratio = asdict(rate_ratio(mentions[0], tokens[0], mentions[1], tokens[1]))
    hits = [sum(row.verdict.hit for row in rows) for rows in (expert, other)]
    by_answer = asdict(rate_ratio(hits[0], tokens[0], hits[1], tokens[1]))
    return compared | {
        "mention_ratio": ratio | {"counts": mentions, "tokens": tokens, "bootstrap": bootstrap_ratio(*both)},
        "hit_ratio": by_answer | {"counts": hits, "tokens": tokens},
    }


def agreement(passes: Sequence[Sequence[Judged]]) -> dict[str, Any] | None:
    """Count the questions whose verdict, and whose text, is the same in every pass; None for a single pass."""
    if len(passes) < 2:
        return None
    groups = list(zip(*passes, strict=True))
    verdicts = sum(len({row.verdict.hit for row in group}) == 1 for group in groups)
    texts = sum(len({row.answer.text for row in group}) == 1 for group in groups)
    n = len(groups)
    return {"passes": len(passes), "same_verdict": rate_of(verdicts, n), "same_text": rate_of(texts, n)}


def by_novelty(rows: Sequence[Judged], novelty: Sequence[Novelty]) -> dict[str, Any]:
    """Count hits by the similarity of their questions to the training rows."""
    pairs = list(zip(rows, novelty, strict=True))

    def bins(edges: Sequence[float], value: Callable[[Novelty], float | None]) -> list[dict[str, Any]]:
        found = []
        for low, high in pairwise(edges):
            hits = [r.verdict.hit for r, new in pairs if (v := value(new)) is not None and _inside(v, low, high)]
            found.append({"from": low, "to": high, **rate_of(sum(hits), len(hits))})
        return found

    novel = [row.verdict.hit for row, new in pairs if new.is_novel]
    with_cosine = any(new.cosine is not None for new in novelty)
    return {
        "novel_below": NOVEL_BELOW,
        "novel": rate_of(sum(novel), len(novel)),
        "trigram": asdict(found) if (found := spread([new.trigram for new in novelty])) else None,
        "trigram_bins": bins(TRIGRAM_EDGES, lambda new: new.trigram),
        "cosine_bins": bins(COSINE_EDGES, lambda new: new.cosine) if with_cosine else None,
    }


def _inside(value: float, low: float, high: float) -> bool:
    return low <= value < high or value == high == 1.0
