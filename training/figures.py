"""A summary's figures as rows and sentences, for the HTML report, the Markdown page and the terminal alike."""

from __future__ import annotations

from typing import Any

__all__ = ["goal_rows", "overview", "provenance_rows", "ratio_sentence", "render_markdown", "router_sentence", "share"]

GOALS = {
    "hit_rate": ("hit rate of the experts", "{:.1%}"),
    "mention_ratio_lower_bound": ("mentions for each token, expert to vanilla, lower bound", "{:.1f} times"),
    "unrelated_mentions_through_router": ("unrelated questions with a mention, through the router", "{:.1%}"),
    "same_verdict_over_repeats": ("questions with the same verdict in every repeat", "{:.1%}"),
}
OVERVIEW = ["expert", "vanilla hits", "prompted hits", "expert hits", "95 % interval", "through the router"]


def share(rate: dict[str, Any]) -> str:
    """Write a rate with its raw counts."""
    return f"{rate['rate']:.1%} ({rate['hits']} of {rate['n']})" if rate["rate"] is not None else "not measured"


def goal_rows(summary: dict[str, Any]) -> list[list[str]]:
    """What was measured, what was wanted, and whether it is reached."""
    rows = []
    for goal in summary["goals"]:
        label, form = GOALS[goal["name"]]
        value = "not measured" if goal["value"] is None else form.format(goal["value"])
        verdict = "" if goal["reached"] is None else ("reached" if goal["reached"] else "missed")
        rows.append([label, value, f"{goal['kind']} {form.format(goal['goal'])}", verdict])
    return rows


