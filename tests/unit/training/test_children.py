"""Children of the training environment: they end with the process that started them, even when that is killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from processes import eventually

from training.children import ask_child, run_child
from training.errors import TrainingError

# Starts a child by `start_child`, which starts one of its own; both ids go to a file.
OWNER = """
import sys, time
from pathlib import Path
from training.children import start_child
start_child(sys.executable, Path(sys.argv[1]), sys.argv[2], log=open(sys.argv[3], "wb"))
time.sleep(600)
"""
CHILD = """
import os, subprocess, sys, time
grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
with open(sys.argv[1] + ".tmp", "w") as file:
    file.write(f"{os.getpid()} {grandchild.pid}")
os.replace(sys.argv[1] + ".tmp", sys.argv[1])
time.sleep(600)
"""


def runs(pid: int) -> bool:
    """Tell whether a process runs; one that nobody waited for (a zombie) does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_a_killed_owner_leaves_neither_child_nor_grandchild(tmp_path: Path) -> None:
    script, ids, log = tmp_path / "child.py", tmp_path / "ids", tmp_path / "log"
    script.write_text(CHILD, encoding="utf-8")
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(script), str(ids), str(log)])
    try:
        eventually(ids.is_file, 60, "the child's start")
        pids = [int(word) for word in ids.read_text(encoding="ascii").split()]
        assert all(runs(pid) for pid in pids)
    finally:
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    eventually(lambda: not any(runs(pid) for pid in pids), 30, f"the end of {pids}")


def test_a_script_sees_the_arguments_and_siblings_it_would_have_alone(tmp_path: Path) -> None:
    (tmp_path / "sibling.py").write_text("NAME = 'sibling'\n", encoding="utf-8")
    script = tmp_path / "script.py"
    script.write_text("import sys, sibling\nprint(sys.argv[1:], sibling.NAME, __name__)\n", encoding="utf-8")
    returncode, written = run_child(sys.executable, script, "one", "two words")
    assert (returncode, written) == (0, "['one', 'two words'] sibling __main__\n")


def test_a_failing_script_is_named_with_its_last_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fails.py").write_text("print('one')\nraise SystemExit('no memory left')\n", encoding="utf-8")
    monkeypatch.setattr("training.children.CHILD_SCRIPTS", tmp_path)
    (tmp_path / "tied.py").symlink_to(Path(__file__).parents[3] / "training" / "child" / "tied.py")
    with pytest.raises(TrainingError, match=r"fails\.py failed \(exit code 1\): one \| no memory left"):
        ask_child(sys.executable, "fails.py", {}, log=tmp_path / "log")
    assert (tmp_path / "log").read_text(encoding="utf-8") == "one\nno memory left\n"
