"""Fetch a file over HTTP: resumed after an interruption, checked against its sha256, renamed into place when whole.

Owns the HTTP client, retries, unfinished ``.part`` files, the lock between processes, and the translation of network
and disk errors. Knows nothing of package indexes, wheels or models.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
import shutil
import ssl
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import httpx
from tqdm import tqdm

from .errors import ConfigError, DownloadError

__all__ = ["Remote", "disk_errors", "exclusive", "fetch", "file_hash", "get_json", "open_client", "progress_bar"]

_T = TypeVar("_T")
_log = logging.getLogger(__name__)
_BLOCK_BYTES = 1 << 20
_ATTEMPTS = 5  # in a row without a single new byte
_RETRIED_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Remote:
    """A file elsewhere and the bytes it must have; ``headers`` may hold a token and stay out of ``repr``."""

    url: str = field(repr=False)
    filename: str
    sha256: str
    size_bytes: int | None
    name: str
    revision: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for text in (self.filename, self.revision):  # both become part of a path in the cache
            if not text or text.startswith("/") or ".." in PurePosixPath(text).parts:
                raise DownloadError(f"{self.name}: its source answers with {text!r}, which is no relative path")


class _Retry(Exception):
    """The transfer broke off in a way that another attempt may mend."""


def open_client(transport: httpx.BaseTransport | None = None) -> httpx.Client:
    """Open the HTTP client for downloads; the caller closes it.

    Certificates are OpenSSL's defaults, so ``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` count; so do the proxy variables.
    """
    return httpx.Client(
        verify=ssl.create_default_context(),
        follow_redirects=True,
        timeout=httpx.Timeout(60.0, connect=15.0),
        headers={"User-Agent": "pointsman", "Accept-Encoding": "identity"},
        transport=transport,
    )


def get_json(
    client: httpx.Client, url: str, what: str, headers: Mapping[str, str], *, retry_wait_s: float = 1.0
) -> dict[str, Any]:
    """Get a JSON object; ``what`` names it in error messages.

    Raises:
        ConfigError: it does not exist, or access is refused.
        DownloadError: the server cannot be reached, fails, or answers with something else.
    """

    def attempt() -> httpx.Response:
        response = client.get(url, headers=headers)
        _check_status(response, what)
        return response

    response = _retrying(attempt, lambda: 0, what, retry_wait_s)
    try:
        data = response.json()
    except ValueError as error:
        kind = response.headers.get("content-type", "nothing")
        raise DownloadError(f"{what}: {_public(url)} answered with {kind}, JSON is expected") from error
    if not isinstance(data, dict):
        raise DownloadError(f"{what}: {_public(url)} answered with a JSON {type(data).__name__}, an object is expected")
    return data


def fetch(
    client: httpx.Client, remote: Remote, target: Path, *, progress: bool = True, retry_wait_s: float = 1.0
) -> None:
    """Download to ``target`` unless it already has the right bytes; the caller holds the lock (``exclusive``).

    The unfinished file's name carries the wanted sha256, so what is resumed is always the same content. If resumed
    bytes lead to a wrong hash, the file is fetched once more from its start.

    Raises:
        ConfigError: it does not exist, access is refused, or the disk is full or not writable.
        DownloadError: the transfer failed for good, or the bytes have another sha256; names both.
    """
    with disk_errors(target.parent):
        if target.is_file() and file_hash(target) == remote.sha256:
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        path = target.with_name(f"{target.name}.{remote.sha256[:12]}.part")
        part = _Part(path)
        try:
            resumed = part.size > 0
            _complete(client, remote, part, progress, retry_wait_s)
            if part.sha256 != remote.sha256 and resumed:
                part.restart()
                _complete(client, remote, part, progress, retry_wait_s)
            actual = part.sha256
        finally:
            part.close()
        if actual != remote.sha256:
            path.unlink()
            raise DownloadError(f"{remote.filename}: sha256 is {actual}, its source says {remote.sha256}")
        path.replace(target)


class _Part:
    """The unfinished file: its bytes so far, and their running hash."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("a+b")
        self._file.seek(0)
        self._hash = hashlib.file_digest(self._file, "sha256")
        self.size = self._file.tell()

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def write(self, block: bytes) -> None:
        self._file.write(block)
        self._hash.update(block)
        self.size += len(block)

    def restart(self) -> None:
        self._file.truncate(0)
        self._hash = hashlib.sha256()
        self.size = 0

    def close(self) -> None:
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        finally:
            self._file.close()


def _complete(client: httpx.Client, remote: Remote, part: _Part, progress: bool, retry_wait_s: float) -> None:
    """Bring ``part`` to its full length, over as many connections as it takes."""
    if remote.size_bytes is not None and part.size > remote.size_bytes:
        part.restart()
    with progress_bar(remote.filename, remote.size_bytes, part.size, progress) as bar:
        _retrying(
            lambda: _transfer(client, remote, part, bar),
            lambda: part.size,
            f"download of {remote.filename}",
            retry_wait_s,
        )


