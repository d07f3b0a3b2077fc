"""Where the training environment is looked for; making it is tried by the integration test."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.environment import REQUIREMENTS, child_environment, ensure_environment, environment_dir, find_environment
from training.errors import SetupError


@pytest.fixture(autouse=True)
def no_environment_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POINTSMAN_TRAIN_PYTHON", raising=False)


def test_an_unfinished_environment_does_not_count(tmp_path: Path) -> None:
    folder = environment_dir(tmp_path, "default")
    (folder / "bin").mkdir(parents=True)
    with pytest.raises(SetupError, match="make train-env"):
        find_environment(tmp_path)
    (folder / "pointsman-complete").touch()
    assert find_environment(tmp_path) == folder / "bin" / "python"
    assert ensure_environment(tmp_path) == folder / "bin" / "python"


def test_variants_do_not_share_an_environment(tmp_path: Path) -> None:
    assert environment_dir(tmp_path, "cpu") != environment_dir(tmp_path, "rocm")


def test_the_variant_made_last_by_name_is_the_one_used(tmp_path: Path) -> None:
    for variant in ("default", "rocm"):
        folder = environment_dir(tmp_path, variant)
        (folder / "bin").mkdir(parents=True)
        (folder / "pointsman-complete").touch()
    default, rocm = (environment_dir(tmp_path, variant) / "bin" / "python" for variant in ("default", "rocm"))
    assert find_environment(tmp_path) == ensure_environment(tmp_path) == default
    assert ensure_environment(tmp_path, "rocm") == rocm
    assert find_environment(tmp_path) == ensure_environment(tmp_path) == rocm
    assert ensure_environment(tmp_path, "default") == default
    assert find_environment(tmp_path) == default


def test_an_unknown_variant_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="variant 'tpu' is unknown; allowed: default, cpu, cuda, rocm"):
        ensure_environment(tmp_path, "tpu")


def test_an_environment_of_ones_own_must_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POINTSMAN_TRAIN_PYTHON", str(tmp_path / "gone"))
    with pytest.raises(SetupError, match="gone': no such file"):
        find_environment(tmp_path)


def test_idle_worker_threads_do_not_spin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert child_environment()["OMP_WAIT_POLICY"] == "PASSIVE"


def test_torchaudio_is_required() -> None:
    """LlamaFactory imports it even for text, and does not name it among its requirements."""
    assert "torchaudio==" in REQUIREMENTS.read_text(encoding="utf-8")
