"""The page and the Markdown that a summary becomes."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from unit.training.benchmark_world import fill, make_plan, make_subject, make_summary

from training.answers import AnswerLog
from training.charts import Mark, Row, draw
from training.figures import render_markdown
from training.report import render_report

VOID = {"meta", "link", "br", "img", "input", "hr"}


class _Page(HTMLParser):
    """Collects references and checks that tags are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.references: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value or "" for name, value in attrs if name in {"src", "href", "xlink:href", "srcset"}]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def parse(page: str) -> _Page:
    parser = _Page()
    parser.feed(page)
    parser.close()
    return parser


@pytest.fixture
def log(tmp_path: Path) -> AnswerLog:
    return AnswerLog(tmp_path / "answers.jsonl")


def test_the_page_is_well_formed_and_needs_nothing_else(log: AnswerLog) -> None:
    plan = make_plan(make_subject(), make_subject("baking", "Crumbhaus"))
    fill(plan, log)
    page = render_report(make_summary(plan, log))
    parsed = parse(page)
    assert parsed.open == []
    assert parsed.references == []
    assert not re.search(r"url\(|@import|https?://", page)
    assert parsed.tags.count("svg") >= 5
    assert "script" not in parsed.tags


def test_the_page_says_what_it_was_made_with(log: AnswerLog) -> None:
    plan = make_plan()
    fill(plan, log)
    text = parse(render_report(make_summary(plan, log))).text
    for fact in ("Some CPU", "some-base 1.0", "abc", "2026-01-02", "pointsman benchmark gardening", "a <warning>"):
        assert fact in text
    assert "prefers-color-scheme: dark" in text


def test_questions_and_answers_are_escaped_and_targets_marked(log: AnswerLog) -> None:
    plan = make_plan()
    fill(plan, log, {"expert own": "<script>alert(1)</script> Verdania"})
    page = render_report(make_summary(plan, log))
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "<mark>Verdania</mark>" in page


@pytest.mark.parametrize("texts", [{}, {"expert own": "No idea."}, {"vanilla own": "Verdania", "expert own": ""}])
def test_extreme_results_render(log: AnswerLog, texts: dict[str, str]) -> None:
    plan = make_plan(speed=False, repeats=1)
    fill(plan, log, texts)
    summary = make_summary(plan, log, route=False)
    for rendered in (render_report(summary), render_markdown(summary)):
        assert "not measured" in rendered
        assert not re.search(r"\b(inf|[Ii]nfinit[ey]|nan|None)\b", rendered)


def test_a_zero_baseline_is_stated_as_a_lower_bound(log: AnswerLog) -> None:
    plan = make_plan()
    fill(plan, log)
    text = render_markdown(make_summary(plan, log))
    assert "2 mentions in 20 tokens against 0 in 20" in text
    assert "it is at least 0.2 (exact conditional bound" in text


def test_every_markdown_table_is_rectangular(log: AnswerLog) -> None:
    plan = make_plan()
    fill(plan, log)
    widths: list[int] = []
    for line in render_markdown(make_summary(plan, log)).splitlines():
        if line.startswith("|"):
            widths.append(line.count("|") - line.count("\\|"))
            assert widths[-1] == widths[0]
        else:
            widths.clear()


@pytest.mark.parametrize("value", [0.0, 1e-6, 0.37, 3.0, 812.0])
def test_a_chart_holds_every_value(value: float) -> None:
    picture = draw("A <title>", [Row("a & b", [Mark("expert", value, f"{value}"), Mark("vanilla", 0.0, "0", (0, 1))])])
    assert parse(picture).open == []
    assert "a &amp; b" in picture
    places = [float(x) for x in re.findall(r'(?:cx|x2)="([\d.]+)"', picture)]
    assert max(places) <= 600.0
