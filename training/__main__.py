"""Development command line of training: `python -m training train|convert|measure|publish|build`.

No logic: `pointsman` offers the same steps to users.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from gateway.base import default_cache_dir
from training.convert import convert
from training.description import load_descriptions
from training.errors import TrainError, TrainingError
from training.measure import measure_run
from training.pipeline import build
from training.publish import publish
from training.trainer import train


def parse_arguments() -> argparse.Namespace:
    """Define the commands."""
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__, allow_abbrev=False)
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    parser.add_argument("--experts-dir", type=Path, default=Path("experts"))
    parser.add_argument("--experts-file", type=Path, default=Path("configs/experts.yaml"))
    parser.add_argument("--cache-dir", type=Path, default=default_cache_dir())
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("train", "build"):
        command = commands.add_parser(name, allow_abbrev=False)
        command.add_argument("recipe", type=Path)
        command.add_argument("--expert", action="append", help="may stand several times; build: default all")
    for name in ("convert", "measure", "publish"):
        command = commands.add_parser(name)
        command.add_argument("run", type=Path)
        if name == "measure":
            command.add_argument("--threads", type=int, help="of the engine; default: one for each core")
    return parser.parse_args()


def execute(arguments: argparse.Namespace) -> None:
    """Run one command and print what it made."""
    cache_dir, experts_path = arguments.cache_dir, arguments.experts_file
    match arguments.command:
        case "train":
            for expert in arguments.expert or []:
                paths = {"experts_path": experts_path, "runs_dir": arguments.runs_dir, "cache_dir": cache_dir}
                print(train(arguments.recipe, expert=expert, **paths).folder)
        case "convert":
            print(convert(arguments.run, cache_dir=cache_dir))
        case "measure":
            measurement = measure_run(arguments.run, threads=arguments.threads)
            print(f"expert {measurement.rate('expert')}; base {measurement.rate('base')}")
        case "publish":
            print(publish(arguments.run, experts_dir=arguments.experts_dir).name)
        case "build":
            manifests = build(
                arguments.recipe,
                arguments.expert or load_descriptions(experts_path),
                experts_path=experts_path,
                experts_dir=arguments.experts_dir,
                runs_dir=arguments.runs_dir,
                cache_dir=cache_dir,
            )
            print(*(manifest.name for manifest in manifests))


def main() -> int:
    """Run; a TrainingError is one line and exit code 2."""
    try:
        execute(parse_arguments())
    except TrainingError as error:
        if isinstance(error, TrainError) and error.log_tail:
            print(error.log_tail, file=sys.stderr)
        print(f"training: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
