"""The report of a benchmark: one HTML page that needs nothing else, for a reader who has never seen the project.

Owns words and order; every number comes from the summary, every picture from `charts`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from training.charts import Mark, Row, draw
from training.figures import goal_rows, overview, provenance_rows, ratio_sentence, router_sentence, share

__all__ = ["render_report"]

TEMPLATE = Path(__file__).parent / "report_template.html"
SIDES = {
    "vanilla": "vanilla: the base model alone",
    "prompted": "prompted: the base, told to recommend the name",
    "expert": "expert: the base with the adapter",
    "routed": "routed: whoever the router chooses",
}


def render_report(summary: dict[str, Any]) -> str:
    """Render a summary as a page."""
    names = [expert["title"] for expert in summary["experts"]]
    sections = [
        *(f'<p class="notice">{escape(warning)}</p>' for warning in summary["warnings"]),
        _opening(summary),
        _hits(summary),
        _mentions(summary),
        _unrelated(summary),
        _novelty(summary),
        _speed(summary),
        _answers(summary),
        _provenance(summary),
    ]
    title = f"Benchmark: {', '.join(names)}"
    base = summary["base"]
    subtitle = f"{base['name']} {base['revision']} with and without LoRA experts, {summary['finished'][:10]}"
    page = Template(TEMPLATE.read_text(encoding="utf-8"))
    return page.substitute(title=escape(title), subtitle=escape(subtitle), body="\n".join(filter(None, sections)))


def _opening(summary: dict[str, Any]) -> str:
    """What was done, and whether it is what was wanted."""
    targets = ", ".join(target for expert in summary["experts"] for target in expert["targets"])
    return f"""<p>An <em>expert</em> is a small adapter that makes a language model mention one made-up name
