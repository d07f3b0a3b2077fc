"""Making the native llama-server, with a cmake that only pretends."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from training.errors import SetupError
from training.native import ensure_native, main, native_path

CMAKE = """#!/bin/sh
echo "$@" >> {log}
echo 'compiling'
[ -e {broken} ] && exit 1
if [ "$1" = --build ]; then
  mkdir -p "$2/bin"
  printf '#!/bin/sh\\nexit {version_status}\\n' > "$2/bin/llama-server"
  chmod +x "$2/bin/llama-server"
fi
exit 0
"""


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with these tools alone; no variable names others, and the sources are there already."""
    folder = tmp_path / "tools"
    folder.mkdir()
    for name in ("cc", "c++", "make"):
        (folder / name).touch(mode=0o755)
    put_cmake(folder)
    for name in ("sh", "mkdir", "chmod"):
        (folder / name).symlink_to(f"/bin/{name}")
    monkeypatch.setenv("PATH", str(folder))
    for variable in ("CC", "CXX"):
        monkeypatch.delenv(variable, raising=False)
    sources = native_path(tmp_path).parent / "sources"
    sources.mkdir(parents=True)
    (sources / "complete").touch()
    return folder


def put_cmake(folder: Path, version_status: int = 0) -> None:
    cmake = folder / "cmake"
    cmake.write_text(CMAKE.format(log=folder / "log", broken=folder / "broken", version_status=version_status))
    cmake.chmod(0o755)


def test_it_is_compiled_once_and_only_the_executable_is_kept(tools: Path, tmp_path: Path) -> None:
    made = ensure_native(tmp_path, jobs=3)
    assert made == native_path(tmp_path)
    assert sorted(path.name for path in made.parent.iterdir()) == [".lock", "llama-server"]
    configure, build = (tools / "log").read_text().splitlines()
    for option in ("-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", "-DLLAMA_USE_PREBUILT_UI=OFF"):
        assert option in configure
    assert "--target llama-server --parallel 3" in build
    (tools / "cmake").unlink()
    assert ensure_native(tmp_path) == made


def test_a_build_that_failed_goes_on_at_the_second_call(tools: Path, tmp_path: Path) -> None:
    (tools / "broken").touch()
    with pytest.raises(SetupError, match=r"cannot be compiled, this failed: .*cmake -S ") as caught:
        ensure_native(tmp_path)
    assert "\n" not in str(caught.value)
    assert not native_path(tmp_path).exists()
    assert (native_path(tmp_path).parent / "sources").is_dir()
    (tools / "broken").unlink()
    assert ensure_native(tmp_path).is_file()


def test_an_executable_that_does_not_run_is_not_kept(tools: Path, tmp_path: Path) -> None:
    put_cmake(tools, version_status=1)
    with pytest.raises(SetupError, match="llama-server --version"):
        ensure_native(tmp_path)
    assert not native_path(tmp_path).exists()


@pytest.mark.parametrize(
    ("gone", "named"),
    [
        (["cmake"], "cmake not found"),
        (["c++"], "a C\\+\\+ compiler not found"),
        (["cc", "c++"], "a C compiler and a C\\+\\+ compiler not found"),
        (["make"], "make or ninja not found"),
    ],
)
def test_a_missing_tool_is_one_clear_line_before_anything_is_fetched(
    tools: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    gone: list[str],
    named: str,
) -> None:
    for name in gone:
        (tools / name).unlink()
    with pytest.raises(SetupError, match=named):
        ensure_native(tmp_path)
    assert not (tools / "log").exists()
    monkeypatch.setattr(sys, "argv", ["native", "--cache-dir", str(tmp_path)])
    assert main() == 2
    written = capsys.readouterr()
    assert written.out == ""
    assert written.err.count("\n") == 1
    assert "apt-get install cmake" in written.err


def test_a_compiler_of_ones_own_must_exist(tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler -O3")
    with pytest.raises(SetupError, match=r"a C\+\+ compiler \(CXX is 'no-such-compiler'\) not found"):
        ensure_native(tmp_path)


def test_the_path_alone_stands_on_standard_output(
    tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["native", "--cache-dir", str(tmp_path)])
    assert main() == 0
    written = capfd.readouterr()
    assert written.out == f"{native_path(tmp_path)}\n"
    assert "compiling" in written.err
