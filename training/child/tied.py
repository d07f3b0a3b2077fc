"""Run another script in this process, which ends when the one that started it does, however that ended.

`python tied.py SCRIPT ARGUMENT…` with a pipe for standard input that nobody writes to: it closes with its owner, even
when that was killed. Imports nothing of Pointsman's. Under torchrun every worker inherits the pipe and watches it.
"""

import os
import runpy
import signal
import sys
import threading
from pathlib import Path


def end_with_owner() -> None:
    """Wait for the end of standard input, then kill this process and what it started."""
    while os.read(0, 1024):
        pass
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def main() -> None:
    """Watch the owner beside the script, which sees the arguments and the import path it would have had alone."""
    threading.Thread(target=end_with_owner, daemon=True).start()
    sys.argv = sys.argv[1:]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
