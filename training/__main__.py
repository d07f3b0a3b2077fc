"""The training commands: train, convert, measure, publish, build. `pointsman` offers them under the same names.

No logic: arguments in, one line out, a user's mistake as one line and exit code 2.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from gateway.base import default_cache_dir
from gateway.errors import GatewayError
from training.convert import convert
from training.convert_checks import check_run
from training.description import load_descriptions
from training.errors import TrainError, TrainingError
from training.measure import measure_run
from training.pipeline import build
from training.publish import publish, rollback
from training.reload import reload_gateway
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
    for name, text in (
        ("train", "train an expert's adapter with LlamaFactory; prints the run's directory"),
        ("build", "train, convert, measure and publish"),
    ):
        command = commands.add_parser(name, parents=[common], help=text)
        command.add_argument("recipe", type=Path)
        many = "may stand several times; default: all" if name == "build" else "a name in the experts file"
        command.add_argument("--expert", action="append", required=name == "train", help=many)
    for name, text in (
        ("convert", "the run's adapter to GGUF"),
        ("check", "compare the converted adapter and its prompt with what was trained, in the real engine"),
        ("measure", "ask the benchmark questions in the real engine"),
        ("publish", "move the run into experts/ and tell the running gateway"),
    ):
        command = commands.add_parser(name, parents=[common], help=text)
        command.add_argument("run", type=Path, help="a run's directory")
        if name in ("convert", "check", "measure"):
            command.add_argument("--threads", type=int, help="of the engine; default: one for each core")
    command = commands.add_parser("rollback", parents=[common], help="bring back an expert's previous version")
    command.add_argument("name", help="the expert")
    return parser.parse_args(words)


def execute(given: argparse.Namespace) -> None:
    """Run one command and print what it made."""
    match given.command:
        case "train":
            for expert in given.expert:
                paths = {"experts_path": given.experts_file, "runs_dir": given.runs_dir, "cache_dir": given.cache_dir}
                print(train(given.recipe, expert=expert, **paths).folder)
        case "convert":
            print(convert(given.run, cache_dir=given.cache_dir, threads=given.threads))
        case "check":
            parity = check_run(given.run, threads=given.threads)["parity"]
            print(f"passed: {parity['mean_difference']} nats, top-1 {parity['top1_agreement']:.1%}")
        case "measure":
            measurement = measure_run(given.run, threads=given.threads)
            print(f"expert {measurement.rate('expert')}; base {measurement.rate('base')}")
        case "publish":
            manifest = publish(given.run, experts_dir=given.experts_dir)
            print(f"published {manifest.name} {manifest.version}; {reload_gateway(given.gateway, given.cache_dir)}")
        case "rollback":
            manifest = rollback(given.name, given.experts_dir)
            print(f"{manifest.name} is {manifest.version} again; {reload_gateway(given.gateway, given.cache_dir)}")
        case "build":
            manifests = build(
                given.recipe,
                given.expert or load_descriptions(given.experts_file),
                experts_path=given.experts_file,
                experts_dir=given.experts_dir,
                runs_dir=given.runs_dir,
                cache_dir=given.cache_dir,
            )
            names = ", ".join(manifest.name for manifest in manifests)
            print(f"published {names}; {reload_gateway(given.gateway, given.cache_dir)}")


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    try:
        execute(parse_arguments(words))
    except (TrainingError, GatewayError) as error:
        if isinstance(error, TrainError) and error.log_tail:
            print(error.log_tail, file=sys.stderr)
        print(f"pointsman: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
