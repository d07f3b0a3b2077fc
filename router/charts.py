"""Pictures of an evaluation as inline SVG. Colours come from the page's CSS; knows nothing of what is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

CELL, LABEL_WIDTH, HEAD_HEIGHT = 66, 120, 34
WIDTH, HEIGHT = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 56, 22, 14, 46


@dataclass(frozen=True)
class Axis:
    """A scale with ticks; values are placed linearly."""

    label: str
    low: float
    high: float
    percent: bool = False

    def ticks(self) -> list[tuple[float, str]]:
        """Return five values with their texts."""
        values = [self.low + (self.high - self.low) * step / 4 for step in range(5)]
        return [(value, f"{value:.0%}" if self.percent else f"{value:.3g}") for value in values]


class Plot:
    """A plane with two axes, on which marks are put; ``svg`` gives the picture."""

    def __init__(self, title: str, across: Axis, up: Axis) -> None:
        self._across, self._up = across, up
        self._parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
        bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
        for value, text in up.ticks():
            y = self._y(value)
            self._parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
            self._parts.append(f'<text class="tick end" x="{LEFT - 8}" y="{y + 4:.1f}">{text}</text>')
        for value, text in across.ticks():
            self._parts.append(f'<text class="tick" x="{self._x(value):.1f}" y="{bottom + 17}">{text}</text>')
        middle = (TOP + bottom) / 2
        self._parts.append(
            f'<text class="tick" x="{(LEFT + right) / 2}" y="{bottom + 38}">{escape(across.label)}</text>'
            f'<text class="tick" transform="rotate(-90 13 {middle})" x="13" y="{middle}">{escape(up.label)}</text>'
        )

    def line(self, series: str, points: Sequence[tuple[float, float]]) -> None:
        """Join points, in the order given."""
        path = " ".join(f"{self._x(x):.1f},{self._y(y):.1f}" for x, y in points)
        self._parts.append(f'<polyline class="line {escape(series)}" points="{path}"/>')

    def dot(self, series: str, x: float, y: float, tip: str, radius: float = 4.0) -> None:
        """Put one dot."""
        self._parts.append(
            f'<circle class="dot {escape(series)}" cx="{self._x(x):.1f}" cy="{self._y(y):.1f}" r="{radius:.1f}">'
            f"<title>{escape(tip)}</title></circle>"
        )

    def bar(self, series: str, start: float, end: float, value: float, tip: str) -> None:
        """Put one bar that stands on zero, from `start` to `end`."""
        left, width = self._x(start), self._x(end) - self._x(start)
        top = self._y(value)
        self._parts.append(
            f'<rect class="bar {escape(series)}" x="{left + 0.5:.1f}" width="{max(width - 1, 0.5):.1f}" '
            f'y="{top:.1f}" height="{HEIGHT - BOTTOM - top:.1f}"><title>{escape(tip)}</title></rect>'
        )

    def rule(self, value: float, text: str) -> None:
        """Draw a vertical line at `value`, with a text at its top."""
        x = self._x(value)
        side, shift = ("end", -5) if x > (LEFT + WIDTH - RIGHT) / 2 else ("start", 5)
        self._parts.append(
            f'<line class="rule" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
            f'<text class="ruled {side}" x="{x + shift:.1f}" y="{TOP + 11}">{escape(text)}</text>'
        )

    @property
    def svg(self) -> str:
        """The picture."""
        return "\n".join([*self._parts, "</svg>"])

    def _x(self, value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * _place(value, self._across)

    def _y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * _place(value, self._up)


def draw_matrix(title: str, counts: Mapping[str, Mapping[str, int]]) -> str:
    """Draw counts as a heat map, rows and columns by the same labels; shade by the share of the row."""
    labels = list(counts)
    width, height = LABEL_WIDTH + CELL * len(labels) + 8, HEAD_HEIGHT + CELL * len(labels) + 6
    parts = [f'<svg class="matrix" viewBox="0 0 {width} {height}" style="max-width: {width * 1.15:.0f}px" role="img" '
             f'aria-label="{escape(title)}">']  # fmt: skip
    for column, label in enumerate(labels):
        x = LABEL_WIDTH + CELL * (column + 0.5)
        parts.append(
            f'<text class="tick" x="{x}" y="{HEAD_HEIGHT - 10}"><title>{escape(label)}</title>'
            f"{escape(_shorten(label))}</text>"
        )
    for row, label in enumerate(labels):
        y = HEAD_HEIGHT + CELL * row
        parts.append(
            f'<text class="label" x="{LABEL_WIDTH - 10}" y="{y + CELL / 2 + 4}"><title>{escape(label)}</title>'
            f"{escape(_shorten(label, 16))}</text>"
        )
        total = sum(counts[label].values())
        for column, other in enumerate(labels):
            count = counts[label][other]
            share = count / total if total else 0.0
            kind, dark = ("right" if row == column else "wrong"), (" dark" if share > 0.5 else "")
            x = LABEL_WIDTH + CELL * column
            tip = escape(f"{label} decided as {other}: {count} of {total}")
            shade = 0.0 if not count else 0.12 + 0.88 * share
            parts.append(
                f'<g><title>{tip}</title><rect class="cell" x="{x}" y="{y}" width="{CELL - 2}" height="{CELL - 2}"/>'
                f'<rect class="{kind}" x="{x}" y="{y}" width="{CELL - 2}" height="{CELL - 2}" '
                f'fill-opacity="{shade:.2f}"/>'
                f'<text class="count{dark}" x="{x + CELL / 2 - 1}" y="{y + CELL / 2 + 4}">{count or ""}</text></g>'
            )
    return "\n".join([*parts, "</svg>"])


def _place(value: float, axis: Axis) -> float:
    return min(max((value - axis.low) / (axis.high - axis.low), 0.0), 1.0)


def round_up(value: float) -> float:
    """Return the next share, 0–1, whose quarter is a round percentage."""
    return next((share for share in (0.04, 0.08, 0.2, 0.4, 0.6, 0.8) if value <= share), 1.0)


def _shorten(label: str, length: int = 10) -> str:
    return label if len(label) <= length else f"{label[: length - 1]}…"
