"""How a training child is started: alone, or by torchrun."""

from __future__ import annotations

import pytest

from training.errors import SetupError
from training.launch import launcher_arguments


@pytest.mark.parametrize("environ", [{}, {"FORCE_TORCHRUN": "0"}, {"NPROC_PER_NODE": "4"}, {"USE_RAY": "1"}])
def test_alone_unless_torchrun_is_asked_for(environ: dict[str, str]) -> None:
    assert launcher_arguments(environ) == []


def test_torchrun_takes_the_processes_and_meets_on_a_free_port() -> None:
    words = launcher_arguments({"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "2"})
    assert words[:2] == ["-m", "torch.distributed.run"]
    assert words[2:5] == ["--standalone", "--nproc-per-node", "2"]


def test_torchrun_meets_where_it_is_told() -> None:
    words = launcher_arguments({"FORCE_TORCHRUN": "true", "MASTER_PORT": "29500"})
    assert words[2:8] == ["--master-addr", "127.0.0.1", "--master-port", "29500", "--nproc-per-node", "auto"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"NPROC_PER_NODE": "two"}, "NPROC_PER_NODE is 'two'"),
        ({"NPROC_PER_NODE": "0"}, "NPROC_PER_NODE is '0'"),
        ({"MASTER_PORT": "99999"}, "MASTER_PORT is '99999'"),
        ({"NNODES": "2"}, "NNODES is '2': a run lies on one machine"),
        ({"USE_RAY": "1"}, "FORCE_TORCHRUN and USE_RAY are both set"),
    ],
)
def test_a_mistake_is_named(changed: dict[str, str], message: str) -> None:
    with pytest.raises(SetupError, match=message):
        launcher_arguments({"FORCE_TORCHRUN": "1"} | changed)
