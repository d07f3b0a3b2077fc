"""How a training child is started on several devices: torchrun's arguments, from LlamaFactory's own variables.

LlamaFactory's command starts torchrun by itself and then loses callbacks; our entry is started by torchrun instead, so
that progress, stop and outcome stay ours. Ray is left to LlamaFactory: it takes the callbacks along.

    FORCE_TORCHRUN=1      start torchrun
    NPROC_PER_NODE        processes on this machine; default: one for each GPU, or for each core without one
    MASTER_ADDR, MASTER_PORT   where they meet; default: this machine, a free port
    USE_RAY=1             let Ray place the workers; with the LlamaFactory options ray_num_workers, ray_init_kwargs,
                          master_addr and master_port in the recipe
"""

from __future__ import annotations

from collections.abc import Mapping

from training.errors import SetupError

__all__ = ["launcher_arguments"]

ON = ("1", "true", "y")
"""What LlamaFactory takes for a yes."""
SHUTDOWN_S = 3600
"""How long torchrun waits for workers that finish their step and save; its own 30 s cut a slow step."""
SEVERAL_MACHINES = ("NNODES", "MIN_NNODES", "MAX_NNODES")


def launcher_arguments(environ: Mapping[str, str]) -> list[str]:
    """Return what stands between Python and our script: torchrun as a module, or nothing.

    Raises:
        SetupError: a variable that is no number, several machines, or torchrun and Ray at once.
    """
    if environ.get("FORCE_TORCHRUN", "0").lower() not in ON:
        return []
    if environ.get("USE_RAY", "0").lower() in ON:
        raise SetupError("FORCE_TORCHRUN and USE_RAY are both set: choose one")
    for name in SEVERAL_MACHINES:
        if environ.get(name, "1") != "1":
            raise SetupError(
                f"{name} is {environ[name]!r}: a run lies on one machine; on several, start torchrun on each with "
                "training/child/train.py and the run's spec.json"
            )
    processes = environ.get("NPROC_PER_NODE", "auto")
    if processes != "auto" and not (processes.isdecimal() and int(processes) > 0):
        raise SetupError(f"NPROC_PER_NODE is {processes!r}, a number of processes from 1 is expected")
    meeting = ["--standalone"]
    if port := environ.get("MASTER_PORT"):
        if not (port.isdecimal() and 0 < int(port) < 65536):
            raise SetupError(f"MASTER_PORT is {port!r}, a port from 1 to 65535 is expected")
        meeting = ["--master-addr", environ.get("MASTER_ADDR", "127.0.0.1"), "--master-port", port]
    words = ["-m", "torch.distributed.run", *meeting, "--nproc-per-node", processes]
    return [*words, "--shutdown-timeout", str(SHUTDOWN_S)]
