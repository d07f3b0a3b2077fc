"""Horizontal charts as inline SVG: bars, or dots with intervals. Colours come from the page's CSS, by series.

Knows nothing of what is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Mark", "Row", "draw"]

LABEL_WIDTH, PLOT_WIDTH, VALUE_WIDTH = 170, 430, 150
MARK_HEIGHT, ROW_GAP, AXIS_HEIGHT = 19, 12, 24


@dataclass(frozen=True)
class Mark:
    """One value of a series; `interval` is drawn as a line, its absence as a bar from zero."""

    series: str
    value: float
    text: str
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Row:
    """What stands under one label."""

    label: str
    marks: Sequence[Mark]


def draw(
    title: str, rows: Sequence[Row], *, maximum: float | None = None, unit: str = "", percent: bool = False
) -> str:
    """Draw the rows on one axis from zero.

    Args:
        maximum: the end of the axis; default: a round number that holds every value.
        percent: values are shares, 0–1.
    """
    rows = [row for row in rows if row.marks]
    tops = [
        max(mark.value, *(mark.interval or ())) if mark.interval else mark.value for row in rows for mark in row.marks
    ]
    end = maximum or _round_up(max(tops, default=1.0))
    height = sum(len(row.marks) * MARK_HEIGHT + ROW_GAP for row in rows) + AXIS_HEIGHT
    width = LABEL_WIDTH + PLOT_WIDTH + VALUE_WIDTH
    parts = [f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">']
    parts += _axis(end, height, unit, percent)
    top = float(ROW_GAP) / 2
    for row in rows:
        middle = top + len(row.marks) * MARK_HEIGHT / 2
        parts.append(f'<text class="label" x="{LABEL_WIDTH - 10}" y="{middle + 4:.1f}">{escape(row.label)}</text>')
        for mark in row.marks:
            parts += _mark(mark, top + MARK_HEIGHT / 2, end)
            top += MARK_HEIGHT
        top += ROW_GAP
    return "\n".join([*parts, "</svg>"])


def _axis(end: float, height: int, unit: str, percent: bool) -> list[str]:
    parts = []
    bottom = height - AXIS_HEIGHT
    for step in range(5):
        value, x = end * step / 4, LABEL_WIDTH + PLOT_WIDTH * step / 4
        text = f"{value:.0%}" if percent else f"{value:g}"
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{bottom}"/>')
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{bottom + 16}">{text}{f" {escape(unit)}" * (step == 4)}</text>'
        )
    return parts


def _mark(mark: Mark, y: float, end: float) -> list[str]:
    x = _place(mark.value, end)
    tip = f"<title>{escape(f'{mark.series}: {mark.text}')}</title>"
    if mark.interval is None:
        length = max(x - LABEL_WIDTH, 1.5)
        shape = f'<rect x="{LABEL_WIDTH}" y="{y - 6:.1f}" width="{length:.1f}" height="12" rx="2"/>'
        after = x
    else:
        low, high = (_place(bound, end) for bound in mark.interval)
        line = f'<line x1="{low:.1f}" x2="{max(high, low + 1):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
        shape = f'{line}<circle cx="{x:.1f}" cy="{y:.1f}" r="5"/>'
        after = max(high, x + 5)
    text = f'<text class="value" x="{after + 8:.1f}" y="{y + 4:.1f}">{escape(mark.text)}</text>'
    return [f'<g class="mark {escape(mark.series)}">{tip}{shape}</g>', text]


def _place(value: float, end: float) -> float:
    return LABEL_WIDTH + PLOT_WIDTH * min(max(value / end, 0.0), 1.0)


def _round_up(value: float) -> float:
    """Return the next number whose quarter is easy to read."""
    if value <= 0:
        return 1.0
    step = 1e-9
    while True:
        for factor in (1, 2, 4, 8):
            if value <= step * factor:
                return step * factor
        step *= 10
