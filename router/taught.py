"""Texts of our own that every router is fitted on, beside its examples: what people say when they go on, or do not."""

from __future__ import annotations

import hashlib
from pathlib import Path


def _read(name: str) -> tuple[str, ...]:
    return tuple((Path(__file__).parent / name).read_text(encoding="utf-8").splitlines())


PHRASES = _read("phrases.txt")
"""Follow-ups without any subject: alone they belong to no route, and are learnt so."""

FOLLOW_UPS = _read("follow_ups.txt")
"""With things of their own in them, yet said about something before. Alone they might belong to a route."""

REQUESTS = _read("requests.txt")
"""Turns that continue none: what people also ask of an assistant."""

OPENINGS = _read("openings.txt")
"""What people put before a turn that says all by itself: it is no sign of a follow-up."""

DIGEST = hashlib.sha256(repr((PHRASES, FOLLOW_UPS, REQUESTS, OPENINGS)).encode()).hexdigest()
"""Changes whenever one of these texts does."""