def _transfer(client: httpx.Client, remote: Remote, part: _Part, bar: tqdm[Any]) -> None:
    if part.size == remote.size_bytes:
        return
    headers = {**remote.headers, **({"Range": f"bytes={part.size}-"} if part.size else {})}
    with client.stream("GET", remote.url, headers=headers) as response:
        if _is_whole(response, part.size):
            return
        if response.status_code == 416 or (response.status_code == 206 and not _continues(response, remote, part.size)):
            part.restart()
            bar.reset()
            raise _Retry(f"the server refused to resume ({response.status_code})")
        _check_status(response, remote.filename)
        if response.status_code != 206 and part.size:  # the server ignores Range and sends all of it
            part.restart()
            bar.reset()
        _check_space(part, remote, int(response.headers.get("content-length", 0)))
        for block in response.iter_bytes():  # as received: a block being gathered would be lost with the connection
            part.write(block)
            bar.update(len(block))
            if remote.size_bytes is not None and part.size > remote.size_bytes:
                raise DownloadError(f"{remote.filename}: the server sends more than {remote.size_bytes} bytes")
    if remote.size_bytes is not None and part.size < remote.size_bytes:
        raise _Retry(f"it ended after {part.size} of {remote.size_bytes} bytes")


def _is_whole(response: httpx.Response, have: int) -> bool:
    """Whether a 416 only says that there is nothing left to send."""
    return response.status_code == 416 and response.headers.get("content-range") == f"bytes */{have}" and have > 0


def _continues(response: httpx.Response, remote: Remote, have: int) -> bool:
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("content-range", ""))
    if not found or int(found[1]) != have:
        return False
    return found[2] == "*" or remote.size_bytes is None or int(found[2]) == remote.size_bytes


def _check_space(part: _Part, remote: Remote, length: int) -> None:
    needed = remote.size_bytes - part.size if remote.size_bytes is not None else length
    folder = part.path.parent
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ConfigError(f"{folder}: {remote.filename} needs {needed:,} more bytes, the disk has {free:,} free")


def _check_status(response: httpx.Response, what: str) -> None:
    status, url = response.status_code, _public(str(response.request.url))
    if status in (401, 403):
        raise ConfigError(f"{what}: {url} refuses access ({status}); a private or gated one needs a token")
    if status in (404, 410):
        raise ConfigError(f"{what}: not found at {url} ({status})")
    if status in _RETRIED_STATUSES:
        raise _Retry(f"{url} answered {status}")
    if not response.is_success:
        raise DownloadError(f"{what}: {url} answered {status}")


def _retrying(attempt: Callable[[], _T], done: Callable[[], int], what: str, wait_s: float) -> _T:
    """Repeat ``attempt`` with growing pauses while it breaks off; a new byte starts the count afresh."""
    failures, best = 0, done()
    while True:
        try:
            return attempt()
        except (_Retry, httpx.RequestError) as error:
            failures, best = (1, done()) if done() > best else (failures + 1, best)
            reason = " ".join(str(error).split()) or type(error).__name__
            if "CERTIFICATE_VERIFY_FAILED" in reason:
                raise DownloadError(f"{what} failed: {reason}; SSL_CERT_FILE names a file of trusted roots") from error
            if failures >= _ATTEMPTS:
                raise DownloadError(f"{what} failed after {failures} attempts: {reason}") from error
            _log.warning("%s broke off (%s), trying again", what, reason)
            time.sleep(wait_s * 2 ** (failures - 1))
        except httpx.InvalidURL as error:
            raise ConfigError(f"{what}: its address is not valid: {error}") from error


def _public(url: str) -> str:
    """The address without credentials and signed query, fit for a message."""
    return str(httpx.URL(url).copy_with(userinfo=b"", query=None))


def file_hash(path: Path, *, progress: bool = False) -> str:
    """Hash a file's bytes with sha256; lower-case hex. A bar shows for large files when ``progress``."""
    size = path.stat().st_size
    digest = hashlib.sha256()
    with path.open("rb") as file, progress_bar(f"sha256 {path.name}", size, 0, progress and size > 1 << 30) as bar:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()


def progress_bar(label: str, total: int | None, done: int, shown: bool) -> tqdm[Any]:
    """Show bytes on stderr; seldom redrawn where that is a log and not a terminal."""
    interval_s = 0.2 if sys.stderr.isatty() else 10.0
    return tqdm(
        total=total, initial=done, desc=label, unit="B", unit_scale=True, mininterval=interval_s, disable=not shown
    )


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock file ``path`` against other processes and threads; waits as long as it takes."""
    with disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _log.warning("another process is pulling into %s, waiting for it", path.parent)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn an operating-system error, such as a full disk, into one clear ``ConfigError``."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{error.filename or folder}: {error.strerror or error}") from error
