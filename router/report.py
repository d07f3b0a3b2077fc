"""One self-contained HTML page about an evaluation: numbers, four pictures, the mistakes. Measures nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from string import Template

from router.charts import Axis, Plot, draw_matrix, round_up
from router.evaluate import Evaluation

TEMPLATE = Path(__file__).parent / "report.html"
MOST_MISTAKES = 200
"""Listed on the page; all of them stand in the decisions and in the JSON."""

MOST_BESIDE = 5
"""Of more routes, the matrix needs the whole width."""


def render_report(result: Evaluation, *, title: str, facts: Sequence[str] = ()) -> str:
    """Return the page.

    Args:
        facts: what was measured: encoder, files, date; each a few words.
    """
    decided = f"<div>{_confusion(result)}</div><div>{_routes(result)}</div>"
    if len(result.per_route) <= MOST_BESIDE:
        decided = f'<div class="pair">{decided}</div>'
    sections = [_tiles(result), decided, _scores(result), _mistakes(result)]
    template = Template(TEMPLATE.read_text(encoding="utf-8"))
    subtitle = " · ".join(escape(fact) for fact in facts)
    return template.substitute(title=escape(title), subtitle=subtitle, body="\n".join(sections))


def _tiles(result: Evaluation) -> str:
    latency = result.latency_ms
    tiles = [
        (_percent(result.accuracy), f"accuracy: the best route is right, of {result.n_in_scope} in scope"),
        (_percent(result.correct), "correct decisions, of those in scope"),
        (_percent(result.false_abstain), "false abstentions, of those in scope"),
        (_percent(result.out_of_scope_recall), f"recall out of scope, of {result.n_out_of_scope}"),
        (_number(result.auroc), "AUROC, in scope against out of scope"),
        (_number(result.calibration_error), "expected calibration error"),
        (f"{latency['p50']:.1f} ms", f"for one decision; p95 {latency['p95']:.1f} ms"),
    ]
    boxes = "".join(f'<div class="tile"><b>{value}</b><span>{escape(text)}</span></div>' for value, text in tiles)
    return f'<div class="tiles">{boxes}</div>'


def _confusion(result: Evaluation) -> str:
    labels = [label for label, row in result.confusion.items() if sum(row.values()) or label in result.per_route]
    counts = {label: {other: result.confusion[label][other] for other in labels} for label in labels}
    return _figure(
        "What was decided",
        "A row for each true label, a column for each decision; “base” is no route. Shade: share of the row.",
        draw_matrix("confusion matrix", counts),
    )


def _scores(result: Evaluation) -> str:
    figures = [_histogram(result), _reliability(result), _errors(result), _risk(result)]
    return f'<div class="pair">{"".join(figures)}</div>'


def _histogram(result: Evaluation) -> str:
    shares = {name: [n / (sum(counts) or 1) for n in counts] for name, counts in result.score_counts.items()}
    top = round_up(max(share for values in shares.values() for share in values))
    plot = Plot("score histogram", Axis("best score", 0, 1), Axis("share of the texts", 0, top, percent=True))
    for name, series in (("out_of_scope", "out"), ("in_scope", "in")):
        counts = result.score_counts[name]
        for place, share in enumerate(shares[name]):
            if counts[place]:
                start, end = place / len(counts), (place + 1) / len(counts)
                tip = f"{start:.2f} to {end:.2f}: {counts[place]} texts {name.replace('_', ' ')}"
                plot.bar(series, start, end, share, tip)
    plot.rule(result.threshold, f"threshold {result.threshold:.2f}")
    key = _key([("in", "in scope"), ("out", "out of scope")])
    return _figure("Scores", "Texts left of the threshold go to the base model.", key + plot.svg)


def _reliability(result: Evaluation) -> str:
    plot = Plot("reliability", Axis("score", 0, 1), Axis("share of best routes that are right", 0, 1, percent=True))
    plot.line("ideal", [(0, 0), (1, 1)])
    most = max((row["count"] for row in result.reliability), default=1)
    plot.line("in", [(row["score"], row["right"]) for row in result.reliability])
    for row in result.reliability:
        tip = f"score {row['score']:.2f}: {row['right']:.0%} of {row['count']} right"
        plot.dot("in", row["score"], row["right"], tip, radius=3 + 6 * (row["count"] / most) ** 0.5)
    text = "Does a score of 0.8 mean that 80 % are right? On the dotted line it does. Larger dots are more texts."
    return _figure("Reliability", text, plot.svg)


def _errors(result: Evaluation) -> str:
    plot = Plot("errors by threshold", Axis("threshold", 0, 1), Axis("share", 0, 1, percent=True))
    curve = result.threshold_curve
    if result.n_in_scope:
        plot.line("in", [(row["threshold"], row["false_abstain"]) for row in curve])
    if result.n_out_of_scope:
        plot.line("out", [(row["threshold"], 1 - row["out_of_scope_recall"]) for row in curve])
    plot.rule(result.threshold, f"threshold {result.threshold:.2f}")
    key = _key([("in", "in scope, sent to the base"), ("out", "out of scope, sent to an expert")])
    return _figure("Both kinds of error, at other thresholds", "A good threshold has both low.", key + plot.svg)


def _risk(result: Evaluation) -> str:
    curve = [row for row in result.threshold_curve if row["coverage"] > 0]
    top = round_up(max((row["risk"] for row in curve), default=1.0))
    up = Axis("share of them that is wrong", 0, top, percent=True)
    plot = Plot("risk and coverage", Axis("share of all texts given to an expert", 0, 1, percent=True), up)
    plot.line("in", [(row["coverage"], row["risk"]) for row in curve])
    chosen = min(curve, key=lambda row: abs(row["threshold"] - result.threshold), default=None)
    if chosen:
        plot.dot("in", chosen["coverage"], chosen["risk"], f"threshold {result.threshold:.2f}", radius=6)
    text = "The dot is the threshold in use; to its left fewer texts reach an expert, and fewer wrong ones."
    return _figure("Risk and coverage", text, plot.svg)


def _routes(result: Evaluation) -> str:
    rows = [
        (name, f"{row['texts']:.0f}", _percent(row["recall"]), _percent(row["precision"]))
        for name, row in result.per_route.items()
    ]
    text = "Recall: of the route’s texts, those sent there. Precision: of those sent there, the route’s."
    return _figure("Routes", text, _table(["route", "texts", "recall", "precision"], rows))


def _mistakes(result: Evaluation) -> str:
    mistakes = sorted(result.mistakes, key=lambda row: -row["score"])
    if not mistakes:
        return "<h2>Mistakes</h2><p>None.</p>"
    rows = [
        (f"{row['score']:.2f}", row["expected"], row["decided"], _shorten(row["text"]))
        for row in mistakes[:MOST_MISTAKES]
    ]
    more = f", the {MOST_MISTAKES} surest of {len(mistakes)}" if len(mistakes) > MOST_MISTAKES else ""
    return f"<h2>Mistakes{more}</h2>{_table(['score', 'expected', 'decided', 'text'], rows)}"


def _shorten(text: str, length: int = 300) -> str:
    return text if len(text) <= length else f"{text[:length]}…"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    numbers = {"texts", "recall", "precision", "score"}
    kinds = [' class="number"' if name in numbers else ' class="text"' if name == "text" else "" for name in header]
    head = "".join(f"<th{kind}>{escape(name)}</th>" for kind, name in zip(kinds, header, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{escape(cell)}</td>" for kind, cell in zip(kinds, row, strict=True)) + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def _figure(title: str, text: str, picture: str) -> str:
    return f"<figure><figcaption><b>{escape(title)}</b>{escape(text)}</figcaption>{picture}</figure>"


def _key(entries: Sequence[tuple[str, str]]) -> str:
    items = "".join(f'<li class="{series}"><span>{escape(text)}</span></li>' for series, text in entries)
    return f'<ul class="key">{items}</ul>'


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
