"""Check, measure, split and generate training data, make anchors: the command's arguments and output. No logic.

Exit codes: 0 done, 2 an error in the data or in the command, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import httpx

from gateway.base import default_cache_dir
from training.anchors import AnchorOptions, make_anchors
from training.dataset import load_questions
from training.dataset_format import load_dataset
from training.dataset_source import Named, find_limit, find_sources
from training.dataset_stats import measure, render
from training.description import ROWS_FILE
from training.endpoint import Endpoint
from training.errors import TrainingError
from training.generate_paraphrase import Paraphraser
from training.generate_run import Generated, GenerateOptions, generate
from training.lint import Report, lint_file
from training.lint_checks import Expectations
from training.lint_kinds import Level
from training.lint_report import as_json, as_text, summary_line
from training.split import FAMILY_SIMILARITY, split_rows, write_split

__all__ = ["add_arguments", "main", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the five actions."""
    limit = argparse.ArgumentParser(add_help=False)
    add = limit.add_argument
    add("--questions", type=Path, metavar="FILE", help="benchmark questions (questions.jsonl beside the rows)")
    add("--recipe", type=Path, metavar="FILE", help=f"names the limit and the base ({Named.default_recipe})")
    add("--cutoff", type=int, metavar="TOKENS", help="longest row; default: the recipe's cutoff_tokens")
    add("--tokenizer", type=Path, metavar="FILE", help="a tokenizer.json; default: the base's, if it is in the cache")
    add("--cache-dir", type=Path, default=default_cache_dir(), help="models (%(default)s)")
    add("--json", action="store_true", help="print one JSON object and nothing else")
    files = argparse.ArgumentParser(add_help=False, parents=[limit])
    add = files.add_argument
    add("files", nargs="*", type=Path, metavar="FILE", help="JSON or JSONL, or a directory with a dataset.json")
    add("--expert", help="the expert whose targets must be mentioned; without FILE its own data")
    add("--experts-file", type=Path, default=Named.experts_file, help="what each expert is (%(default)s)")
    add("--target", action="append", default=[], metavar="TERM", help="must be mentioned; may stand several times")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    lint = actions.add_parser("lint", parents=[files], help="find what would spoil an expert; exit code 2 on errors")
    lint.add_argument("--limit", type=int, default=10, help="rows shown of each kind (%(default)s)")
    actions.add_parser("stats", parents=[files], help="rows, words, tokens, targets, openings")
    _add_split(actions.add_parser("split", help="in training and validation; alike questions stay together"))
    endpoint = _endpoint_options()
    _add_generate(actions.add_parser("generate", parents=[limit, endpoint], help="make rows from a topic description"))
    _add_anchors(actions.add_parser("anchors", parents=[endpoint], help="make rows that keep an expert to its domain"))


def _endpoint_options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    add = parser.add_argument
    add("--endpoint", default="http://127.0.0.1:8080/v1", metavar="URL", help="OpenAI-compatible (%(default)s)")
    add("--model", default="base", help="of the endpoint (%(default)s)")
    add("--api-key-env", default="POINTSMAN_API_KEY", metavar="NAME", help="variable with its key (%(default)s)")
    return parser


