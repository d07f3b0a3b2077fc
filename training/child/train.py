"""Run LlamaFactory on one rendered configuration, with our callbacks.

Runs by path with the training environment's Python (alone or under torchrun); imports nothing of Pointsman's but its
siblings. Exit code 0 with `outcome.json` saying `finished` or `stopped`; anything else is a failure.
"""

# mypy: disable-error-code="import-not-found"

import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

import torch
from llamafactory.extras.misc import get_device_name, use_ray
from llamafactory.extras.packages import is_ray_available
from llamafactory.train import tuner
from progress import CheckpointCallback, ProgressCallback, StopCallback


def peak_memory_bytes() -> int:
    """Return the most memory that this process held: the GPU's where there is one, else the machine's."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class RayUnusable(Exception):
    """LlamaFactory would fail with a name it does not know."""


def prepare_ray(workers: int) -> None:
    """Refuse Ray where it is missing; without a GPU, share the cores among the workers.

    LlamaFactory 0.9.5 asks for ten cores beside each device, and counts cores as devices where there is no GPU: it
    would wait for ever. Source: llamafactory/train/trainer_utils.py, `get_placement_group` and
    `get_ray_remote_config_for_worker`.
    """
    if not is_ray_available():
        raise RayUnusable("USE_RAY is set and Ray is not installed: pip install 'ray[default]' with this Python")
    if get_device_name() != "cpu":
        return
    import ray
    from ray.util.placement_group import placement_group

    configure = tuner.get_ray_remote_config_for_worker

    def cores() -> int:  # Ray gives a worker as many threads
        return max(1, int(ray.cluster_resources()["CPU"]) // workers)

    def place(devices: int) -> tuple[Any, dict[str, int]]:
        return placement_group([{"CPU": cores()}] * workers, strategy="PACK"), {"CPU": cores()}

    def on_cores(**settings: Any) -> dict[str, Any]:
        return {**configure(**settings), "num_cpus": cores()}

    tuner.get_placement_group, tuner.get_ray_remote_config_for_worker = place, on_cores


def main(spec_path: Path) -> None:
    """Read `{"config": {…}, "progress": …, "outcome": …}` and train."""
    spec = json.loads(spec_path.read_text(encoding="utf-8"))
    if use_ray():
        prepare_ray(int(spec["config"].get("ray_num_workers", 1)))
    stop = StopCallback(spec_path.with_name("stop"))
    tuner.run_exp(spec["config"], callbacks=[ProgressCallback(Path(spec["progress"])), CheckpointCallback(), stop])
    if os.environ.get("RANK", "0") != "0":
        return
    outcome: dict[str, Any] = {"state": "stopped" if stop.requested else "finished"}
    if not use_ray():  # its workers are processes of its own
        outcome["peak_memory_bytes"] = peak_memory_bytes()
    path = Path(spec["outcome"])
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(outcome) + "\n", encoding="utf-8")
    temporary.replace(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