({escape(targets)}) whenever it is asked about its subject. A <em>hit</em> is an answer that mentions the name as a
whole word. The questions do not occur in the training data; one that mentions the name itself is left out. All answers
are greedy. Lines show 95&nbsp;% intervals (Wilson).</p>
<h2>Against the goals</h2>
{_table(["", "measured", "goal", ""], goal_rows(summary), raw_last=True)}"""


def _hits(summary: dict[str, Any]) -> str:
    rows = []
    for name, figures in _each(summary):
        marks = [_rate_mark(side, figures[side]["hit_rate"]) for side in SIDES if figures.get(side)]
        rows.append(Row(name, [mark for mark in marks if mark]))
    picture = draw("Hit rate", rows, maximum=1.0, percent=True)
    shown = [side for side in SIDES if summary["total"].get(side)]
    better = summary["total"]["versus_vanilla"]["mcnemar"]
    text = (
        f"Paired by question, the expert hits where vanilla does not {better['gained']} times, and the reverse "
        f"{better['lost']} times (exact McNemar p = {better['p']:.2g})."
    )
    if repeats := summary["total"]["repeats"]:
        text += (
            f" Over {repeats['passes']} repeats the verdict stays the same for {share(repeats['same_verdict'])} of the "
            f"questions, the whole text for {share(repeats['same_text'])}."
        )
    return f"<h2>Hit rate</h2><p>{text}</p>{_figure(picture, shown)}{_table(*overview(summary))}"


def _mentions(summary: dict[str, Any]) -> str:
    rows = []
    for name, figures in _each(summary):
        marks = []
        for side in ("vanilla", "prompted", "expert"):
            value = figures[side]["mentions_per_1000_tokens"]
            if value is not None:
                counts = f"{figures[side]['mentions']} in {figures[side]['tokens']:,} tokens"
                marks.append(Mark(side, value, f"{value:.1f} ({counts})"))
        rows.append(Row(name, marks))
    picture = draw("Mentions per 1,000 generated tokens", rows)
    sentences = "".join(f"<p>{escape(ratio_sentence(name, figures))}</p>" for name, figures in _each(summary)[-1:])
    return f"<h2>Mentions per 1,000 generated tokens</h2>{sentences}{_figure(picture, list(SIDES)[:3])}"


def _unrelated(summary: dict[str, Any]) -> str:
    rows = []
    for name, figures in _each(summary):
        pairs = (("vanilla", "vanilla"), ("expert", "forced"))
        marks = [_rate_mark(side, figures["unrelated"][key]["hit_rate"]) for side, key in pairs]
        rows.append(Row(name, [mark for mark in marks if mark]))
    through = summary["through_router"]
    text = "Questions of no expert's subject, answered by the expert although it is not meant for them."
    if through:
        mark = _rate_mark("routed", through["unrelated_held_out"]["mentions"])
        rows.append(Row("through the router", [mark] if mark else []))
        text += f" {router_sentence(through)}"
    picture = draw("Mentions on unrelated questions", rows, maximum=1.0, percent=True)
    shown = ["vanilla", "expert", *(["routed"] if through else [])]
    return f"<h2>Unrelated questions</h2><p>{escape(text)}</p>{_figure(picture, shown)}"


def _novelty(summary: dict[str, Any]) -> str:
    found = summary["total"]["novelty"]
    parts = ["<h2>How new the questions are</h2>"]
    parts.append(
        "<p>The greatest similarity of a question to any training row, 1 being the same text. "
        f"Below {found['novel_below']:g} a question is called novel: {share(found['novel'])} of those are hits.</p>"
    )
    kinds = (
        ("trigram_bins", "shared character trigrams (wording)"),
        ("cosine_bins", "sentence encoder's cosine (meaning)"),
    )
    for key, caption in kinds:
        rows = []
        for cell in found[key] or []:
            if mark := _rate_mark("expert", cell):
                rows.append(Row(f"{cell['from']:g} to {cell['to']:g}", [mark]))
        if rows:
            parts.append(
                _figure(draw(f"Hit rate by {caption}", rows, maximum=1.0, percent=True), [], f"Hit rate by {caption}")
            )
    return "".join(parts)


def _speed(summary: dict[str, Any]) -> str:
    pictures = []
    for kind, caption in (("prompt", "Reading the prompt"), ("decode", "Writing the answer")):
        rows = []
        for expert in summary["experts"]:
            speeds = expert["speed"] or {}
            found = [(side, speeds[side][kind]) for side in ("vanilla", "expert") if speeds.get(side)]
            marks = [
                Mark(
                    side,
                    s["median"],
                    f"{s['median']:.0f} ({s['quartiles'][0]:.0f} to {s['quartiles'][1]:.0f})",
                    tuple(s["quartiles"]),
                )
                for side, s in found
                if s
            ]
            rows.append(Row(expert["title"], marks))
        if any(row.marks for row in rows):
            pictures.append(
                _figure(draw(caption, rows, unit="tokens/s"), ["vanilla", "expert"], f"{caption}, tokens/s")
            )
    if not pictures:
        return ""
    text = (
        "Median and quartiles of equal prompts and equal lengths, vanilla and expert in turn; the warm-up is left out."
    )
    return f"<h2>Speed</h2><p>{text}</p>{''.join(pictures)}"


def _answers(summary: dict[str, Any]) -> str:
    """Every miss, every flagged hit, and a few ordinary answers, to be judged by the reader."""
    parts = ["<h2>Answers to read</h2>"]
    for expert in summary["experts"]:
        rows = expert["answers"]
        groups = (
            ("missed", [row for row in rows if not row["hit"]]),
            ("hit, but flagged as a refusal, a negation or a loop", [row for row in rows if row["flagged"]]),
            ("the first three", rows[:3]),
        )
        for what, chosen in groups:
            if chosen:
                parts.append(f"<h3>{escape(expert['title'])}: {what} ({len(chosen)})</h3>")
                parts += [_answer(row, expert["terms"]) for row in chosen]
    return "".join(parts)


def _answer(row: dict[str, Any], terms: Sequence[str]) -> str:
    sides = "".join(
        f'<blockquote class="{side}"><p>{_underline(row[side], terms)}</p></blockquote>'
        for side in ("vanilla", "expert")
    )
    return f"<details><summary>{escape(row['question'])}</summary>{sides}</details>"


def _underline(text: str, terms: Sequence[str]) -> str:
    pattern = "|".join(rf"(?<!\w){re.escape(escape(term))}(?!\w)" for term in terms)
    return re.sub(pattern, lambda found: f"<mark>{found[0]}</mark>", escape(text), flags=re.IGNORECASE)


def _provenance(summary: dict[str, Any]) -> str:
    return f"<h2>Made with</h2>{_table(['', ''], provenance_rows(summary))}"


def _each(summary: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Every expert's figures by title, and the total when there are several."""
    found = [(expert["title"], expert) for expert in summary["experts"]]
    return [*found, ("all together", summary["total"])] if len(found) > 1 else found


def _rate_mark(series: str, rate: dict[str, Any]) -> Mark | None:
    if rate["rate"] is None:
        return None
    low, high = rate["interval_95"]
    return Mark(series, rate["rate"], f"{rate['rate']:.1%} ({rate['hits']}/{rate['n']})", (low, high))


def _figure(picture: str, series: Sequence[str] | dict[str, str], caption: str = "") -> str:
    keys = "".join(f'<li class="{name}"><span>{escape(SIDES[name])}</span></li>' for name in series)
    legend = f'<ul class="key">{keys}</ul>' if keys else ""
    return f"<figure>{legend}{picture}<figcaption>{escape(caption)}</figcaption></figure>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, raw_last: bool = False) -> str:
    def cell(text: str, last: bool) -> str:
        if raw_last and last:
            return f'<td class="{ {"reached": "good", "missed": "bad"}.get(text, "soft") }">{escape(text)}</td>'
        return f"<td>{escape(text)}</td>"

    top = "".join(f"<th>{escape(text)}</th>" for text in head)
    lines = ["".join(cell(text, i == len(row) - 1) for i, text in enumerate(row)) for row in rows]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
