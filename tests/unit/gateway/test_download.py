"""The downloader against a scripted HTTP transport: no socket is opened."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from gateway.download import Remote, exclusive, fetch, get_json, open_client
from gateway.errors import ConfigError, DownloadError

CONTENT = bytes(range(256)) * 40
Handler = Callable[[httpx.Request], httpx.Response]


def remote(sha256: str | None = None, size: int | None = len(CONTENT)) -> Remote:
    return Remote("https://host/file.bin", "file.bin", sha256 or hashlib.sha256(CONTENT).hexdigest(), size, "name", "1")


class Server:
    """Serves CONTENT; ``breaks`` holds how many bytes the next answers send before the connection drops."""

    def __init__(self, *, ranges: bool = True, breaks: list[int] | None = None, content: bytes = CONTENT) -> None:
        self.ranges, self.breaks, self.content = ranges, breaks or [], content
        self.asked: list[str | None] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        asked = request.headers.get("range")
        self.asked.append(asked)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.ranges else 0
        total = len(self.content)
        if start >= total:
            return httpx.Response(416, headers={"content-range": f"bytes */{total}"})
        headers = {"content-range": f"bytes {start}-{total - 1}/{total}"} if start else {}
        limit = self.breaks.pop(0) if self.breaks else None
        return httpx.Response(206 if start else 200, headers=headers, content=self._body(start, limit))

    def _body(self, start: int, limit: int | None) -> Iterator[bytes]:
        if limit is None:
            yield self.content[start:]
            return
        yield self.content[start : start + limit]
        raise httpx.ReadError("connection reset")


def pull(handler: Handler, target: Path, wanted: Remote | None = None) -> None:
    with open_client(httpx.MockTransport(handler)) as client:
        fetch(client, wanted or remote(), target, progress=False, retry_wait_s=0)


def part_of(target: Path, wanted: Remote | None = None) -> Path:
    return target.with_name(f"{target.name}.{(wanted or remote()).sha256[:12]}.part")


def test_whole_file_arrives_and_no_part_is_left(tmp_path: Path) -> None:
    server = Server()
    pull(server, tmp_path / "a/file.bin")
    assert (tmp_path / "a/file.bin").read_bytes() == CONTENT
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["file.bin"]
    assert server.asked == [None]


def test_a_file_already_right_is_not_asked_for(tmp_path: Path) -> None:
    (tmp_path / "file.bin").write_bytes(CONTENT)
    server = Server()
    pull(server, tmp_path / "file.bin")
    assert server.asked == []


def test_a_wrong_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "file.bin").write_bytes(b"x" * len(CONTENT))
    pull(Server(), tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_broken_connections_are_resumed_where_they_stopped(tmp_path: Path) -> None:
    server = Server(breaks=[100, 200])
    pull(server, tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=100-", "bytes=300-"]


def test_an_earlier_part_is_resumed(tmp_path: Path) -> None:
    part_of(tmp_path / "file.bin").write_bytes(CONTENT[:5000])
    server = Server()
    pull(server, tmp_path / "file.bin")
    assert server.asked == ["bytes=5000-"]
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_a_complete_part_is_only_checked(tmp_path: Path, size: int | None) -> None:
    part_of(tmp_path / "file.bin").write_bytes(CONTENT)
    pull(Server(), tmp_path / "file.bin", remote(size=size))
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_a_server_without_ranges_starts_over(tmp_path: Path) -> None:
    part_of(tmp_path / "file.bin").write_bytes(CONTENT[:5000])
    pull(Server(ranges=False), tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_a_refused_or_misplaced_range_starts_over(tmp_path: Path) -> None:
    for status, headers in ((416, {}), (206, {"content-range": f"bytes 7-{len(CONTENT) - 1}/{len(CONTENT)}"})):
        target = tmp_path / f"{status}.bin"
        part_of(target).write_bytes(CONTENT[:5000])
        answers = [httpx.Response(status, headers=headers, content=b"?"), httpx.Response(200, content=CONTENT)]
        pull(lambda _request, answers=answers: answers.pop(0), target)  # type: ignore[misc]
        assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("damaged", [b"x" * 5000, b"x" * (len(CONTENT) + 9), b"x" * len(CONTENT)])
def test_a_damaged_part_is_fetched_afresh(tmp_path: Path, damaged: bytes) -> None:
    part_of(tmp_path / "file.bin").write_bytes(damaged)
    pull(Server(), tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_a_wrong_hash_names_both_and_leaves_nothing(tmp_path: Path) -> None:
    wanted = remote(sha256="0" * 64)
    with pytest.raises(DownloadError) as caught:
        pull(Server(), tmp_path / "file.bin", wanted)
    assert "0" * 64 in caught.value.message
    assert hashlib.sha256(CONTENT).hexdigest() in caught.value.message
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_sends_too_much_is_cut_off(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="more than 10 bytes"):
        pull(Server(), tmp_path / "file.bin", remote(size=10))


def test_giving_up_keeps_the_part_for_next_time(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="after 5 attempts: connection reset"):
        pull(Server(breaks=[100, 0, 0, 0, 0]), tmp_path / "file.bin")
    assert part_of(tmp_path / "file.bin").read_bytes() == CONTENT[:100]


@pytest.mark.parametrize(
    ("status", "error", "said"),
    [
        (404, ConfigError, "not found"),
        (410, ConfigError, "not found"),
        (401, ConfigError, "token"),
        (403, ConfigError, "token"),
        (418, DownloadError, "418"),
        (503, DownloadError, "after 5 attempts"),
        (429, DownloadError, "429"),
    ],
)
def test_statuses_become_clear_errors(tmp_path: Path, status: int, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        pull(lambda _request: httpx.Response(status), tmp_path / "file.bin")


@pytest.mark.parametrize("raised", [httpx.ConnectError, httpx.ReadTimeout, httpx.RemoteProtocolError])
def test_network_errors_become_download_errors(raised: type[httpx.RequestError]) -> None:
    def fail(_request: httpx.Request) -> httpx.Response:
        raise raised("")

    with (
        open_client(httpx.MockTransport(fail)) as client,
        pytest.raises(DownloadError, match=f"thing failed after 5 attempts: {raised.__name__}"),
    ):
        get_json(client, "https://host/x", "thing", {}, retry_wait_s=0)


def test_messages_hide_credentials_and_signed_queries() -> None:
    with (
        open_client(httpx.MockTransport(lambda _request: httpx.Response(404))) as client,
        pytest.raises(ConfigError) as caught,
    ):
        get_json(client, "https://user:secret@host/x?signature=secret", "thing", {})
    assert "secret" not in caught.value.message
    assert "https://host/x" in caught.value.message


@pytest.mark.parametrize("body", ["<html>", "[1]"])
def test_anything_but_a_json_object_is_refused(body: str) -> None:
    with (
        open_client(httpx.MockTransport(lambda _request: httpx.Response(200, text=body))) as client,
        pytest.raises(DownloadError, match="is expected"),
    ):
        get_json(client, "https://host/x", "thing", {})


def test_a_file_larger_than_the_disk_is_refused_before_it_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the disk has"):
        pull(Server(), tmp_path / "file.bin", remote(size=1 << 60))


def test_a_folder_that_cannot_be_made_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=str(tmp_path / "file")):
        pull(Server(), tmp_path / "file/sub/file.bin")


def test_the_lock_can_be_taken_again_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), exclusive(tmp_path / "x/.lock"):
        raise RuntimeError
    with exclusive(tmp_path / "x/.lock"):
        pass
