"""What counts as the same adapter: figures, bounds, and the mistakes that each must be called by its name."""

from __future__ import annotations

import math

import pytest

from training.convert_engine import Generated
from training.errors import ConvertError
from training.parity import DEQUANTISED, OTHER_WEIGHTS, Parity, Scored, compare, refuse_difference


def test_differences_are_means_over_all_tokens_at_each_scale() -> None:
    generated = [Generated((1, 2), (-0.5, -0.1)), Generated((3,), (-1.0,))]
    trained = [Scored((-0.6, -0.1), (1, 2)), Scored((-1.2,), (9,))]
    absent = [Scored((-3.5, -0.1), (7, 2)), Scored((-1.0,), (9,))]
    parity = compare(generated, {0.0: absent, 1.0: trained})
    assert parity.tokens == 3
    assert parity.mean_difference == pytest.approx(0.1)
    assert parity.differences == {0.0: pytest.approx(1.0), 1.0: pytest.approx(0.1)}
    assert parity.top1_agreement == pytest.approx(2 / 3)
    assert parity.nearest_scale == 1.0


def test_no_token_is_no_parity() -> None:
    with pytest.raises(ConvertError, match="no tokens to compare"):
        compare([Generated((), ())], {1.0: [Scored((), ())]})


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_adapter_with_numbers_that_are_none_is_refused(value: float) -> None:
    with pytest.raises(ConvertError, match="not finite"):
        compare([Generated((1,), (-0.5,))], {1.0: [Scored((value,), (1,))]})


def parity(agreement: float = 0.97, **differences: float) -> Parity:
    """A comparison of 384 tokens; `s0`, `s05`, `s1`, `s2` are the differences at these scales."""
    scales = {"s0": 0.0, "s05": 0.5, "s1": 1.0, "s2": 2.0}
    by_scale = {scales[name]: value for name, value in differences.items()}
    return Parity(384, by_scale[1.0], agreement, by_scale)


# The figures of the first expert that was measured, and of the same adapter with each mistake.
GOOD = parity(s0=1.80, s05=0.42, s1=0.040, s2=0.67)
WRONG = [
    (parity(0.63, s0=2.87, s05=1.34, s1=0.671, s2=0.043), "2 times what was trained (a wrong alpha)"),
    (parity(0.61, s0=0.55, s05=0.040, s1=0.574, s2=2.19), "0.5 times what was trained (a wrong alpha)"),
    (parity(0.47, s0=0.035, s05=0.64, s1=1.509, s2=3.32), "0 times what was trained (the adapter has no effect)"),
    (parity(0.97, s0=1.8, s05=0.42, s1=0.11, s2=0.67), "differ by 0.110 nats on average, allowed 0.1"),
    (parity(0.85, s0=1.8, s05=0.42, s1=0.05, s2=0.67), "the likeliest token is the same for 85.0%, at least 90%"),
    (parity(0.97, s0=1.8, s05=0.03, s1=0.09, s2=0.67), "another scale fits better by 0.060 nats"),
]


def test_a_faithful_adapter_passes() -> None:
    refuse_difference(GOOD, DEQUANTISED)


@pytest.mark.parametrize(("wrong", "message"), WRONG)
def test_a_mistake_is_named(wrong: Parity, message: str) -> None:
    with pytest.raises(ConvertError) as refusal:
        refuse_difference(wrong, DEQUANTISED)
    assert message in str(refusal.value)
    assert "over 384 tokens" in str(refusal.value)


@pytest.mark.parametrize("number", range(3))
def test_other_weights_have_wider_bounds_that_still_find_a_wrong_scale(number: int) -> None:
    refuse_difference(parity(0.8, s0=1.8, s05=0.42, s1=0.25, s2=0.67), OTHER_WEIGHTS)
    with pytest.raises(ConvertError):
        refuse_difference(WRONG[number][0], OTHER_WEIGHTS)


def test_an_adapter_too_faint_to_tell_its_scale_passes() -> None:
    refuse_difference(parity(s0=0.046, s05=0.041, s1=0.040, s2=0.038), DEQUANTISED)


def test_the_manifest_gets_small_numbers() -> None:
    assert parity(0.966666, s0=1.80123456, s1=0.0400001).results() == {
        "tokens": 384,
        "mean_difference": 0.04,
        "top1_agreement": 0.9667,
        "differences": {"0": 1.8012, "1": 0.04},
    }
