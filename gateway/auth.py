"""Who may ask: bearer keys and a rate limit for each.

Keeps only sha256 hashes of keys. Knows nothing of HTTP frameworks: it is given header values.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import re
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from .errors import AuthenticationError, ConfigError, RateLimited

__all__ = ["OPEN", "Keyring", "RateLimiter", "admin_key_file", "is_loopback", "load_keys"]

OPEN = "open"
"""Every client's name when no keys are set."""
_MAX_BUCKETS = 10_000
_HASHED = re.compile(r"sha256:([0-9a-f]{64})")


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server bound to ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def load_keys(file: Path | None, plain: str | None) -> dict[str, str]:
    """Collect the client keys as ``{sha256: name}``.

    Args:
        file: one key a line: ``NAME KEY`` or ``NAME sha256:HEX``; `` #`` starts a comment.
        plain: keys from the environment, comma-separated.

    Raises:
        ConfigError: the file cannot be read, or a line is neither; the key itself is never repeated.
    """
    keys = {_digest(key.strip()): f"env-{i}" for i, key in enumerate((plain or "").split(","), 1) if key.strip()}
    if file is None:
        return keys
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"keys file {file}: cannot be read: {reason}") from error
    for number, line in enumerate(lines, 1):
        words = [] if line.lstrip().startswith("#") else line.split(" #", 1)[0].split()
        if not words:
            continue
        if len(words) != 2:
            raise ConfigError(f"keys file {file}, line {number}: 'NAME KEY' or 'NAME sha256:HEX' is expected")
        name, key = words
        hashed = _HASHED.fullmatch(key)
        digest = hashed.group(1) if hashed else _digest(key)
        if digest in keys:
            raise ConfigError(f"keys file {file}, line {number}: {name!r} has the same key as {keys[digest]!r}")
        keys[digest] = name
    if not keys:
        raise ConfigError(f"keys file {file}: holds no key")
    return keys


def admin_key_file(cache_dir: Path) -> Path:
    """The file with this machine's admin key, made on first use and readable by its owner only.

    It lets ``pointsman publish`` reach a running gateway of the same user without any set-up.
    """
    path = cache_dir / "admin.key"
    if not path.exists():
        cache_dir.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"admin.key.{os.getpid()}.tmp")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as out:
            out.write(secrets.token_urlsafe(32))
        temporary.replace(path)
    return path


class Keyring:
    """Checks keys. Without client keys every client may ask; the admin key is always needed for ``/admin``."""

    def __init__(self, keys: Mapping[str, str], admin_key: str) -> None:
        self._keys = dict(keys)
        self._admin = _digest(admin_key)

    @property
    def is_open(self) -> bool:
        """Whether any client may ask, because no client keys are in use."""
        return not self._keys

    def client(self, authorization: str | None, x_api_key: str | None) -> str:
        """Return the client's name, for limits and logs.

        Raises:
            AuthenticationError: keys are in use and this is none of them.
        """
        if self.is_open:
            return OPEN
        given = _digest(_key(authorization, x_api_key))
        name = self._keys.get(given) or ("admin" if hmac.compare_digest(given, self._admin) else None)
        if name is None:
            raise AuthenticationError("Incorrect or missing API key. Send it as 'Authorization: Bearer KEY'.")
        return name

    def admin(self, authorization: str | None, x_api_key: str | None) -> None:
        """Raises: AuthenticationError: not the admin key (401), or a client's key (403)."""
        given = _digest(_key(authorization, x_api_key))
        if hmac.compare_digest(given, self._admin):
            return
        if given in self._keys:
            raise AuthenticationError("This key may not administer the gateway.", status=403, code="forbidden")
        raise AuthenticationError("The admin key is needed here: 'Authorization: Bearer KEY'.")


def _key(authorization: str | None, x_api_key: str | None) -> str:
    scheme, _, value = (authorization or "").partition(" ")
    return value.strip() if scheme.lower() == "bearer" and value.strip() else (x_api_key or "").strip()


class RateLimiter:
    """A token bucket for each client: ``per_minute`` requests, as many at once after a quiet minute; 0 is no limit."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, client: str) -> None:
        """Raises: RateLimited: with the seconds until the next request is allowed."""
        if not self._per_minute:
            return
        now = self._clock()
        rate = self._per_minute / 60
        if len(self._buckets) > _MAX_BUCKETS:
            quiet = now - 60  # a bucket is full again after a minute: the same as none
            self._buckets = {name: bucket for name, bucket in self._buckets.items() if bucket[1] > quiet}
        level, at = self._buckets.get(client, (float(self._per_minute), now))
        level = min(float(self._per_minute), level + (now - at) * rate)
        if level < 1:
            self._buckets[client] = (level, now)
            raise RateLimited(
                f"Rate limit reached: {self._per_minute} requests a minute are allowed for this key.",
                retry_after_s=(1 - level) / rate,
            )
        self._buckets[client] = (level - 1, now)
