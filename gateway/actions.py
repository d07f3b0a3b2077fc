"""What the scheduler is told of and what it answers: requests, leases, and the actions to perform on them."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Action", "Grant", "Lease", "Reject", "RejectReason", "Request", "Retired", "Swap"]


class Request(NamedTuple):
    """One request for a lease (rule 1). ``width`` is how many slots it needs (OpenAI's ``n``)."""

    id: int
    expert: str
    conversation: str
    client: str
    arrived_s: float
    deadline_s: float
    width: int = 1


class Lease(NamedTuple):
    """The right to run one request on ``slots`` of ``backend``; given back exactly once."""

    id: int
    request: Request
    backend: str
    slots: tuple[int, ...]
    granted_s: float


class RejectReason(enum.Enum):
    QUEUE_FULL = "queue_full"
    CLIENT_QUEUE_FULL = "client_queue_full"
    DEADLINE = "deadline"
    SHUTDOWN = "shutdown"
    TOO_WIDE = "too_wide"
    WITHDRAWN = "withdrawn"


class Grant(NamedTuple):
    lease: Lease


@dataclass(frozen=True, slots=True)
class Swap:
    """Make ``expert`` the active one on ``backend``, then report ``swap_done``. The backend holds no lease."""

    backend: str
    expert: str


@dataclass(frozen=True, slots=True)
class Reject:
    request: Request
    reason: RejectReason


@dataclass(frozen=True, slots=True)
class Retired:
    """A retiring backend has drained and is forgotten."""

    backend: str


Action = Grant | Swap | Reject | Retired