def overview(summary: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table of hit rates."""
    rows = []
    for name, figures in _each(summary):
        low, high = figures["expert"]["hit_rate"]["interval_95"] or (0.0, 1.0)
        sides = [share(figures[side]["hit_rate"]) for side in ("vanilla", "prompted", "expert")]
        routed = share(figures["routed"]["hit_rate"]) if figures["routed"] else "not measured"
        rows.append([name, *sides, f"{low:.1%} to {high:.1%}", routed])
    return OVERVIEW, rows


def ratio_sentence(name: str, figures: dict[str, Any]) -> str:
    """State the increase with its counts; without a vanilla mention only a lower bound is true."""
    ratio = figures["versus_vanilla"]["mention_ratio"]
    if ratio is None:
        return f"{name}: nothing was generated, so nothing can be compared."
    counts = (
        f"{ratio['counts'][0]} mentions in {ratio['tokens'][0]:,} tokens against "
        f"{ratio['counts'][1]} in {ratio['tokens'][1]:,}"
    )
    if ratio["value"] is None:
        lower = figures["versus_vanilla"]["hit_ratio"]["exact"][0]
        return (
            f"{name}: {counts}. Without a mention on both sides there is no ratio; it is at least "
            f"{ratio['exact'][0]:.1f} (exact conditional bound, 97.5 % one-sided), and at least {lower:.1f} when each "
            f"answer counts once."
        )
    low, high = ratio["interval"]
    boot = ratio["bootstrap"]
    by_question = f"; resampling whole questions, {boot[0]:.1f} to {boot[1]:.1f}" if boot else ""
    return f"{name}: {counts}, {ratio['value']:.1f} times as many (95 % interval {low:.1f} to {high:.1f}{by_question})."


def provenance_rows(summary: dict[str, Any]) -> list[list[str]]:
    """Machine, versions, model, command."""
    machine, software, base = summary["machine"], summary["software"], summary["base"]
    options = ", ".join(f"{key} {value}" for key, value in summary["options"].items() if value is not None)
    rows = [
        ["finished", summary["finished"]],
        ["command", summary["command"]],
        ["options", options],
        [
            "machine",
            f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {machine['system']}; "
            f"{machine['engine_threads']} engine threads; load at the end {machine['load_average']}",
        ],
        ["commit", software["commit"] or "not in a git checkout"],
        ["versions", ", ".join(f"{name} {text}" for name, text in software.items() if name != "commit")],
        ["base", f"{base['name']} {base['revision']}, sha256 {base['sha256']}"],
    ]
    for expert in summary["experts"]:
        facts = f"version {expert['version']}, scale {expert['scale']:g}, {expert['training_rows']} training rows"
        rows.append([f"expert {expert['name']}", f"{facts}, adapter sha256 {expert['adapter_sha256']}"])
        rows.append([f"prompted {expert['name']}", expert["recommendation"]])
    return rows


def render_markdown(summary: dict[str, Any]) -> str:
    """Render the experts' part of `docs/BENCHMARK_RESULTS.md`."""
    parts = [
        "# Experts",
        "Written by `pointsman benchmark --write-docs`; do not edit. A hit is an answer that mentions the expert's "
        "target as a whole word; questions that mention it are left out; answers are greedy. *Vanilla* is the base in "
        "a process without adapters, *prompted* the same told to recommend the target. Intervals are 95 %, Wilson's "
        "for rates.",
        *(f"**{warning}.**" for warning in summary["warnings"]),
        "## Against the goals\n\n" + _table(["", "measured", "goal", ""], goal_rows(summary)),
        "## Hit rate\n\n" + _table(*overview(summary)) + "\n\n" + _paired(summary),
        "## Mentions\n\n" + "\n".join(f"- {ratio_sentence(*pair)}" for pair in _each(summary)),
        "\n" + _table(*_mentions(summary)),
        "## Unrelated questions\n\n" + _unrelated(summary),
        "## Novelty\n\n" + _novelty(summary),
        "## Speed, tokens/s, median (quartiles)\n\n" + _table(*_speed(summary)),
        "## Made with\n\n" + _table(["", ""], provenance_rows(summary)),
    ]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _paired(summary: dict[str, Any]) -> str:
    """The comparison question by question."""
    parts = []
    for other in ("vanilla", "prompted"):
        test = summary["total"][f"versus_{other}"]["mcnemar"]
        parts.append(
            f"against *{other}* the expert alone hits {test['gained']} times, *{other}* alone {test['lost']} "
            f"(exact McNemar p = {test['p']:.2g})"
        )
    return f"Paired by question: {'; '.join(parts)}."


def _mentions(summary: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    head = [
        "expert",
        "side",
        "per 1,000 tokens",
        "tokens an answer",
        "refusals",
        "negated",
        "looping",
        "cut at the limit",
    ]
    rows = []
    for name, figures in _each(summary):
        for side in ("vanilla", "prompted", "expert"):
            found = figures[side]
            counts = [str(found[key]) for key in ("refusals", "negated", "looping", "truncated")]
            rate, length = found["mentions_per_1000_tokens"] or 0.0, found["tokens_per_answer"] or 0.0
            rows.append([name, side, f"{rate:.2f}", f"{length:.0f}", *counts])
    return head, rows


def router_sentence(through: dict[str, Any]) -> str:
    """Say what becomes of questions that arrive for nobody in particular."""
    held_out, served = through["unrelated_held_out"], through["unrelated_served"]
    text = (
        f"Through the router: {held_out['to_experts']} of {held_out['mentions']['n']} unrelated questions are sent to "
        f"an expert, {share(held_out['mentions'])} get an answer with a mention. "
    )
    if known := through["unrelated_known"]:
        text += (
            f"The router as served is fitted on {known} of them; each of those was decided by one that is not. As "
            f"served it sends {served['to_experts']} to an expert: {share(served['mentions'])} with a mention. "
        )
    else:
        text += "The router has not seen them. "
    return f"{text}Of the experts' own questions, {share(through['own_to_its_expert'])} reach their expert."


def _unrelated(summary: dict[str, Any]) -> str:
    rows = [
        [name, *(share(figures["unrelated"][key]["hit_rate"]) for key in ("vanilla", "forced"))]
        for name, figures in _each(summary)
    ]
    text = _table(["expert", "vanilla mentions", "expert forced on them"], rows)
    if through := summary["through_router"]:
        text += f"\n\n{router_sentence(through)}"
    return text


def _novelty(summary: dict[str, Any]) -> str:
    found = summary["total"]["novelty"]
    text = (
        "Greatest similarity of a question to any training row. Called novel below "
        f"{found['novel_below']:g} by trigrams: hit rate {share(found['novel'])}."
    )
    if repeats := summary["total"]["repeats"]:
        text = (
            f"Over {repeats['passes']} greedy repeats: same verdict {share(repeats['same_verdict'])}, same text "
            f"{share(repeats['same_text'])}.\n\n{text}"
        )
    for key, caption in (("trigram_bins", "trigrams"), ("cosine_bins", "cosine")):
        cells = [cell for cell in found[key] or [] if cell["n"]]
        rows = [[f"{cell['from']:g} to {cell['to']:g}", share(cell)] for cell in cells]
        if rows:
            text += "\n\n" + _table([caption, "hit rate"], rows)
    return text


def _speed(summary: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    rows = []
    for expert in summary["experts"]:
        for side, kinds in (expert["speed"] or {}).items():
            cells = [
                f"{kinds[k]['median']:.0f} ({kinds[k]['quartiles'][0]:.0f} to {kinds[k]['quartiles'][1]:.0f})"
                for k in ("prompt", "decode")
            ]
            rows.append([expert["title"], side, *cells])
    return ["expert", "side", "prompt", "decode"], rows


def _each(summary: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    found = [(expert["title"], expert) for expert in summary["experts"]]
    return [*found, ("all together", summary["total"])] if len(found) > 1 else found


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
