"""Log lines, as text and as JSON."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from gateway.logs import FACTS, FactsRecord, set_up_logging

NAMES = ("", "pointsman", "uvicorn")


@pytest.fixture(autouse=True)
def _loggers_as_they_were() -> Iterator[None]:
    kept = [(logging.getLogger(n), logging.getLogger(n).level, list(logging.getLogger(n).handlers)) for n in NAMES]
    yield
    for logger, level, handlers in kept:
        logger.setLevel(level)
        logger.handlers = handlers


@pytest.mark.parametrize("together", [False, True])
def test_json_lines_hold_the_extra_fields(capsys: pytest.CaptureFixture[str], together: bool) -> None:
    set_up_logging("info", "json")
    facts = {"expert": "baking", "score": None}
    logging.getLogger("pointsman.x").info("hello %s", "you", extra={FACTS: facts} if together else facts)
    line = json.loads(capsys.readouterr().err)
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "info",
        "logger": "pointsman.x",
        "message": "hello you",
        "expert": "baking",
        "score": None,
    }


@pytest.mark.parametrize("format_", ["json", "text"])
def test_a_record_of_facts_is_a_line_like_any_other(format_: str, capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("info", format_)
    log, facts = logging.getLogger("pointsman.x"), {"expert": "baking", "seconds": 0.5}
    log.info("request", extra={FACTS: facts})
    usual = capsys.readouterr().err
    log.handle(FactsRecord(log.name, "request", facts))
    line = capsys.readouterr().err
    assert line[35:] == usual[35:]  # after the time
    assert "baking" in line
    logging.Formatter("%(asctime)s %(process)s %(threadName)s %(pathname)s:%(lineno)d %(relativeCreated)d").format(
        FactsRecord(log.name, "request", facts)
    )  # a handler of somebody else's finds all it may name


def test_text_lines_leave_out_what_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("info", "text")
    logging.getLogger("pointsman").warning("hello", extra={"expert": "baking", "score": None})
    line = capsys.readouterr().err
    assert line.endswith("warning hello  expert=baking\n")


@pytest.mark.parametrize("format_", ["json", "text"])
def test_an_exception_is_part_of_its_record(format_: str, capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("info", format_)
    try:
        raise ValueError("why")
    except ValueError:
        logging.getLogger("pointsman").exception("failed")
    text = capsys.readouterr().err
    assert "ValueError: why" in text
    assert format_ == "text" or "ValueError: why" in json.loads(text)["exception"]


def test_the_level_is_ours_and_other_libraries_stay_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("debug", "text")
    logging.getLogger("pointsman").debug("ours")
    logging.getLogger("other").info("theirs")
    logging.getLogger("uvicorn.access").info("access")
    assert capsys.readouterr().err.count("\n") == 1


def test_a_newline_in_a_json_field_does_not_break_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("info", "json")
    logging.getLogger("pointsman").info("x", extra={"turns": ["a\nb", "ü"]})
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    assert json.loads(text)["turns"] == ["a\nb", "ü"]
