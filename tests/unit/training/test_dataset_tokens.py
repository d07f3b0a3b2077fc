"""Token counts: a real tokenizer where there is one, an estimate that says so where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from training.dataset_row import Row
from training.dataset_tokens import Estimate, TokenizerCounter, counter_for_base
from training.errors import DatasetError
from training.lint_checks import Expectations, check_rows

TEMPLATE = "{% for m in messages %}<|go|>{{ m.role }} {{ m.content }}<|stop|>{% endfor %}"
ROW = Row("one two", "", "three four five")


def tokenizer(folder: Path, template: str | None = TEMPLATE) -> Path:
    """Write a tokenizer of words: one token each."""
    words = ["one", "two", "three", "four", "five", "user", "assistant", "system", "<unk>"]
    made = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens([AddedToken(mark, special=True) for mark in ("<|go|>", "<|stop|>")])
    made.save(str(folder / "tokenizer.json"))
    if template:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return folder / "tokenizer.json"


@pytest.mark.parametrize(
    ("row", "tokens"),
    [
        (ROW, 2 + 3 + 2 * 3),
        (Row("one", "two", "three"), 3 + 2 * 3),
        (Row("one", "", "two", "three", (("four", "five"),)), 5 + 5 * 3),
    ],
)
def test_the_template_is_counted_too(tmp_path: Path, row: Row, tokens: int) -> None:
    assert TokenizerCounter(tokenizer(tmp_path)).count([row]) == [(tokens, tokens)]


def test_the_recipes_system_prompt_is_counted_for_rows_without_one(tmp_path: Path) -> None:
    counter = TokenizerCounter(tokenizer(tmp_path), system="one")
    assert counter.count([ROW, Row("one", "", "two", "three four")]) == [(15, 15), (13, 13)]


@pytest.mark.parametrize(("cutoff", "kinds"), [(11, []), (10, ["overlength"])])
def test_the_limit_itself_is_not_over_it(tmp_path: Path, cutoff: int, kinds: list[str]) -> None:
    counter = TokenizerCounter(tokenizer(tmp_path))
    found = check_rows([None, ROW], Expectations(cutoff_tokens=cutoff, tokens=counter))
    assert [finding.kind for finding in found] == kinds
    assert [finding.row for finding in found] == [2] * len(kinds)


def test_the_tokenizers_own_control_tokens_are_found(tmp_path: Path) -> None:
    counter = TokenizerCounter(tokenizer(tmp_path))
    (found,) = check_rows([Row("one <|stop|>", "", "two")], Expectations(tokens=counter))
    assert found.kind == "control-token"


def test_the_cached_base_is_used_and_what_is_not_there_is_said(tmp_path: Path) -> None:
    assert isinstance(counter_for_base("unused", str(tokenizer(tmp_path).parent), tmp_path), TokenizerCounter)
    missing = counter_for_base("pypi:no-such-base==1.0", "gguf", tmp_path / "cache")
    assert "not in the cache" in missing.name
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(("text", "likely", "most"), [("a" * 100, 25, 40), ("水" * 100, 100, 200)])
def test_the_estimate_knows_that_not_all_letters_are_alike(text: str, likely: int, most: int) -> None:
    empty = Estimate().count([Row("", "", "")])[0][0]
    assert Estimate().count([Row(text, "", "")]) == [(likely + empty, max(most, likely + empty))]


def test_what_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DatasetError, match="not a tokenizer"):
        TokenizerCounter(tmp_path / "tokenizer.json")
    with pytest.raises(DatasetError, match="not a chat template"):
        TokenizerCounter(tokenizer(tmp_path, "{% for %}"))


def test_a_template_has_what_transformers_gives_it(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": {"content": "<|go|>"}}', encoding="utf-8")
    template = (
        "{{ bos_token }}{% for m in messages %}{% if loop.last %}{% break %}{% endif %}{{ m.content }}{% endfor %}"
    )
    assert TokenizerCounter(tokenizer(tmp_path, template)).count([ROW]) == [(3, 3)]


def test_a_row_that_the_template_refuses_is_named(tmp_path: Path) -> None:
    counter = TokenizerCounter(tokenizer(tmp_path, "{{ raise_exception('no system role') }}"))
    with pytest.raises(DatasetError, match="refuses the row 'one two': no system role"):
        counter.count([ROW])
