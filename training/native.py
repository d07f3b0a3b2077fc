"""A native llama-server, compiled from the pinned source archive for this machine's processor.

Owns the build: its options, its place in the user's cache, its tools. `python -m training.native` makes it (about eight
minutes on two cores; milliseconds when it is there) and prints the executable's path, for `engine.kind: binary`. The
prebuilt embedded engine needs none of this.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from gateway.base import default_cache_dir
from gateway.download import exclusive
from gateway.errors import GatewayError
from training.archive import PACKAGE, SHA256, VERSION, unpack_once
from training.errors import SetupError, TrainingError

__all__ = ["ensure_native", "native_path"]

SERVER = "llama-server"
PARTS = "CMakeLists.txt LICENSE app/ cmake/ common/ ggml/ include/ licenses/ scripts/ src/ tools/ vendor/"
# One executable that needs no library of ours beside it, and no more of the network than its own port: the web page is
# left out because the build would download it.
OPTIONS = {
    "CMAKE_BUILD_TYPE": "Release",
    "BUILD_SHARED_LIBS": "OFF",
    "GGML_NATIVE": "ON",
    # Virtual machines name AMX among their features and do not let it be used: the first token ended with SIGILL (2
    # cores of an Intel Xeon under Firecracker, 2026-11-28).
    "CMAKE_C_FLAGS": "-U__AMX_INT8__",
    "CMAKE_CXX_FLAGS": "-U__AMX_INT8__",
    "LLAMA_OPENSSL": "OFF",
    "LLAMA_BUILD_UI": "OFF",
    "LLAMA_USE_PREBUILT_UI": "OFF",
    "LLAMA_BUILD_APP": "OFF",
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    # Else it would describe whatever git repository the cache happens to lie in.
    "LLAMA_BUILD_NUMBER": "0",
    "LLAMA_BUILD_COMMIT": f"{PACKAGE}-{VERSION}",
}


def native_path(cache_dir: Path) -> Path:
    """Return where the executable for this archive, these options and this kind of machine lies, or would lie."""
    facts = f"{SHA256} {sorted(OPTIONS.items())} {platform.system()} {platform.machine()}"
    return cache_dir / "llama.cpp" / f"native-{hashlib.sha256(facts.encode()).hexdigest()[:16]}" / SERVER


def ensure_native(cache_dir: Path, jobs: int | None = None) -> Path:
    """Return the executable, compiling it the first time; a build that was stopped goes on where it was.

    Args:
        jobs: compilers at a time; default: one for each core.

    Raises:
        SetupError: cmake or a compiler is missing, the archive cannot be had, or the build failed.
    """
    executable = native_path(cache_dir)
    if executable.is_file():
        return executable
    tools = _tools()
    try:
        with exclusive(executable.parent / ".lock"):
            if not executable.is_file():
                _build(cache_dir, executable, tools, jobs or os.cpu_count() or 1)
    except GatewayError as error:
        raise SetupError(str(error)) from error
    return executable


def _tools() -> str:
    """The cmake to call; everything it will call is looked for now, not after a download."""
    cmake = shutil.which("cmake")
    missing = [] if cmake else ["cmake"]
    for what, variable, usual in (
        ("a C compiler", "CC", ["cc", "gcc", "clang"]),
        ("a C++ compiler", "CXX", ["c++", "g++", "clang++"]),
        ("make or ninja", "", ["make", "gmake", "ninja"]),
    ):
        named = shlex.split(os.environ.get(variable, ""))[:1]
        if not any(shutil.which(name) for name in named or usual):
            missing.append(what + (f" ({variable} is {named[0]!r})" if named else ""))
    if missing or cmake is None:
        advice = "on Debian and Ubuntu: apt-get install cmake g++ make"
        raise SetupError(f"{SERVER} cannot be compiled, {' and '.join(missing)} not found; {advice}")
    return cmake


def _build(cache_dir: Path, executable: Path, cmake: str, jobs: int) -> None:
    sources = executable.parent / "sources"
    build = executable.parent / "build"
    unpack_once(cache_dir, sources, tuple(PARTS.split()))
    options = [f"-D{name}={value}" for name, value in OPTIONS.items()]
    _run([cmake, "-S", str(sources), "-B", str(build), *options])
    _run([cmake, "--build", str(build), "--target", SERVER, "--parallel", str(jobs)])
    made = build / "bin" / SERVER
    _run([str(made), "--version"])
    made.replace(executable)
    shutil.rmtree(sources)
    shutil.rmtree(build)


def _run(command: list[str]) -> None:
    """Run a step, its output on standard error: standard output is for the path alone."""
    if subprocess.run(command, check=False, stdin=subprocess.DEVNULL, stdout=sys.stderr).returncode:
        raise SetupError(f"{SERVER} cannot be compiled, this failed: {shlex.join(command)}")


def main() -> int:
    """Make the executable and print its path."""
    parser = argparse.ArgumentParser(description="Compile a native llama-server for engine.kind: binary.")
    parser.add_argument("--cache-dir", type=Path, default=default_cache_dir(), help="where it is kept (%(default)s)")
    parser.add_argument("--jobs", type=int, help="compilers at a time; default: one for each core")
    arguments = parser.parse_args()
    if arguments.jobs is not None and arguments.jobs < 1:
        parser.error(f"--jobs is {arguments.jobs}; at least 1 is allowed")
    try:
        print(ensure_native(arguments.cache_dir, arguments.jobs))
    except TrainingError as error:
        print(f"native: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
