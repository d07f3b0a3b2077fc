"""Keys and rate limits."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from unit.fakes import ManualClock

from gateway.auth import Keyring, RateLimiter, admin_key_file, is_loopback, load_keys
from gateway.errors import AuthenticationError, ConfigError, RateLimited


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.2", False),
        ("example.org", False),
    ],
)
def test_loopback_is_what_only_this_machine_reaches(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_keys_come_from_the_environment_and_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# people\nann plain-key  # hers\n\nbob sha256:{digest('hashed')}\n", encoding="utf-8")
    assert load_keys(file, "one, two,") == {
        digest("one"): "env-1",
        digest("two"): "env-2",
        digest("plain-key"): "ann",
        digest("hashed"): "bob",
    }
    assert load_keys(None, None) == {}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"just-a-key\n", "line 1"),
        (b"ok key\nann key one too many\n", "line 2"),
        (b"# nothing\n", "holds no key"),
        (b"ann \xff\xfe\n", "cannot be read"),
    ],
)
def test_a_bad_keys_file_is_refused_without_repeating_a_key(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "keys").write_bytes(content)
    with pytest.raises(ConfigError, match=says) as caught:
        load_keys(tmp_path / "keys", None)
    assert "just-a-key" not in caught.value.message


def test_a_keys_file_that_is_absent_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_keys(tmp_path / "none", None)


def test_the_admin_key_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    path = admin_key_file(tmp_path / "cache")
    key = path.read_text(encoding="utf-8")
    assert len(key) >= 32
    assert path.stat().st_mode & 0o077 == 0
    assert admin_key_file(tmp_path / "cache").read_text(encoding="utf-8") == key
    assert [p.name for p in path.parent.iterdir()] == ["admin.key"]


KEYRING = Keyring({digest("secret"): "ann"}, "admin-secret")


@pytest.mark.parametrize(
    ("authorization", "x_api_key", "name"),
    [
        ("Bearer secret", None, "ann"),
        ("bearer  secret ", None, "ann"),
        (None, "secret", "ann"),
        ("Basic secret", "secret", "ann"),
        ("Bearer ", "secret", "ann"),
        ("Bearer admin-secret", None, "admin"),
    ],
)
def test_a_key_is_taken_from_either_header(authorization: str | None, x_api_key: str | None, name: str) -> None:
    assert KEYRING.client(authorization, x_api_key) == name


@pytest.mark.parametrize(
    ("authorization", "x_api_key"),
    [(None, None), ("", ""), ("Bearer wrong", None), ("secret", None), ("Bearer wrong", "secret")],
)
def test_any_other_key_is_401(authorization: str | None, x_api_key: str | None) -> None:
    with pytest.raises(AuthenticationError) as caught:
        KEYRING.client(authorization, x_api_key)
    assert (caught.value.status, caught.value.code) == (401, "invalid_api_key")
    assert "wrong" not in caught.value.message


@pytest.mark.parametrize("authorization", [None, "", "Bearer anything", "nonsense"])
def test_without_keys_everyone_may_ask(authorization: str | None) -> None:
    assert Keyring({}, "admin-secret").client(authorization, None) == "open"


@pytest.mark.parametrize(
    ("keys", "authorization", "status"),
    [
        ({}, None, 401),
        ({}, "Bearer wrong", 401),
        ({digest("secret"): "ann"}, "Bearer secret", 403),
        ({digest("secret"): "ann"}, "Bearer wrong", 401),
    ],
)
def test_only_the_admin_key_administers(keys: dict[str, str], authorization: str | None, status: int) -> None:
    with pytest.raises(AuthenticationError) as caught:
        Keyring(keys, "admin-secret").admin(authorization, None)
    assert caught.value.status == status
    Keyring(keys, "admin-secret").admin("Bearer admin-secret", None)
    Keyring(keys, "admin-secret").admin(None, "admin-secret")


def test_a_rate_limit_refills_with_time_and_never_over_a_minutes_worth() -> None:
    clock = ManualClock()
    limiter = RateLimiter(60, clock)
    for _ in range(60):
        limiter.take("ann")
    with pytest.raises(RateLimited) as caught:
        limiter.take("ann")
    assert (caught.value.status, caught.value.retry_after_s) == (429, pytest.approx(1.0))
    limiter.take("bob")
    clock.advance(1.0)
    limiter.take("ann")
    clock.advance(3600.0)
    for _ in range(60):
        limiter.take("ann")
    with pytest.raises(RateLimited):
        limiter.take("ann")


def test_a_refusal_costs_nothing_of_the_next_turn() -> None:
    clock = ManualClock()
    limiter = RateLimiter(1, clock)
    limiter.take("ann")
    for _ in range(10):
        clock.advance(5.0)
        with pytest.raises(RateLimited):
            limiter.take("ann")
    clock.advance(10.5)
    limiter.take("ann")


def test_a_limit_of_zero_is_no_limit() -> None:
    limiter = RateLimiter(0, ManualClock())
    for _ in range(1000):
        limiter.take("ann")
