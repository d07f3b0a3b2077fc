"""Parity: the converted adapter must say in the engine what the trained one says in PEFT.

The engine generates greedily with the GGUF; the training environment scores exactly those tokens with the PEFT adapter
on the training base, in fp32. A wrong alpha, a tensor lost or transposed, an adapter that is not applied: each shows
as a difference of whole nats. Owns the comparison and its bounds; `convert_checks` brings the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from training.convert_engine import Generated
from training.errors import ConvertError

__all__ = ["DEQUANTISED", "OTHER_WEIGHTS", "SCALES", "Bounds", "Parity", "Scored", "compare", "refuse_difference"]

TRAINED_SCALE = 1.0
SCALES = (0.0, 0.5, TRAINED_SCALE, 2.0)
"""The trained adapter, and what the commonest mistakes look like: not applied, alpha halved, alpha doubled."""


@dataclass(frozen=True)
class Bounds:
    """How far the engine may be from the training environment."""

    mean_difference: float
    top1_agreement: float
    nearest_margin: float = 0.02
    """A wrong scale must fit better by more than this to count: a faint adapter is alike at every scale."""


DEQUANTISED = Bounds(mean_difference=0.10, top1_agreement=0.90)
"""The training base is the dequantised served one; what is left is the engine's 8-bit activations.

Measured on the baking expert, 8 answers of 48 tokens on a Q4_1 base: 0.040 nats and 96.6 % (0.035 to 0.043 and 95.6 to
97.7 % with the adapter at 0, 0.5 and 2 on both sides). Mistakes: half the alpha 0.57 nats, twice 0.67, no adapter 1.5.
"""
OTHER_WEIGHTS = Bounds(mean_difference=0.30, top1_agreement=0.75)
"""Trained on the original weights, served quantised: the quantisation itself adds to the difference.

Not measured: set between the figure above and that of half the alpha.
"""


@dataclass(frozen=True)
class Scored:
    """What PEFT makes of generated tokens: the log-probability of each, and the likeliest in its place."""

    logprobs: tuple[float, ...]
    top: tuple[int, ...]


@dataclass(frozen=True)
class Parity:
    """The comparison of one adapter. Differences are means of absolute differences of log-probabilities, in nats."""

    tokens: int
    mean_difference: float
    top1_agreement: float
    differences: dict[float, float]
    """The mean difference for each scale in PEFT; the smallest should be the trained one's."""

    @property
    def nearest_scale(self) -> float:
        """The scale in PEFT that fits the engine best."""
        return min(self.differences, key=lambda scale: self.differences[scale])

    def results(self) -> dict[str, Any]:
        """Small numbers for the manifest."""
        rounded = {f"{scale:g}": round(value, 4) for scale, value in self.differences.items()}
        return asdict(self) | {
            "mean_difference": round(self.mean_difference, 4),
            "top1_agreement": round(self.top1_agreement, 4),
            "differences": rounded,
        }


def compare(generated: Sequence[Generated], scored: Mapping[float, Sequence[Scored]]) -> Parity:
    """Compare the engine's answers with PEFT's scores of them at each scale.

    Raises:
        ConvertError: nothing to compare, or a log-probability that is not finite.
    """
    engine = [logprob for answer in generated for logprob in answer.logprobs]
    tokens = [token for answer in generated for token in answer.tokens]
    if not engine:
        raise ConvertError("the parity check has no tokens to compare: the engine ended every answer at once")
    differences = {}
    for scale, answers in scored.items():
        peft = [logprob for answer in answers for logprob in answer.logprobs]
        differences[scale] = math.fsum(abs(a - b) for a, b in zip(engine, peft, strict=True)) / len(engine)
    if not all(math.isfinite(value) for value in differences.values()):
        raise ConvertError("the parity check met a log-probability that is not finite: the adapter holds NaN or inf")
    top = [token for answer in scored[TRAINED_SCALE] for token in answer.top]
    agreement = sum(a == b for a, b in zip(tokens, top, strict=True)) / len(tokens)
    return Parity(len(tokens), differences[TRAINED_SCALE], agreement, differences)


def refuse_difference(parity: Parity, bounds: Bounds) -> None:
    """Refuse a GGUF that does not say what was trained.

    Raises:
        ConvertError: names the figure, its bound, and the scale that fits better if one does.
    """
    nearest = parity.nearest_scale
    better = parity.mean_difference - parity.differences[nearest]
    hint = ""
    if nearest != TRAINED_SCALE and better > bounds.nearest_margin:
        hint = f"; the engine behaves as if the adapter's scale were {nearest:g} times what was trained"
        hint += " (the adapter has no effect)" if nearest == 0 else " (a wrong alpha)"
    measured = f"over {parity.tokens} tokens{hint}"
    if parity.mean_difference > bounds.mean_difference:
        raise ConvertError(
            f"parity: the engine's log-probabilities differ by {parity.mean_difference:.3f} nats on average, "
            f"allowed {bounds.mean_difference:g}, {measured}"
        )
    if parity.top1_agreement < bounds.top1_agreement:
        raise ConvertError(
            f"parity: the likeliest token is the same for {parity.top1_agreement:.1%}, "
            f"at least {bounds.top1_agreement:.0%} is expected, {measured}"
        )
    if hint:
        raise ConvertError(f"parity: another scale fits better by {better:.3f} nats, {measured}")
