"""Measure experts against their base in the real engine: the arguments of the command, and what it prints. No logic."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from training.asking import EngineOptions
from training.benchmark import SUMMARY_FILE, benchmark
from training.benchmark_settings import BenchmarkOptions
from training.errors import BenchmarkError, TrainingError
from training.figures import goal_rows, overview, ratio_sentence, render_markdown
from training.files import write_part
from training.provenance import describe_command
from training.routed import ENCODER

__all__ = ["add_arguments", "main", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the options; names as in the project's scripts of old."""
    kept = BenchmarkOptions()
    add = parser.add_argument
    add("experts", nargs="*", metavar="EXPERT", help="a published expert or a run's directory; default: all published")
    add(
        "--port",
        type=int,
        default=EngineOptions.port,
        help="of the engine; the next one too, for the speed (%(default)s)",
    )
    add("--parallel-jobs", type=int, help=f"questions at once; more than one may change answers ({kept.parallel_jobs})")
    add("--max-tokens", type=int, help=f"longest answer ({kept.max_tokens})")
    add(
        "--wait",
        "--wait-time",
        type=float,
        default=EngineOptions.wait_s,
        metavar="SECONDS",
        help="for the engine to load (%(default)s)",
    )
    add("--threads", type=int, help="of the engine (one for each core)")
    add("--repeats", type=int, help=f"greedy passes that must agree ({kept.repeats})")
    add("--limit", type=int, help="at most so many questions of each kind, for a trial")
    add("--unrelated", type=int, help=f"unrelated questions ({kept.unrelated})")
    add("--unrelated-file", type=Path, help='JSONL of {"text": …} (unrelated.jsonl in the experts\' directory)')
    add("--seed", type=int, help=f"of the choice of unrelated questions ({kept.seed})")
    add("--no-route", dest="route", action="store_false", default=None, help="leave the router out")
    add("--no-speed", dest="speed", action="store_false", default=None, help="leave the speed out")
    add("--base", help="source of the base model; default: the one that the experts name")
    add("--encoder", default=ENCODER, help="the router's encoder (%(default)s)")
    add("--experts-dir", type=Path, default=Path("experts"))
    add("--results-dir", type=Path, default=Path("results"))
    add("--out-of-scope", type=Path, help="texts for no expert (out_of_scope.jsonl in the experts' directory)")
    add("--cache-dir", type=Path, help="models and encoder")
    add("--resume", type=Path, metavar="DIR", help="go on with a results directory, with its experts and options")
    add(
        "--write-docs",
        nargs="?",
        type=Path,
        const=Path("docs/BENCHMARK_RESULTS.md"),
        metavar="FILE",
        help="put the results as a part into a Markdown page (%(const)s)",
    )
    add("--json", action="store_true", help="print the summary and nothing else")


def main(words: Sequence[str]) -> int:
    """Parse and run, for a caller that loads this module only when it is needed."""
    parser = argparse.ArgumentParser(prog="pointsman benchmark", description=__doc__, allow_abbrev=False)
    add_arguments(parser)
    return run(parser.parse_args(words))


def run(given: argparse.Namespace) -> int:
    """Run the benchmark; 2 for a mistake, with one line that says what."""
    try:
        return _run(given)
    except TrainingError as error:
        print(f"pointsman: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("pointsman: interrupted; go on with --resume and the newest results directory", file=sys.stderr)
        return 130


def _run(given: argparse.Namespace) -> int:
    chosen = {field.name: getattr(given, field.name) for field in fields(BenchmarkOptions)}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    if given.resume and (given.experts or chosen):
        names = ", ".join([*given.experts, *chosen])
        raise BenchmarkError(f"--resume goes on with the experts and options of {given.resume}: leave out {names}")
    done = benchmark(
        given.experts,
        BenchmarkOptions(**chosen),
        EngineOptions(port=given.port, wait_s=given.wait, threads=given.threads),
        experts_dir=given.experts_dir,
        results_dir=given.results_dir,
        out_of_scope=given.out_of_scope,
        unrelated_file=given.unrelated_file,
        base=given.base,
        encoder=given.encoder,
        cache_dir=given.cache_dir,
        resume=given.resume,
        command=describe_command(["pointsman", *sys.argv[1:]]),
    )
    if given.write_docs:
        write_part(given.write_docs, render_markdown(done.summary))
    if given.json:
        print(json.dumps({"results": str(done.folder), **done.summary}, ensure_ascii=False))
        return 0
    head, rows = overview(done.summary)
    _print_table([head, *rows])
    for expert in done.summary["experts"]:
        print(ratio_sentence(expert["title"], expert))
    _print_table(goal_rows(done.summary))
    for warning in done.summary["warnings"]:
        print(f"note: {warning}")
    print(done.folder / SUMMARY_FILE)
    return 0


def _print_table(rows: list[list[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print()
