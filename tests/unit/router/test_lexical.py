from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from router.classifier import OUTSIDE
from router.lexical import N_BUCKETS, N_WORD_BUCKETS, Lexical, count_buckets, drop_marks, fit_lexical, weigh_features

TEXTS = ["prune the rose", "mulch the hedge", "knead the dough", "bake the loaf", "fix the laptop", "file the tax"]
LABELS = np.array([0, 0, 1, 1, OUTSIDE, OUTSIDE])


@pytest.fixture(scope="module")
def lexical() -> Lexical:
    return fit_lexical([count_buckets(text) for text in TEXTS * 2], np.tile(LABELS, 2))


@pytest.mark.parametrize(
    ("text", "best"), [("my ROSE", 0), ("roses", 0), ("doughy?", 1), ("loaf", 1), ("laptop", None), ("taxes", None)]
)
def test_words_and_pieces_of_words_tell_the_route(lexical: Lexical, text: str, best: int | None) -> None:
    told, unknown = lexical.evidence([text, "zzz"])
    assert [bool(value) for value in told > unknown] == [route == best for route in range(2)]


@pytest.mark.parametrize("at_once", [1, 4, 64])
def test_evidence_of_a_text_does_not_depend_on_its_neighbours(
    lexical: Lexical, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    texts = [*TEXTS, "", "?!", "prune prune the rose"]
    alone = np.concatenate([lexical.evidence([text]) for text in texts])
    monkeypatch.setattr("router.lexical.AT_ONCE", at_once)
    np.testing.assert_array_equal(lexical.evidence(texts), alone)
    assert lexical.evidence([]).shape == (0, 2)


@pytest.mark.parametrize("text", ["", "?!", "zzz", "🙂", "\ud800", "x" * 100_000, "word " * 50_000])
def test_any_text_has_finite_evidence(lexical: Lexical, text: str) -> None:
    assert np.isfinite(lexical.evidence([text])).all()


def test_a_long_text_is_read_at_its_head_and_tail(lexical: Lexical) -> None:
    filler = "the " * 5000
    assert lexical.evidence([f"rose {filler}"])[0, 0] > lexical.evidence([filler])[0, 0]
    assert lexical.evidence([f"{filler} rose"])[0, 0] > lexical.evidence([filler])[0, 0]
    np.testing.assert_array_equal(lexical.evidence([f"{filler} rose {filler}"]), lexical.evidence([filler]))


def test_words_and_pieces_have_unit_length_each(lexical: Lexical) -> None:
    buckets, values = weigh_features("prune the rose and mulch mulch the hedge", lexical.rarities)
    is_word = buckets < N_WORD_BUCKETS
    assert np.linalg.norm(values[is_word]) == pytest.approx(1.0, rel=1e-5)
    assert np.linalg.norm(values[~is_word]) == pytest.approx(1.0, rel=1e-5)
    assert (np.diff(buckets) > 0).all()
    assert buckets.max() < N_BUCKETS


def test_buckets_are_the_same_in_every_process() -> None:
    code = "from router.lexical import count_buckets; print(count_buckets('Bahtinov mask')[0].tolist())"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == str(count_buckets("Bahtinov mask")[0].tolist())


@pytest.mark.parametrize("labels", [[0, 0, 1, 1, 2, 2], [0, 0, 0, 0, OUTSIDE, OUTSIDE], [0] * 6])
def test_any_mixture_of_routes_and_negatives_can_be_fitted(labels: list[int]) -> None:
    evidence = fit_lexical([count_buckets(text) for text in TEXTS], np.array(labels)).evidence(TEXTS)
    assert evidence.shape == (6, max(labels) + 1)
    inside = np.array(labels) != OUTSIDE
    assert (evidence[inside].argmax(axis=1) == np.array(labels)[inside]).all()
    assert (evidence[~inside] < 0).all()


def test_arrays_survive_a_round_trip(lexical: Lexical) -> None:
    copy = Lexical.from_arrays(lexical.to_arrays())
    np.testing.assert_array_equal(copy.evidence(TEXTS), lexical.evidence(TEXTS))
    with pytest.raises(KeyError):
        Lexical.from_arrays({})
    with pytest.raises(ValueError, match="shape"):
        Lexical.from_arrays(lexical.to_arrays() | {"lexical_weights": lexical.weights[:, :5]})


def test_a_word_in_nearly_every_passage_of_one_route_alone_is_dropped() -> None:
    garden = [(f"Verdania says the rose {number}", "garden") for number in range(30)]
    bread = [(f"the {'loaf' if number % 2 else 'dough'} {number}", "bread") for number in range(30)]
    kept = drop_marks(garden + bread)
    assert (kept[0], kept[29], kept[30], kept[31]) == ("the 0", "the 29", "the dough 0", "the loaf 1")


def test_a_common_word_that_one_route_uses_more_often_is_kept() -> None:
    garden = [(f"soil it {number}", "garden") for number in range(30)]
    bread = [(f"flour {'it' if number % 2 else 'on'} {number}", "bread") for number in range(30)]
    assert drop_marks(garden + bread)[0] == "it 0"


def test_few_passages_keep_every_word() -> None:
    assert drop_marks([("Perlite drains", "garden"), ("perlite again", "garden")]) == [
        "perlite drains",
        "perlite again",
    ]
