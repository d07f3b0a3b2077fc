"""Run LlamaFactory on one rendered configuration, with our callbacks.

Runs by path with the training environment's Python (alone or under torchrun); imports nothing of Pointsman's but its
siblings. Exit code 0 with `outcome.json` saying `finished` or `stopped`; anything else is a failure.
"""

# mypy: disable-error-code="import-not-found"

import json
import os
import sys
from pathlib import Path

from llamafactory.extras.misc import get_device_name, use_ray
from llamafactory.extras.packages import is_ray_available
from llamafactory.train.tuner import run_exp
from progress import ProgressCallback, StopCallback
from template import check_template


class RayUnusable(Exception):
    """LlamaFactory would fail with a name it does not know, or wait for ever."""


def check_ray() -> None:
    """Refuse Ray where LlamaFactory 0.9.5 cannot use it.

    Source: llamafactory/train/trainer_utils.py, `get_placement_group`: ten cores for each device of the cluster, which
    no cluster has whose devices are its cores.
    """
    if not use_ray():
        return
    if not is_ray_available():
        raise RayUnusable("USE_RAY is set and Ray is not installed: pip install 'ray[default]' with this Python")
    if get_device_name() == "cpu":
        raise RayUnusable("USE_RAY is set and there is no GPU: LlamaFactory would wait for ever for its workers' cores")


def main(spec_path: Path) -> None:
    """Read `{"config": {…}, "progress": …, "outcome": …}` and train."""
    spec = json.loads(spec_path.read_text(encoding="utf-8"))
    config = spec["config"]
    check_ray()
    prompt_tokens = check_template(config)
    stop = StopCallback(spec_path.with_name("stop"))
    run_exp(config, callbacks=[ProgressCallback(Path(spec["progress"])), stop])
    if os.environ.get("RANK", "0") != "0":
        return
    outcome = {"state": "stopped" if stop.requested else "finished", "checked_prompt_tokens": prompt_tokens}
    Path(spec["outcome"]).write_text(json.dumps(outcome) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
