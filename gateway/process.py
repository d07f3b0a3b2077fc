"""One llama-server child process: start it with the flags that make hot-swap safe, watch it, stop it.

Two kinds of child, one behaviour: ``embedded`` (``gateway.embedded``, the prebuilt wheel) and ``binary`` (a
``llama-server`` executable). Knows nothing of experts, leases or completions; ``engine.py`` decides when to restart.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import ctypes
import json
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .errors import BackendStartError, ConfigError

__all__ = ["CHILD_CWD", "THREADS_WAIT", "EngineProcess", "LaunchSpec", "binary_arguments", "free_port", "port_is_free"]

log = logging.getLogger("pointsman.engine")

_PR_SET_PDEATHSIG = 1  # Linux prctl(2)

THREADS_WAIT = ("GOMP_SPINCOUNT", "300")
"""How often a thread of llama.cpp looks whether the others are done before it sleeps, where it is built with GNU's
OpenMP, as our wheel is (libgomp manual, "GOMP_SPINCOUNT"; the default is 300,000 where threads have a core each). As
long as they spin, one that has lost its core holds up all: an engine that takes over from another one would be slowed
to a hundredth. `benchmarks/sharing.py` measures it."""


@dataclass(frozen=True, slots=True)
class LaunchSpec:
    """How to start one llama-server. ``adapters`` are loaded in this order, at scale 0."""

    model: str
    adapters: tuple[str, ...]
    host: str
    port: int
    slots: int
    ctx_per_slot: int
    threads: int
    gpu_layers: int
    alias: str
    cache_ram_mib: int = 0
    """0 switches llama-server's RAM prompt cache off. Any other value lets one expert's KV be restored for another."""
    batch_tokens: int = 256
    """Prompt tokens computed at one go: a client that leaves frees its slot only between two of them, and the other
    slots wait as long. llama-server's own 2048 takes seconds on a CPU; a GPU is a little faster with more than 256."""
    verbosity: int = 2
    api_key: str = field(default_factory=lambda: secrets.token_hex(16))
    """Keeps everyone but the gateway off the server: nobody else may change scales or take slots."""


CHILD_CWD = Path(__file__).parent.parent
"""Where children run: the embedded one imports this package."""


def binary_arguments(executable: str, spec: LaunchSpec, extra: Sequence[str] = ()) -> list[str]:
    """The command line of a ``llama-server`` executable.

    ``--lora-scaled FILE:0`` and not ``--lora-init-without-apply``: the latter leaves every scale at 1, so that all
    adapters are summed for a request that names none. The list is split at commas and colons.

    Raises:
        ConfigError: an adapter's path contains a comma or a colon.
    """
    arguments = [executable, "--model", spec.model, "--host", spec.host, "--port", str(spec.port)]
    arguments += ["--parallel", str(spec.slots), "--ctx-size", str(spec.slots * spec.ctx_per_slot)]
    arguments += ["--threads", str(spec.threads), "--alias", spec.alias]
    arguments += ["--batch-size", str(spec.batch_tokens), "--ubatch-size", str(min(512, spec.batch_tokens))]
    arguments += ["--cache-ram", str(spec.cache_ram_mib), "--metrics", "--slots", "--no-webui"]
    if spec.gpu_layers >= 0:
        arguments += ["--n-gpu-layers", str(spec.gpu_layers)]
    for path in spec.adapters:
        if "," in path or ":" in path:
            raise ConfigError(f"adapter path {path!r} contains a comma or a colon, which llama-server cannot take")
    if spec.adapters:
        arguments += ["--lora-scaled", ",".join(f"{path}:0" for path in spec.adapters)]
    return [*arguments, *extra]


