"""Secrets and personal data in a text: patterns, and checksums where the thing has one.

Owns the patterns. What is found is returned masked, so that a report never spreads what it warns of.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

__all__ = ["find_private", "iban_is_valid", "luhn_is_valid", "mask"]


def luhn_is_valid(digits: str) -> bool:
    """Tell whether a card number's last digit fits. Source: ISO/IEC 7812-1, annex B."""
    numbers = [int(digit) for digit in digits if digit.isdecimal()]
    doubled = [number * 2 - 9 * (number > 4) for number in numbers[-2::-2]]
    return 13 <= len(numbers) <= 19 and len(set(numbers)) > 1 and (sum(numbers[::-2]) + sum(doubled)) % 10 == 0


def iban_is_valid(text: str) -> bool:
    """Tell whether an account number's check digits fit. Source: ISO 13616, ISO/IEC 7064 MOD 97-10."""
    compact = re.sub(r"\s", "", text).upper()
    moved = compact[4:] + compact[:4]
    return 15 <= len(compact) <= 34 and int("".join(str(int(sign, 36)) for sign in moved)) % 97 == 1


def _is_phone(text: str) -> bool:
    return 9 <= sum(sign.isdecimal() for sign in text) <= 15


def _is_real_address(text: str) -> bool:
    """Reserved domains are for examples. Source: RFC 2606."""
    return not re.search(r"(@|\.)(example\.(com|org|net|edu)|example|test|invalid|localhost)$", text, re.IGNORECASE)


def _is_varied(text: str) -> bool:
    """A key's value has letters and digits; `password: something` in a lesson has not."""
    value = re.split(r"[=:]\s*", text, maxsplit=1)[-1]
    return bool(re.search(r"\d", value) and re.search(r"[A-Za-z]", value))


@dataclass(frozen=True)
class _Pattern:
    kind: str
    name: str
    regex: re.Pattern[str]
    check: Callable[[str], bool] = lambda text: True


_PATTERNS = (
    _Pattern("secret", "a private key", re.compile(r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----")),
    _Pattern("secret", "an AWS access key", re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b")),
    _Pattern("secret", "a GitHub token", re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_\w{40,})")),
    _Pattern("secret", "a Hugging Face token", re.compile(r"\bhf_[A-Za-z0-9]{30,}\b")),
    _Pattern("secret", "an API key", re.compile(r"\bsk-(?:[A-Za-z0-9]{1,12}-){0,3}[A-Za-z0-9_]{20,}")),
    _Pattern("secret", "a Google API key", re.compile(r"\bAIza[A-Za-z0-9_-]{35}")),
    _Pattern("secret", "a Slack token", re.compile(r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}")),
    _Pattern("secret", "a Stripe key", re.compile(r"\b[rs]k_live_[A-Za-z0-9]{16,}")),
    _Pattern("secret", "a JSON web token", re.compile(r"\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,}")),
    _Pattern(
        "secret",
        "a password or key",
        re.compile(r"\b(?:api[_-]?key|secret|token|passw(?:or)?d)\s*[=:]\s*['\"]?[^\s'\"]{8,}", re.IGNORECASE),
        _is_varied,
    ),
    _Pattern("bank", "an IBAN", re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}\b"), iban_is_valid),
    _Pattern("bank", "a card number", re.compile(r"(?<![\d.])\d(?:[ -]?\d){12,18}(?![\d.]\d)"), luhn_is_valid),
    _Pattern(
        "personal",
        "an e-mail address",
        re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]+(?:\.[\w-]+)+(?<![.-])"),
        _is_real_address,
    ),
    _Pattern(
        "personal",
        "a phone number",
        re.compile(
            r"(?<![\w.+-])(?<!\d )(?:(?:\+|00)[1-9]\d{0,2}[ ./-]?(?:\(\d{1,5}\)[ ./-]?)?\d(?:[ ./-]?\d){5,13}"
            r"|\(\d{2,5}\)[ ./-]?\d{2,5}[ ./-]?\d{3,5}|\d{3}[.-]\d{3}[.-]\d{4}"
            r"|0\d{2,4}[ /-]\d{3,8}(?:[ -]\d{2,5})?)(?![\w-]| ?\d)"
        ),
        _is_phone,
    ),
)


def find_private(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield each find as (kind of finding, what it is, the masked value); a place is reported once."""
    taken: list[tuple[int, int]] = []
    for pattern in _PATTERNS:
        for match in pattern.regex.finditer(text):
            start, end = match.span()
            if any(start < other_end and other_start < end for other_start, other_end in taken):
                continue
            if pattern.check(match[0]):
                taken.append((start, end))
                yield pattern.kind, pattern.name, mask(match[0])


def mask(value: str) -> str:
    """Keep as much of a secret as it takes to find it again."""
    flat = " ".join(value.split())
    return f"{flat[:4]}…{flat[-2:]}" if len(flat) > 8 else f"{flat[:2]}…"
