"""Fitting in a child process, on the real encoder: the same router, and an end in every case."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from unit.router.word_embedder import examples, negatives

from router import ApartFitter, BulkEmbedder, OnnxEmbedder, Reference, RouterError, fit
from router.child import AUTOGROUP, NICENESS


@pytest.fixture(scope="module")
def embedder(encoder_dir: Path) -> OnnxEmbedder:
    return OnnxEmbedder(encoder_dir)


def test_it_is_the_router_that_would_be_fitted_here(embedder: OnnxEmbedder, capfd: pytest.CaptureFixture[str]) -> None:
    passages = {name: texts[:2] for name, texts in examples().items()}
    fitted, reference = ApartFitter().fit(
        examples(), negatives(), embedder, passages=passages, max_false_abstain=0.1, workers=2
    )
    assert capfd.readouterr() == ("", "")
    here = fit(examples(), negatives(), BulkEmbedder(embedder), passages=passages, max_false_abstain=0.1)
    assert fitted.provenance == here.provenance
    assert fitted.threshold == pytest.approx(here.threshold, abs=1e-6)
    expected = Reference.build(examples(), negatives(), embedder)
    assert (reference.texts, reference.labels) == (expected.texts, expected.labels)
    assert np.allclose(reference.vectors, expected.vectors, atol=1e-3)


def test_what_the_fit_refuses_is_refused_in_its_words(embedder: OnnxEmbedder) -> None:
    with pytest.raises(RouterError, match=r"max_false_abstain is 1\.5, allowed is 0 to below 1"):
        ApartFitter().fit(examples(), [], embedder, max_false_abstain=1.5)


def test_closing_ends_a_fit_and_forbids_the_next(embedder: OnnxEmbedder) -> None:
    fitter = ApartFitter()
    timer = threading.Timer(0.5, fitter.close)
    timer.start()
    with pytest.raises(RouterError, match="fitting was ended"):
        fitter.fit(examples(), negatives(), embedder)
    timer.join()
    with pytest.raises(RouterError, match="the program stops"):
        fitter.fit(examples(), negatives(), embedder)


def test_fits_take_turns_and_closing_ends_them_all(embedder: OnnxEmbedder) -> None:
    fitter = ApartFitter()
    ended: list[str] = []

    def fit_until_closed() -> None:
        try:
            fitter.fit(examples(), negatives(), embedder)
        except RouterError as error:
            ended.append(str(error))

    fits = [threading.Thread(target=fit_until_closed) for _ in range(2)]
    for each in fits:
        each.start()
    time.sleep(0.5)
    fitter.close()
    for each in fits:
        each.join()
    assert sorted(ended) == ["fitting was ended: exit code -9", "fitting was ended: the program stops"]


@pytest.mark.skipif(not AUTOGROUP.exists(), reason="this system does not share a core between sessions first")
def test_the_child_gives_way_in_a_session_of_its_own(embedder: OnnxEmbedder) -> None:
    fitter = ApartFitter()

    def fit_until_closed() -> None:
        with contextlib.suppress(RouterError):
            fitter.fit(examples(), negatives(), embedder)

    fits = threading.Thread(target=fit_until_closed)
    fits.start()
    until, said = time.monotonic() + 20, ""
    while f"nice {NICENESS}" not in said and time.monotonic() < until:
        time.sleep(0.01)
        if fitter._child is not None:
            pid = fitter._child._process.pid
            with contextlib.suppress(OSError):
                said = Path(f"/proc/{pid}/autogroup").read_text()
                sid = os.getsid(pid)
    fitter.close()
    fits.join()
    assert f"nice {NICENESS}" in said
    assert sid == pid != os.getsid(0)


def test_the_child_ends_with_its_owner(embedder: OnnxEmbedder, tmp_path: Path) -> None:
    texts = {name: [f"{text} {number}" for number in range(50) for text in rows] for name, rows in examples().items()}
    code = (
        "import sys, json; from pathlib import Path; from router import ApartFitter, OnnxEmbedder;"
        "print('ready', flush=True);"
        "ApartFitter().fit(json.loads(Path(sys.argv[2]).read_text()), [], OnnxEmbedder(Path(sys.argv[1])))"
    )
    given = tmp_path / "examples.json"
    given.write_text(json.dumps(texts), encoding="utf-8")
    words = [sys.executable, "-c", code, str(embedder.folder), str(given)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as owner:
        assert owner.stdout is not None
        owner.stdout.readline()
        child = _child_of(owner.pid)
        owner.send_signal(signal.SIGKILL)
    until = time.monotonic() + 5  # by itself it would fit for longer
    while _is_fitting(child):
        assert time.monotonic() < until, f"process {child} outlived its owner"
        time.sleep(0.05)


def _child_of(pid: int) -> int:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
        # It opens the encoder after it has read what to do: only then could it go on alone.
        if found and "onnxruntime" in Path(f"/proc/{found[0]}/maps").read_text(encoding="utf-8"):
            return int(found[0])
        time.sleep(0.05)
    raise AssertionError(f"process {pid} has started no child")


def _is_fitting(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return b"router.apart" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (ProcessLookupError, FileNotFoundError):
        return False
