"""A child process that does one job; `test_fit_apart.py` has its end with its owner."""

from __future__ import annotations

import threading

import pytest

from router.child import Child, ChildFailed


def test_a_child_that_takes_too_long_is_ended(capfd: pytest.CaptureFixture[str]) -> None:
    child = Child("router.apart")
    with pytest.raises(TimeoutError):
        child.run({}, timeout_s=0.01)
    assert capfd.readouterr().err == ""  # it would have found the job to be none


def test_a_child_that_is_ended_tells_its_status() -> None:
    child = Child("router.apart")
    threading.Timer(0.01, child.kill).start()
    with pytest.raises(ChildFailed) as failed:
        child.run({})
    assert failed.value.status == -9


def test_a_child_that_fails_tells_its_status(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ChildFailed) as failed:
        Child("router.apart").run({"folder": "nowhere"}, timeout_s=60)
    assert failed.value.status == 1
    assert "KeyError" in capfd.readouterr().err
