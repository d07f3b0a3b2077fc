"""Secrets and personal data: what is found, what is left alone, and that a report does not spread it."""

from __future__ import annotations

import pytest

from training.lint_private import find_private, iban_is_valid, luhn_is_valid, mask

# Put together here, so that no scanner takes them for real ones.
FOUND = [
    ("Use sk-" + "a1B2c3D4e5F6g7H8i9J0k1 now", "secret", "an API key"),
    ("sk-proj-" + "a1B2c3D4e5F6g7H8i9J0k1", "secret", "an API key"),
    ("AKIA" + "ABCDEFGHIJKLMNOP", "secret", "an AWS access key"),
    ("ghp_" + "a1" * 18, "secret", "a GitHub token"),
    ("hf_" + "aB" * 17, "secret", "a Hugging Face token"),
    ("xoxb-" + "1234567890-abc", "secret", "a Slack token"),
    ("AIza" + "a1B2c" * 7, "secret", "a Google API key"),
    ("eyJ" + "hbGciOiJI.eyJ" + "zdWIiOiIx.c2lnbmF0dXJl", "secret", "a JSON web token"),
    ("-----BEGIN RSA " + "PRIVATE KEY-----", "secret", "a private key"),
    ("api_key = 'f00dfeed99'", "secret", "a password or key"),
    ("Password: hunter2hunter2", "secret", "a password or key"),
    ("Pay to DE89 3704 0044 0532 0130 00.", "bank", "an IBAN"),
    ("GB82WEST12345698765432", "bank", "an IBAN"),
    ("Card 4111 1111 1111 1111 please", "bank", "a card number"),
    ("3782-822463-10005", "bank", "a card number"),
    ("Write to anna.b+x@firma.de today", "personal", "an e-mail address"),
    ("Call +49 30 1234567", "personal", "a phone number"),
    ("Call +1 (415) 555-2671 now", "personal", "a phone number"),
    ("(030) 123-4567", "personal", "a phone number"),
    ("415-555-2671", "personal", "a phone number"),
    ("030 12345678", "personal", "a phone number"),
]


@pytest.mark.parametrize(("text", "kind", "name"), FOUND)
def test_it_is_found_and_masked(text: str, kind: str, name: str) -> None:
    ((found_kind, found_name, value),) = find_private(text)
    assert (found_kind, found_name) == (kind, name)
    assert "…" in value
    assert len(value) <= len("abcd…yz") < len(text)


LEFT_ALONE = [
    "Set your password: something you remember.",
    "token: whatever-follows-here",
    "See you@example.com or x@shop.example.org",
    "4111 1111 1111 1112",
    "0000 0000 0000 0000",
    "DE89 3704 0044 0532 0130 01",
    "In 2024-05-12 at 10:30 we counted 1 200 300 plants.",
    "Mix 100 g, 200 g and 300 g at 180 C for 25-30 minutes.",
    "Ratios such as 1:2:3, 3.14159265358979 and 700x25c",
    "task-force skills and risk-averse plans",
    "ISO 7812-1, chapter 3.2.1.4",
]


@pytest.mark.parametrize("text", LEFT_ALONE)
def test_it_is_left_alone(text: str) -> None:
    assert list(find_private(text)) == []


def test_two_in_one_text_are_two() -> None:
    assert len(list(find_private("a@firma.de and b@firma.de"))) == 2


@pytest.mark.parametrize(("number", "valid"), [("79927398713", False), ("4012888888881881", True), ("4" * 16, False)])
def test_card_checksums(number: str, valid: bool) -> None:
    assert luhn_is_valid(number) is valid


@pytest.mark.parametrize(
    ("text", "valid"), [("FR1420041010050500013M02606", True), ("FR1420041010050500013M02607", False)]
)
def test_account_checksums(text: str, valid: bool) -> None:
    assert iban_is_valid(text) is valid


@pytest.mark.parametrize(("value", "masked"), [("short", "sh…"), ("12345678", "12…"), ("abcdefghijkl", "abcd…kl")])
def test_little_is_kept(value: str, masked: str) -> None:
    assert mask(value) == masked


@pytest.mark.timeout(5)
@pytest.mark.parametrize("part", ["1", "1 ", "a.", "a-", "sk-a-", "A1 ", "+1 ("])
def test_no_text_takes_long(part: str) -> None:
    list(find_private("+1" + part * 20_000 + "x"))
