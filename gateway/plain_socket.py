"""A connected TCP socket as an asyncio transport, for connections that live for one request.

llama-server closes its connection after every stream, so each request opens one. With the event loop's own transport
that costs two to three times what the kernel takes; this does what ``http1`` needs and no more: no TLS, no names.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import ipaddress
import socket
from typing import Any

__all__ = ["PlainSocket", "connected", "numeric"]

_PIECE_BYTES = 64 * 1024


@functools.lru_cache(maxsize=256)
def numeric(host: str, port: int) -> tuple[socket.AddressFamily, tuple[Any, ...]] | None:
    """What ``connected`` wants, of a host given as a number; None of one given by name, which must be looked up."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return (socket.AF_INET6, (host, port, 0, 0)) if address.version == 6 else (socket.AF_INET, (host, port))


async def connected(
    loop: asyncio.AbstractEventLoop, family: socket.AddressFamily, address: tuple[Any, ...], by_s: float
) -> socket.socket:
    """A socket connected to ``address``; on this machine at once, before the event loop turns.

    Args:
        by_s: the loop's time at which it gives up.

    Raises:
        TimeoutError: nobody has answered by then.
        OSError: refused, or no way there.
    """
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if sock.connect_ex(address) not in (0, errno.EISCONN) and not _is_connected(sock):
            async with asyncio.timeout_at(by_s):
                await loop.sock_connect(sock, address)  # goes on with what has begun
    except BaseException:
        sock.close()
        raise
    return sock


def _is_connected(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


class PlainSocket(asyncio.Transport):
    """Reads from the start. What is written leaves at once, or when the peer takes it; nobody is told to pause."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._loop = loop
        self._sock = sock
        self._fd = sock.fileno()
        self._protocol = protocol
        self._unsent = b""
        self._closed = False
        protocol.connection_made(self)
        loop.add_reader(self._fd, self._receive)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closed:
            return
        if self._unsent:
            self._unsent += data
            return
        self._unsent = bytes(data)
        self._send()
        if self._unsent and not self._closed:
            self._loop.add_writer(self._fd, self._send_rest)

    def pause_reading(self) -> None:
        if not self._closed:
            self._loop.remove_reader(self._fd)

    def resume_reading(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._fd, self._receive)

    def abort(self) -> None:
        """Close at once; the protocol hears of it when the loop turns."""
        self._lose(None)

    def is_closing(self) -> bool:
        return self._closed

    def _receive(self) -> None:
        try:
            data = self._sock.recv(_PIECE_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lose(error)
            return
        if data:
            self._protocol.data_received(data)
        else:
            self._lose(None)

    def _send(self) -> None:
        try:
            self._unsent = self._unsent[self._sock.send(self._unsent) :]
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            self._lose(error)

    def _send_rest(self) -> None:
        self._send()
        if not self._unsent and not self._closed:
            self._loop.remove_writer(self._fd)

    def _lose(self, error: OSError | None) -> None:
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._fd)
        if self._unsent:
            self._loop.remove_writer(self._fd)
        self._sock.close()
        self._loop.call_soon(self._protocol.connection_lost, error)
