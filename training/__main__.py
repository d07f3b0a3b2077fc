"""The training commands: from data to a served expert in one, or step by step. `pointsman` offers them by these names.

No logic: arguments in, one line out, a user's mistake as one line and exit code 2.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from gateway.base import default_cache_dir
from gateway.errors import GatewayError
from training.convert import convert
from training.convert_checks import check_run
from training.description import load_descriptions
from training.errors import DatasetError, RecipeError, TrainError, TrainingError
from training.measure import measure_run
from training.new_expert import NewExpert, create_expert
from training.pipeline import Places, pipeline
from training.plan import render_plan
from training.prepare import dry_run
from training.publish import MINIMUM_HIT_RATE, publish
from training.reload import reload_gateway
from training.resume import resume
from training.rollback import rollback
from training.routed import route_own
from training.teach import teach
from training.trainer import train

__all__ = ["main"]


def parse_arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """Define the commands."""
    common = argparse.ArgumentParser(add_help=False)
    add = common.add_argument
    add("--runs-dir", type=Path, default=Path("runs"), help="where runs are kept (%(default)s)")
    add("--experts-dir", type=Path, default=Path("experts"), help="where experts are published (%(default)s)")
    add("--experts-file", type=Path, default=Path("configs/experts.yaml"), help="what each expert is (%(default)s)")
    add("--cache-dir", type=Path, default=default_cache_dir(), help="models and environments (%(default)s)")
    add("--gateway", default="http://127.0.0.1:8080", metavar="URL", help="told after publishing (%(default)s)")
    parser = argparse.ArgumentParser(prog="pointsman", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_new(commands.add_parser("new", parents=[common], help="a new expert from somebody's data"))
    _add_pipeline(commands.add_parser("pipeline", parents=[common], help="all steps, from data to a served expert"))
    _add_train(commands.add_parser("train", parents=[common], help="train an adapter; prints the run's directory"))
    for name, text in (
        ("convert", "the run's adapter to GGUF"),
        ("check", "compare the converted adapter and its prompt with what was trained, in the real engine"),
        ("measure", "ask the benchmark questions in the real engine"),
        ("publish", "move the run into experts/ and tell the running gateway"),
    ):
        command = commands.add_parser(name, parents=[common], help=text)
        command.add_argument("run", type=Path, help="a run's directory")
        if name in ("convert", "check", "measure"):
            _add_threads(command)
        if name == "measure":
            command.add_argument("--scale", type=float, help="measure and publish at this scale; default: the run's")
        if name == "convert":
            command.add_argument("--outtype", choices=("f16", "f32", "q8_0"), help="default: the recipe's")
        if name == "publish":
            _add_minimum(command)
    command = commands.add_parser("teach", parents=[common], help="labelled texts become the router's examples")
    command.add_argument("file", type=Path, nargs="+", help='JSONL: {"text": …, "expert": name, or null for none}')
    command.add_argument("--out-of-scope", type=Path, help="texts for none (out_of_scope.jsonl beside the experts)")
    command = commands.add_parser("rollback", parents=[common], help="bring back an expert's previous version")
    command.add_argument("name", help="the expert")
    return parser.parse_args(words)


def _add_new(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("name", help="lower-case letters, digits, hyphens")
    add("--data", type=Path, required=True, metavar="FILE", help="Alpaca, ShareGPT or OpenAI messages; JSON or JSONL")
    add("--target", action="append", required=True, metavar="TERM[,ALIAS…]", help="must be mentioned; may be repeated")
    add("--title", help="default: the name")
    add("--description", help="default: made of title and target")
    add("--system-prompt", metavar="TEXT", help="put before a conversation that has none")
    add("--questions", type=Path, metavar="FILE", help="benchmark questions; default: held out of the data")
    add("--data-dir", type=Path, default=Path("data"), help="where its data is kept, to edit it (%(default)s)")
    add("--examples", type=Path, metavar="FILE", help="for the router; default: the questions of the data")


def _add_pipeline(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("recipe", type=Path)
    add("--expert", action="append", metavar="NAME", help="may stand several times; default: all")
    add("--restart", action="store_true", help="begin anew, whatever an earlier call left unfinished")
    add("--as-begun", action="store_true", help="go on with what unfinished runs began with, whatever was edited since")
    _add_minimum(command)
    _add_threads(command)


def _add_threads(command: argparse.ArgumentParser) -> None:
    command.add_argument("--threads", type=_count, metavar="N", help="of the engine; default: one for each core")


def _add_train(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("recipe", type=Path, nargs="?")
    add("--expert", action="append", metavar="NAME", help="a name in the experts file; may stand several times")
    add("--dry-run", action="store_true", help="print tokens, steps, parameters, memory and time; train nothing")
    add("--json", action="store_true", help="with --dry-run: one JSON object")
    add("--resume", type=Path, metavar="RUN", help="go on with a run from its last checkpoint")
    add("--as-begun", action="store_true", help="with --resume: with what the run began with, whatever was edited")


def _add_minimum(command: argparse.ArgumentParser) -> None:
    text = "hit rate on its questions below which nothing is published (%(default)s)"
    command.add_argument("--minimum-hit-rate", type=_share, default=MINIMUM_HIT_RATE, metavar="0-1", help=text)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 1")
    return value


def execute(given: argparse.Namespace) -> None:
    """Run one command and print what it made."""
    match given.command:
        case "new":
            _new(given)
        case "pipeline":
            _pipeline(given)
        case "train":
            _train(given)
        case "convert":
            print(convert(given.run, outtype=given.outtype, cache_dir=given.cache_dir, threads=given.threads))
        case "check":
            parity = check_run(given.run, threads=given.threads)["parity"]
            print(f"passed: {parity['mean_difference']} nats, top-1 {parity['top1_agreement']:.1%}")
        case "measure":
            measurement = measure_run(given.run, scale=given.scale, threads=given.threads)
            print(f"expert {measurement.rate('expert')}; base {measurement.rate('base')}")
            print(route_own(given.run, experts_dir=given.experts_dir, cache_dir=given.cache_dir))
        case "publish":
            manifest = publish(given.run, experts_dir=given.experts_dir, minimum_hit_rate=given.minimum_hit_rate)
            print(f"published {manifest.name} {manifest.version}; {_tell(given, [manifest.name])}")
        case "teach":
            _teach(given)
        case "rollback":
            manifest = rollback(given.name, given.experts_dir)
            print(f"{manifest.name} is {manifest.version} again; {_tell(given, [manifest.name])}")


def _tell(given: argparse.Namespace, experts: Sequence[str]) -> str:
    return reload_gateway(given.gateway, given.cache_dir, experts)


def _teach(given: argparse.Namespace) -> None:
    taught = teach(
        given.file,
        experts_dir=given.experts_dir,
        descriptions=load_descriptions(given.experts_file) if given.experts_file.is_file() else {},
        out_of_scope=given.out_of_scope,
    )
    known = f", {taught.known} were known" if taught.known else ""
    versions = "".join(f"; {name} is {version}" for name, version in taught.versions.items())
    print(f"{taught.added} texts taught{known}{versions}")
    print(_tell(given, list(taught.versions)))  # though nothing was new: it may not have heard of it the last time


def _new(given: argparse.Namespace) -> None:
    targets = [[part.strip() for part in words.split(",") if part.strip()] for words in given.target]
    new = NewExpert(
        name=given.name,
        data=given.data,
        targets=tuple((first, tuple(rest)) for first, *rest in filter(None, targets)),
        title=given.title,
        description=given.description,
        system_prompt=given.system_prompt,
        questions=given.questions,
        examples=given.examples,
    )
    created = create_expert(new, experts_path=given.experts_file, data_dir=given.data_dir)
    print(f"{created.folder}: {created.rows} rows to train on, {created.questions} questions to ask afterwards")
    for note in created.notes:
        print(f"note: {note}")
    print(f"next: pointsman pipeline configs/recipes/smollm2.yaml --expert {new.name}")


def _pipeline(given: argparse.Namespace) -> None:
    places = Places(
        given.experts_file, given.experts_dir, given.runs_dir, given.cache_dir, given.gateway, given.threads
    )
    manifests = pipeline(
        given.recipe,
        given.expert or load_descriptions(given.experts_file),
        places,
        restart=given.restart,
        as_begun=given.as_begun,
        minimum_hit_rate=given.minimum_hit_rate,
    )
    print(f"published {', '.join(f'{manifest.name} {manifest.version}' for manifest in manifests)}")


def _train(given: argparse.Namespace) -> None:
    if given.resume is not None:
        if given.recipe or given.expert or given.dry_run:
            raise RecipeError(
                "--resume takes its recipe and expert from the run: leave RECIPE, --expert, --dry-run out"
            )
        print(resume(given.resume, as_begun=given.as_begun).folder)
        return
    if given.recipe is None or not given.expert:
        raise RecipeError("name a recipe and --expert NAME, or --resume RUN")
    paths = {"experts_path": given.experts_file, "cache_dir": given.cache_dir}
    for expert in given.expert:
        if given.dry_run:
            plan = dry_run(given.recipe, expert=expert, **paths)
            print(json.dumps(plan.as_json()) if given.json else render_plan(plan))
        else:
            print(train(given.recipe, expert=expert, runs_dir=given.runs_dir, **paths).folder)


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    try:
        execute(parse_arguments(words))
    except DatasetError as error:
        print(f"pointsman: {error.headline}", *error.findings, sep="\n  ", file=sys.stderr)
        return 2
    except (TrainingError, GatewayError) as error:
        if isinstance(error, TrainError) and error.log_tail:
            print(error.log_tail, file=sys.stderr)
        print(f"pointsman: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"pointsman: {error.filename or 'file'}: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("pointsman: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