def port_is_free(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
    return port


class EngineProcess:
    """A child process. ``executable`` None runs the embedded server, else that ``llama-server``."""

    def __init__(self, spec: LaunchSpec, *, executable: str | None = None, extra: Sequence[str] = ()) -> None:
        self.spec = spec
        self._executable = executable
        self._extra = tuple(extra)
        self._process: asyncio.subprocess.Process | None = None
        self._tail: collections.deque[str] = collections.deque(maxlen=40)
        self._readers: list[asyncio.Task[None]] = []

    @property
    def url(self) -> str:
        host = f"[{self.spec.host}]" if ":" in self.spec.host else self.spec.host
        return f"http://{host}:{self.spec.port}"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start the child; it is not ready yet.

        Raises:
            ConfigError: its port is taken, or the executable cannot be run.
        """
        if not port_is_free(self.spec.host, self.spec.port):
            raise ConfigError(
                f"engine port {self.spec.port} on {self.spec.host} is taken: stop what listens there or set engine.port"
            )
        environment = dict([THREADS_WAIT]) | os.environ
        if self._executable is None:
            arguments = [sys.executable, "-m", "gateway.embedded"]
        else:
            arguments = binary_arguments(self._executable, self.spec, self._extra)
            environment["LLAMA_API_KEY"] = self.spec.api_key
        pipe = asyncio.subprocess.PIPE
        try:
            self._process = await asyncio.create_subprocess_exec(
                *arguments,
                stdin=pipe,
                stdout=pipe,
                stderr=pipe,
                env=environment,
                cwd=CHILD_CWD,
                start_new_session=True,
                preexec_fn=_die_with_us() if sys.platform == "linux" else None,
            )
        except OSError as error:
            raise ConfigError(f"cannot run {arguments[0]!r}: {error.strerror or error}") from error
        self._tail.clear()
        self._readers = [asyncio.create_task(self._read(s)) for s in (self._process.stdout, self._process.stderr) if s]
        if self._executable is None and self._process.stdin is not None:
            with contextlib.suppress(ConnectionError):
                self._process.stdin.write(json.dumps(asdict(self.spec)).encode() + b"\n")
                await self._process.stdin.drain()

    async def wait(self) -> int:
        """Wait until the child has ended and its log is read; its exit status (negative: the signal)."""
        if self._process is None:
            raise BackendStartError("the engine was never started")
        status = await self._process.wait()
        await asyncio.wait(self._readers, timeout=1)
        return status

    def why_not_loaded(self, adapter: str) -> str | None:
        """What llama.cpp logged as it failed to load this adapter; None when it did not complain of it."""
        lines = list(self._tail)
        named = next((i for i, line in enumerate(lines) if f"'{adapter}'" in line and "failed" in line), None)
        if named is None:
            return None
        cause = lines[named - 1] if named else lines[named]
        return cause.partition(": ")[2] or cause

    def last_words(self) -> str:
        """The last log lines that name an error, else the last few, in one line."""
        lines = [line for line in self._tail if line.strip()]
        telling = [line for line in lines if "error" in line.lower() or "failed" in line.lower()]
        return " | ".join((telling or lines)[-3:]) or "it logged nothing"

    async def stop(self, limit_s: float = 5.0) -> None:
        """End the child: politely, then by SIGKILL, at once with a limit of 0; idempotent."""
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            if self._executable is None and process.stdin is not None:
                process.stdin.close()
            else:
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(limit_s):
                    await process.wait()
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)
        if process.stdin is not None:
            process.stdin.close()

    async def _read(self, stream: asyncio.StreamReader) -> None:
        while True:
            try:
                line = await stream.readline()
            except ValueError:  # a line over the reader's limit: drop it
                continue
            if not line:
                return
            text = line.decode("utf-8", "replace").rstrip()
            self._tail.append(text)
            log.debug("%s", text, extra={"engine_port": self.spec.port})


def _die_with_us() -> Callable[[], None]:
    """What has Linux end the child when the gateway is killed; to run in the child before exec.

    All is looked up here, in the parent: after a fork the dynamic loader's lock may be one that no thread will release.
    """
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # killed before it could be told
            os._exit(1)

    return ask