def _add_split(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("files", nargs="+", type=Path, metavar="FILE", help="JSON or JSONL, or a directory with a dataset.json")
    add("--validation", type=float, default=0.1, metavar="SHARE", help="of the rows, 0 to 1 (%(default)s)")
    add("--seed", type=int, default=7, help="the same seed, the same split (%(default)s)")
    add("--similarity", type=float, default=FAMILY_SIMILARITY, help="of questions kept together (%(default)s)")
    add("--out-dir", type=Path, metavar="DIR", help="where both files go; default: beside the file")
    add("--force", action="store_true", help="replace files that stand there")
    add("--json", action="store_true", help="print one JSON object and nothing else")


def _add_generate(parser: argparse.ArgumentParser) -> None:
    kept, add = GenerateOptions(), parser.add_argument
    add("topic", type=Path, metavar="TOPIC.yaml", help="title, topics, targets; optional: personas, styles, documents")
    add("--out", type=Path, required=True, metavar="FILE", help="JSON, or JSONL by its name")
    add("--document", action="append", type=Path, default=[], metavar="FILE", help="text or Markdown with facts")
    add("--rows", type=int, default=kept.rows, help="of the template grid (%(default)s)")
    add("--seed", type=int, default=kept.seed, help="the same seed, the same grid (%(default)s)")
    add("--paraphrase", type=int, nargs="?", const=1, default=0, metavar="N", help="variants of each row by a model")
    add("--attempts", type=int, default=kept.attempts, help="at each variant (%(default)s)")
    add("--force", action="store_true", help="replace the file if it stands there")
    add("--restart", action="store_true", help="forget what an interrupted command has paraphrased")


def _add_anchors(parser: argparse.ArgumentParser) -> None:
    kept, add = AnchorOptions(), parser.add_argument
    add(
        "texts", type=Path, metavar="TEXTS.jsonl", help='texts of no expert, {"text": …} a line; "near" for near misses'
    )
    add("--out", type=Path, required=True, metavar="FILE.json", help="the rows")
    add("--count", type=int, default=kept.count, help="texts drawn, near misses left out (%(default)s)")
    add("--seed", type=int, default=kept.seed, help="the same seed, the same texts (%(default)s)")
    add("--max-tokens", type=int, default=kept.max_tokens, help="of an answer (%(default)s)")
    add("--force", action="store_true", help="replace the file if it stands there")


def main(words: Sequence[str]) -> int:
    """Parse and run, for a caller that loads this module only when it is needed."""
    parser = argparse.ArgumentParser(prog="pointsman dataset", description=__doc__, allow_abbrev=False)
    add_arguments(parser)
    return run(parser.parse_args(words))


def run(given: argparse.Namespace) -> int:
    """Run one action; 2 for a mistake, with one line that says what."""
    actions = {"lint": _lint, "stats": _stats, "split": _split, "generate": _generate, "anchors": _anchors}
    try:
        return actions[given.action](given)
    except TrainingError as error:
        print(f"pointsman: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"pointsman: {error.filename or 'file'}: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("pointsman: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130


def _named(given: argparse.Namespace) -> Named:
    listed = {name: getattr(given, name) for name in ("expert", "experts_file") if hasattr(given, name)}
    return Named(
        files=tuple(getattr(given, "files", ())),
        targets=tuple(getattr(given, "target", ())),
        questions=given.questions,
        recipe=given.recipe,
        cutoff_tokens=given.cutoff,
        tokenizer=given.tokenizer,
        cache_dir=given.cache_dir,
        **listed,
    )


def _lint(given: argparse.Namespace) -> int:
    reports: list[Report] = []
    seen: dict[str, str] = {}
    for path, expected in find_sources(_named(given)):
        report = lint_file(path, expected, dict(seen))
        reports.append(report)
        rows = enumerate(report.dataset.rows, 1)
        seen = {row.key: f"row {number} of {path}" for number, row in rows if row is not None} | seen
    errors = sum(report.count(Level.ERROR) for report in reports)
    if given.json:
        warnings = sum(report.count(Level.WARNING) for report in reports)
        files = [as_json(report) for report in reports]
        print(json.dumps({"errors": errors, "warnings": warnings, "files": files}, ensure_ascii=False))
    else:
        print("\n\n".join(as_text(report, given.limit) for report in reports))
        print(f"\n{summary_line(reports)}")
    return 2 if errors else 0


def _stats(given: argparse.Namespace) -> int:
    figures = [measure(load_dataset(path), expected) for path, expected in find_sources(_named(given))]
    if given.json:
        print(json.dumps({"files": figures}, ensure_ascii=False))
    else:
        print("\n\n".join(render(found) for found in figures))
    return 0


def _split(given: argparse.Namespace) -> int:
    done = []
    for named in given.files:
        path = named / ROWS_FILE if named.is_dir() else named
        dataset = load_dataset(path)
        split = split_rows(dataset, validation=given.validation, seed=given.seed, similarity=given.similarity)
        written = write_split(dataset, split, given.out_dir or path.parent, force=given.force)
        counts = (len(split.train), len(split.validation))
        done.append(
            {
                "train": str(written[0]),
                "validation": str(written[1]),
                "rows": list(counts),
                "families": split.families,
                "largest_family": split.largest_family,
                "nearest": round(split.nearest, 4),
            }
        )
        if not given.json:
            print(f"{written[0]}: {counts[0]} rows\n{written[1]}: {counts[1]} rows")
            print(f"{split.families} families, the largest of {split.largest_family} rows")
            print(f"nearest questions across: {split.nearest:.0%} alike")
    if given.json:
        print(json.dumps({"files": done}, ensure_ascii=False))
    return 0


def _generate(given: argparse.Namespace) -> int:
    cutoff, tokens = find_limit(_named(given))
    questions = tuple(load_questions(given.questions)) if given.questions else ()
    options = GenerateOptions(given.rows, given.seed, given.paraphrase, given.attempts, given.force, given.restart)
    with httpx.Client() as client:
        endpoint = _endpoint(given, client)
        made = generate(
            given.topic,
            given.out,
            options,
            Expectations((), questions, cutoff, tokens),
            documents=given.document,
            paraphraser=Paraphraser(endpoint) if given.paraphrase else None,
            source=endpoint.name,
        )
    if given.json:
        figures = {"grid": made.grid.as_dict(), "paraphrases": made.paraphrases.as_dict(), "facts": made.facts}
        print(json.dumps({"file": str(made.path), "rows": made.rows, **figures}, ensure_ascii=False))
    else:
        _print_generated(made)
    return 0


def _endpoint(given: argparse.Namespace, client: httpx.Client) -> Endpoint:
    return Endpoint(client, given.endpoint, given.model, os.environ.get(given.api_key_env))


def _anchors(given: argparse.Namespace) -> int:
    options = AnchorOptions(given.count, given.seed, given.max_tokens, given.force)
    with httpx.Client() as client:
        tally = make_anchors(given.texts, given.out, options, _endpoint(given, client))
    print(f"{given.out}: {tally}")
    return 0


def _print_generated(made: Generated) -> None:
    print(f"template grid: {made.grid}")
    if made.paraphrases.as_dict()["made"]:
        print(f"paraphrases: {made.paraphrases}")
    without = [name for name, count in made.facts.items() if not count]
    if without:
        print(f"note: no facts about {', '.join(without)}: those answers are general advice")
    if made.grid.accepted < made.asked:
        print(f"note: the grid holds {made.grid.accepted} of {made.asked} rows: add topics, personas or --paraphrase")
    print(f"{made.path}: {made.rows} rows")
