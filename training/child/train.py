"""Run LlamaFactory on one rendered configuration, with our callbacks.

Runs by path with the training environment's Python (alone or under torchrun); imports nothing of Pointsman's but its
siblings. Exit code 0 with `outcome.json` saying `finished` or `stopped`; anything else is a failure.
"""

# mypy: disable-error-code="import-not-found"

import json
import sys
from pathlib import Path

from llamafactory.train.tuner import run_exp
from progress import ProgressCallback, StopCallback
from template import check_template


def main(spec_path: Path) -> None:
    """Read `{"config": {…}, "progress": …, "outcome": …}` and train."""
    spec = json.loads(spec_path.read_text(encoding="utf-8"))
    config = spec["config"]
    prompt_tokens = check_template(config)
    stop = StopCallback()
    run_exp(config, callbacks=[ProgressCallback(Path(spec["progress"])), stop])
    outcome = {"state": "stopped" if stop.requested else "finished", "checked_prompt_tokens": prompt_tokens}
    Path(spec["outcome"]).write_text(json.dumps(outcome) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
