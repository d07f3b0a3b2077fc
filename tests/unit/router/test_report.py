"""The page: well-formed, self-contained, and with what was measured in it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html.parser import HTMLParser

import pytest

from router import Decided, Labelled, Reason, RouteDecision, render_report, summarise
from router.charts import round_up

ROUTES = ("baking", "gardening <script>")


def decide(expected: str | None, named: str | None, score: float, text: str = "text") -> Decided:
    scores = {ROUTES[0]: score, ROUTES[1]: 0.01}
    reason = Reason.ROUTED if named else Reason.FALLBACK
    decision = RouteDecision(named, reason, score, scores, 0.5, ROUTES[1], score - 0.01, 1, False)
    return Decided(Labelled((text,), expected), decision, 0.002)


class Tags(HTMLParser):
    """Counts open tags, to see that every one is closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


DECIDED = [
    decide("baking", "baking", 0.97),
    decide("baking", None, 0.31, "a <b>missed</b> & lost one"),
    decide(None, "baking", 0.62, "x" * 1000),
    decide(None, None, 0.04),
]


@pytest.mark.parametrize("decided", [DECIDED, DECIDED[:1], DECIDED[2:]], ids=["both", "in scope", "out of scope"])
def test_the_page_is_well_formed_and_stands_alone(decided: list[Decided]) -> None:
    page = render_report(summarise(decided, ROUTES, 0.5), title="A <title>", facts=["4 texts"])
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert tags.seen.count("svg") == 5
    assert tags.links == []
    assert "script" not in tags.seen
    assert "nan" not in re.sub(r"<style>.*</style>", "", page, flags=re.DOTALL).replace("<title>", "")


def test_numbers_and_mistakes_stand_on_the_page() -> None:
    page = render_report(summarise(DECIDED, ROUTES, 0.5), title="Router")
    assert "50.0%" in page
    assert "2.0 ms" in page
    assert "a &lt;b&gt;missed&lt;/b&gt; &amp; lost one" in page
    assert "x" * 301 not in page
    assert "baking decided as base: 1 of 2" in page


def test_an_axis_ends_on_a_round_share() -> None:
    assert [round_up(value) for value in (0.0, 0.04, 0.05, 0.37, 0.81, 1.0)] == [0.04, 0.04, 0.08, 0.4, 1.0, 1.0]
