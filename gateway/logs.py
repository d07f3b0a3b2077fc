"""Structured logs on standard error: one line a record, as text or JSON, the record's extra fields included."""

from __future__ import annotations

import functools
import json
import logging
import sys
import time
from datetime import UTC, datetime
from typing import Any

__all__ = ["FACTS", "FactsRecord", "set_up_logging"]

_BLANK = vars(logging.makeLogRecord({"levelno": logging.INFO, "levelname": "INFO"}))
_STANDARD = frozenset(_BLANK) | {"message", "asctime", "color_message", "taskName"}
FACTS = "facts"
"""Of ``extra``: a record's fields as one dictionary, which costs less than one by one."""


class FactsRecord(logging.LogRecord):
    """A record of facts, of level INFO, for ``Logger.handle``: made for every request, so it looks nothing up that no
    line of ours tells (where it was made, by which thread and process)."""

    def __init__(self, logger: str, message: str, facts: dict[str, Any]) -> None:
        now = time.time()
        self.__dict__ = {
            **_BLANK,
            "name": logger,
            "msg": message,
            FACTS: facts,
            "created": now,
            "msecs": now % 1 * 1000,
        }


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    facts: dict[str, Any] | None = record.__dict__.get(FACTS)
    return facts if facts is not None else {k: v for k, v in vars(record).items() if k not in _STANDARD}


def _time(record: logging.LogRecord) -> str:
    second, milliseconds = divmod(int(record.created * 1000), 1000)
    return f"{_second(second)}.{milliseconds:03}Z"


@functools.lru_cache(maxsize=2)
def _second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).isoformat().removesuffix("+00:00")


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join([f"{key}={value}" for key, value in _fields(record).items() if value is not None])
        line = f"{_time(record)} {record.levelname.lower():7} {record.getMessage()}  {fields}".rstrip()
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def set_up_logging(level: str, format_: str) -> None:
    """Send this program's and uvicorn's records to standard error; called once, by the command line."""
    # Told by no line of ours, and looked up for every record.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # type: ignore[attr-defined, unused-ignore]  # as the logging HOWTO's "Optimization" has it
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if format_ == "json" else _Text())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("pointsman").setLevel(level.upper())
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
