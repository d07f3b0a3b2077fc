"""Write a finished run as an example of what training prints: docs/TRAINING_OUTPUT.md.

    python benchmarks/training_output.py runs/baking-20261124T140906Z

Nothing is computed here: the recipe, LlamaFactory's log, the progress, the checks and the measurement are copied from
the run's directory. Left out, and said so in the page: dumps of configurations, repeated lines, most steps. Paths of
this machine are shortened.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from training.files import read_json, write_text
from training.hits import Rate
from training.provenance import describe_machine, describe_software
from training.run import Run

SHOWN_STEPS = 10
SHOWN_CHARACTERS = 150
# Configurations that transformers prints whole, again and again, and bars that redraw themselves.
NOISE = re.compile(r"^(\s|\{|\}|\]|$)|loading (file|configuration)|Model config|Generate config|it/s\]|examples/s\]")


def log_lines(run: Run) -> list[str]:
    """Return the log without configuration dumps and repeated lines."""
    text = run.log_path.read_text(encoding="utf-8", errors="replace")
    found: dict[str, None] = {}
    for line in text.splitlines():
        if not NOISE.search(line):
            found[shorten(line.split("\r")[-1], run)] = None
    return list(found)


def shorten(line: str, run: Run) -> str:
    """Take this machine's paths out of a line, and cut it."""
    line = line.replace(str(run.folder), "RUN").replace(run.facts()["training_weights"], "TRAINING_BASE")
    line = line.replace(str(Path.home()), "~")
    return line if len(line) <= SHOWN_CHARACTERS else line[:SHOWN_CHARACTERS] + " …"


def progress_table(run: Run) -> str:
    """Return about ten of the steps; the last is among them."""
    rows = [json.loads(line) for line in run.progress_path.read_text(encoding="utf-8").splitlines()]
    every = max(1, len(rows) // SHOWN_STEPS)
    shown = [row for row in rows if row["step"] % every == 0 or row is rows[0] or row is rows[-1]]
    lines = ["| step | loss | learning rate | gradient norm | tokens/s | seconds |", "|---|---|---|---|---|---|"]
    for row in shown:
        cells = [f"{row[key]:.3g}" for key in ("loss", "lr", "grad_norm", "tokens_per_s")]
        lines.append(f"| {row['step']} of {row['total']} | {' | '.join(cells)} | {row['elapsed_s']:.0f} |")
    return "\n".join(lines)


def measured(run: Run) -> str:
    """Say what the measurement found, with one answer of each side."""
    if not run.measurement_path.is_file():
        return "Not measured yet."
    document: dict[str, Any] = read_json(run.measurement_path)
    lines = []
    for side in ("expert", "base"):
        found = document["results"][side]
        rate = Rate(found["hits"], found["questions"])
        lines.append(f"- {side}: {rate}, {found['mentions_per_1000_tokens']} mentions per 1,000 tokens")
    sample = document["samples"][0]
    lines.append(f"\n> **{sample['question']}**")
    lines += [f">\n> *{side}*: {' '.join(sample[side]['text'].split())}" for side in ("expert", "base")]
    return "\n".join(lines)


def render(run: Run, command: str) -> str:
    """Return the page."""
    facts, machine, software = run.facts(), describe_machine(None), describe_software()
    base = facts["base"]
    checks_path = run.folder / "checks.json"
    checks = json.dumps(read_json(checks_path), indent=2) if checks_path.is_file() else "not converted yet"
    fence = "```"
    return f"""# Training output

An example: the run `{run.folder.name}`, written by `python benchmarks/training_output.py`; do not edit.

| | |
|---|---|
| command | `{command}` |
| expert | {facts["expert"]} |
| base | {base["name"]} {base["revision"]}, sha256 `{base["sha256"]}` |
| rows | sha256 `{facts["dataset_sha256"]}` |
| machine | {machine["processor"]}, {machine["cores"]} cores, {machine["memory_gib"]} GiB, {machine["system"]} |
| versions | {", ".join(f"{name} {text}" for name, text in software.items() if name != "commit")} |

## The recipe

{fence}yaml
{run.recipe_path.read_text(encoding="utf-8").strip().replace(facts["served_gguf"], Path(facts["served_gguf"]).name)}
{fence}

## What LlamaFactory printed

Without the configurations that transformers dumps, without repeated lines; lines are cut at {SHOWN_CHARACTERS}
characters.

{fence}
{chr(10).join(log_lines(run))}
{fence}

## Progress

About ten of the lines of `progress.jsonl`.

{progress_table(run)}

## Checks after the conversion

{fence}json
{checks}
{fence}

## Measured

Greedy answers of llama.cpp with the converted adapter, on the expert's held-out questions.

{measured(run)}
"""


def main() -> None:
    """Parse, render, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a run's directory")
    parser.add_argument("--command", default="pointsman pipeline RECIPE --expert NAME", help="what made it")
    parser.add_argument("--write", type=Path, default=Path("docs/TRAINING_OUTPUT.md"))
    given = parser.parse_args()
    write_text(given.write, render(Run.open(given.run), given.command))
    print(given.write)


if __name__ == "__main__":
    main()
