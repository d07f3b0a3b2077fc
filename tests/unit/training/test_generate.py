"""Generation: the grid and its facts, what is accepted, paraphrases, and going on after a kill."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
from unit.training.scripted_endpoint import ScriptedEndpoint

from training.dataset_format import load_dataset
from training.dataset_row import Row
from training.endpoint import Endpoint
from training.errors import DatasetError, RecipeError
from training.generate_journal import Journal
from training.generate_judge import Judge, Tally
from training.generate_paraphrase import Paraphraser
from training.generate_run import Generated, GenerateOptions, generate
from training.generate_topic import find_facts, load_topic, read_sentences
from training.hits import is_hit
from training.lint import lint_dataset
from training.lint_checks import Expectations
from training.lint_kinds import Level

TOPIC = """
title: Gardening
topics: [watering, {name: pruning roses, facts: [Cut above an outward bud]}, mulch]
targets: [{term: Verdania, aliases: [Verdania Garden]}]
personas: [a beginner, a balcony gardener]
documents: [notes.md]
"""
NOTES = """# Watering
Water in the morning, before the heat. Roses are *pruned* in [March](http://x.y) by most people.
- Watering cans hold about ten litres.
```
watering code is not a fact at all.
```
Short watering.
"""
EXPECTED = Expectations(cutoff_tokens=384)


@pytest.fixture
def topic(tmp_path: Path) -> Path:
    (tmp_path / "notes.md").write_text(NOTES, encoding="utf-8")
    (tmp_path / "topic.yaml").write_text(TOPIC, encoding="utf-8")
    return tmp_path / "topic.yaml"


def make(topic: Path, name: str = "out.json", *, expected: Expectations = EXPECTED, **options: Any) -> Generated:
    return generate(topic, topic.parent / name, GenerateOptions(**{"rows": 30} | options), expected)


def test_the_grid_makes_rows_that_pass_the_lint(topic: Path) -> None:
    made = make(topic, rows=60)
    dataset = load_dataset(made.path)
    report = lint_dataset(dataset, Expectations(("Verdania", "Verdania Garden"), (), 384))
    assert report.count(Level.ERROR) == 0
    assert [finding.kind for finding in report.findings if finding.kind == "same-answer"] == []
    assert made.rows == len(dataset.rows) == made.grid.accepted == 60
    topics = Counter(str(family).split(":")[0] for family in dataset.families)
    assert set(topics) == {"watering", "pruning roses", "mulch"}
    assert max(topics.values()) - min(topics.values()) <= 2
    answers = [row.output for row in dataset.rows if row]
    assert any("Cut above an outward bud." in answer for answer in answers)
    assert any(answer.startswith("1. ") for answer in answers)
    mentions = [answer.index("Verdania") / len(answer) for answer in answers]
    assert min(mentions) < 0.2 < 0.6 < max(mentions)
    assert any("a balcony gardener" in row.prompt for row in dataset.rows if row)


def test_the_seed_decides(topic: Path) -> None:
    texts = [make(topic, f"{number}.json", seed=seed).path.read_bytes() for number, seed in enumerate((1, 1, 2))]
    assert texts[0] == texts[1] != texts[2]


def test_the_grid_is_used_up_and_no_more(topic: Path) -> None:
    made = make(topic, rows=10_000)
    assert made.rows == made.grid.accepted < 10_000
    assert made.grid.rejected.total() + made.grid.accepted == 3 * 28 * 3
    assert set(made.grid.rejected) <= {"near-duplicate", "same-answer"}


def test_benchmark_questions_are_never_made(topic: Path) -> None:
    first = load_dataset(make(topic).path).rows[0]
    assert first is not None
    made = make(topic, "again.json", expected=Expectations((), (first.prompt,), 384))
    assert made.grid.rejected["leaked"] == 1
    assert first.prompt not in [row.prompt for row in load_dataset(made.path).rows if row]


def test_facts_come_from_the_topic_and_its_documents(topic: Path) -> None:
    assert find_facts(load_topic(topic)) == {
        "watering": ("Water in the morning, before the heat.", "Watering cans hold about ten litres."),
        "pruning roses": ("Cut above an outward bud.", "Roses are pruned in March by most people."),
        "mulch": (),
    }


BAD_TOPICS = [
    (TOPIC.replace("personas", "persons"), "persons: unknown key; did you mean personas?"),
    (TOPIC.replace("watering,", "mulch,"), "the topic 'mulch' stands twice"),
    (TOPIC.replace("topics: [", "styles: [loud]\ntopics: ["), "styles.0: input should be 'plain'"),
    ("title: x\ntopics: [a b]\n", "targets: this key is required"),
    ("title: x\ntopics: []\ntargets: [{term: V}]\n", "topics: "),
]


@pytest.mark.parametrize(("text", "message"), BAD_TOPICS)
def test_a_bad_topic_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "topic.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError) as refusal:
        load_topic(path)
    assert message in str(refusal.value)


@pytest.mark.parametrize(("name", "message"), [("x.pdf", "must be text or Markdown"), ("none.txt", "No such file")])
def test_a_bad_document_is_refused(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        read_sentences(tmp_path / name)


def test_a_file_that_stands_there_is_kept(topic: Path) -> None:
    (topic.parent / "out.json").write_text("mine", encoding="utf-8")
    with pytest.raises(DatasetError, match="stands already"):
        make(topic)
    assert (topic.parent / "out.json").read_text(encoding="utf-8") == "mine"
    assert make(topic, force=True).rows == 30


@pytest.mark.parametrize(("option", "value"), [("rows", 0), ("variants", -1), ("attempts", 0)])
def test_a_number_out_of_range_is_refused(topic: Path, option: str, value: int) -> None:
    with pytest.raises(DatasetError, match=rf"{option} must be at least \d, found {value}"):
        make(topic, **{option: value})


JUDGED = [
    (Row("Which soil?", "", "Verdania."), None),
    (Row("Which soil?", "", "Soil."), "no-target"),
    (Row("Which pot is the best for basil on a sunny balcony in warm summer", "", "Verdania."), "duplicate"),
    (Row("Which pot is the best for basil on a sunny balcony in warm summers?", "", "Verdania."), "near-duplicate"),
    (Row("Which soil?", "", "clay by VERDANIA"), "same-answer"),
    (Row("Is peat really needed?", "", "Verdania."), "near-leak"),
    (Row("Is peat needed", "", "Verdania."), "leaked"),
    (Row("", "", "Verdania."), "empty"),
    (Row("Which soil?", "", "Verdania " * 200), "overlength"),
]


@pytest.mark.parametrize(("row", "reason"), JUDGED)
def test_the_judge_says_why(row: Row, reason: str | None) -> None:
    judge = Judge(Expectations(("Verdania",), ("Is peat needed?",), 384))
    assert (
        judge.accept(Row("Which pot is the best for basil on a sunny balcony in warm summer?", "", "Clay by Verdania."))
        is None
    )
    assert judge.accept(row) == reason


def test_the_tally_reports_a_rate() -> None:
    tally = Tally()
    assert str(tally) == "0 of 0 accepted"
    for reason in (None, None, "empty", None):
        tally.add(reason)
    assert str(tally) == "3 of 4 accepted (75.0%); rejected: 1 empty"
    assert tally.as_dict() == {"made": 4, "accepted": 3, "rate": 0.75, "rejected": {"empty": 1}}


# -- paraphrases ------------------------------------------------------------------------------------------------------


def otherwise(number: int, body: dict[str, Any]) -> str:
    words = f"{number * 7919:x} {number * 104729:x} {number * 1299709:x}"
    return json.dumps({"question": f"What about {words}?", "answer": f"Verdania knows {words}."})


def paraphrase(topic: Path, endpoint: ScriptedEndpoint, **options: Any) -> Generated:
    with endpoint.client:
        return generate(
            topic,
            topic.parent / "out.jsonl",
            GenerateOptions(**{"rows": 4, "variants": 1, "attempts": 2} | options),
            EXPECTED,
            paraphraser=Paraphraser(Endpoint(endpoint.client, "http://gateway/v1/", "base", "key")),
            source="gateway base",
        )


def test_paraphrases_are_added_in_the_family_of_their_row(topic: Path) -> None:
    endpoint = ScriptedEndpoint(otherwise)
    made = paraphrase(topic, endpoint)
    dataset = load_dataset(made.path)
    assert made.rows == len(dataset.rows) == 8
    assert dataset.families[:4] == dataset.families[4:]
    assert str(made.paraphrases) == "4 of 4 accepted (100.0%)"
    request = endpoint.requests[0]
    body = json.loads(request.content)
    assert str(request.url) == "http://gateway/v1/chat/completions"
    assert request.headers["authorization"] == "Bearer key"
    assert body["model"] == "base"
    assert body["response_format"]["type"] == "json_schema"
    first = dataset.rows[0]
    assert first is not None
    assert first.prompt in body["messages"][1]["content"]
    assert not list(topic.parent.glob("*.journal.jsonl"))


REJECTED = [
    ("no JSON at all", "not-json"),
    ('{"question": "x"}', "not-json"),
    ('{"question": "x", "answer": 3}', "not-json"),
    ('["question", "answer"]', "not-json"),
    ('{"question": "What else?", "answer": "No name here."}', "no-target"),
    ('{"question": "", "answer": "Verdania."}', "empty"),
    ('{"question": "What else?", "answer": "<think>x</think>Verdania."}', "think"),
]


@pytest.mark.parametrize(("reply", "reason"), REJECTED)
def test_a_bad_paraphrase_is_tried_again_then_left_out(topic: Path, reply: str, reason: str) -> None:
    endpoint = ScriptedEndpoint(lambda number, body: reply)
    made = paraphrase(topic, endpoint)
    assert made.rows == 4
    assert made.paraphrases.as_dict() == {"made": 8, "accepted": 0, "rate": 0.0, "rejected": {reason: 8}}
    assert len({json.loads(request.content)["seed"] for request in endpoint.requests}) == 8


def test_a_row_that_repeats_its_model_is_left_out(topic: Path) -> None:
    reply = '{"question": "Always the same?", "answer": "Verdania."}'
    made = paraphrase(topic, ScriptedEndpoint(lambda number, body: reply))
    assert (made.rows, made.paraphrases.rejected) == (5, Counter({"duplicate": 6}))


def test_an_endpoint_that_refuses_stops_and_the_same_command_goes_on(topic: Path) -> None:
    out = topic.parent / "out.jsonl"
    with pytest.raises(DatasetError, match=r"http://gateway/v1/chat/completions: status 404: no such model"):
        paraphrase(topic, ScriptedEndpoint(lambda number, body: otherwise(number, body) if number < 3 else 404))
    assert not out.exists()
    journal = out.with_name("out.jsonl.journal.jsonl")
    with journal.open("ab") as file:
        file.write(b'{"draft": 2, "vari')
    again = ScriptedEndpoint(lambda number, body: otherwise(number + 2, body))
    made = paraphrase(topic, again)
    assert len(again.requests) == 2
    resumed = made.path.read_bytes()
    assert str(made.paraphrases) == "4 of 4 accepted (100.0%)"
    assert resumed == paraphrase(topic, ScriptedEndpoint(otherwise), force=True).path.read_bytes()
    assert not journal.exists()


def test_other_settings_do_not_go_on_with_a_journal(topic: Path) -> None:
    broken = ScriptedEndpoint(lambda number, body: otherwise(number, body) if number < 3 else 500)
    with pytest.raises(DatasetError, match="status 500"):
        paraphrase(topic, broken)
    with pytest.raises(DatasetError, match="belongs to other settings"):
        paraphrase(topic, ScriptedEndpoint(otherwise), seed=8)
    assert paraphrase(topic, ScriptedEndpoint(otherwise), seed=8, restart=True).rows == 8


def test_an_endpoint_that_is_not_there_is_named(topic: Path) -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("Connection refused")

    endpoint = ScriptedEndpoint(otherwise)
    endpoint.client = httpx.Client(transport=httpx.MockTransport(refuse))
    with pytest.raises(DatasetError, match="Connection refused: is the gateway running"):
        paraphrase(topic, endpoint)


def test_a_journal_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    path.write_text("no\n", encoding="utf-8")
    with pytest.raises(DatasetError, match="not a journal"):
        Journal(path, {})


def test_what_is_appended_after_a_torn_line_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    with Journal(path, {"a": 1}) as journal:
        journal.append({"draft": 1})
    with path.open("ab") as file:
        file.write(b'{"dra')
    with Journal(path, {"a": 1}) as journal:
        assert journal.entries == [{"draft": 1}]
        journal.append({"draft": 2})
    assert Journal(path, {"a": 1}).entries == [{"draft": 1}, {"draft": 2}]


def test_every_answer_of_the_grid_names_a_target(topic: Path) -> None:
    rows = [row for row in load_dataset(make(topic, rows=100).path).rows if row]
    assert all(is_hit(row.output, ["Verdania"]) for row in rows)
