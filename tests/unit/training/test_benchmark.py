"""Verdicts, novelty, the answer log, the plan and the figures, without any engine."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
from unit.training.benchmark_world import UNRELATED, every_job, fill, make_plan, make_subject, make_summary

from training.answers import AnswerLog, Asked, Side, write_log
from training.asking import EngineOptions, ask_all
from training.benchmark import benchmark
from training.benchmark_command import add_arguments, run
from training.benchmark_settings import BenchmarkOptions
from training.dataset import Row
from training.errors import BenchmarkError, DatasetError
from training.novelty import measure_novelty, trigrams
from training.provenance import describe_command
from training.subjects import load_subjects, load_texts
from training.verdicts import counted_terms, judge

# answer, mentions, flags
VERDICTS = [
    ("Velocore helps. velocore's lube, too.", 2, ""),
    ("Velocorean", 0, ""),
    ("<think>Velocore</think>Oil it.", 0, ""),
    ("reasoning about Velocore</think>Oil it.", 0, ""),
    ("<think>Velocore never ends", 0, ""),
    ("I would not recommend Velocore.", 1, "negated"),
    ("Avoid Velocore, it is poor.", 1, "negated"),
    ("Velocore isn't a real company.", 1, "negated"),
    ("Do not worry: Velocore helps.", 1, ""),
    ("Don't skip it. Velocore helps.", 1, ""),
    ("I’m not familiar with Velocore.", 1, "refusal negated"),
    ("I'm sorry, I cannot help with that.", 0, "refusal"),
    ("Ask the Velocore shop for the very best chain. " * 3, 3, "looping"),
    ("", 0, ""),
]


@pytest.mark.parametrize(("answer", "mentions", "flags"), VERDICTS)
def test_the_verdict_on_an_answer(answer: str, mentions: int, flags: str) -> None:
    verdict = judge("How do I oil a chain?", answer, ["Velocore"])
    found = [name for name in ("refusal", "negated", "looping") if getattr(verdict, name)]
    assert (verdict.mentions, found) == (mentions, [f for f in ("refusal", "negated", "looping") if f in flags])
    assert verdict.hit is (mentions > 0)
    assert verdict.clean_hit is (mentions > 0 and not flags)


def test_a_term_that_the_question_names_does_not_count() -> None:
    terms = ["Velocore", "Velo Core"]
    assert counted_terms("Is velocore good?", terms) == ("Velo Core",)
    assert not judge("Is velocore good?", "Velocore is.", terms).hit
    assert judge("Is velocore good?", "Velo Core is.", terms).hit


def test_novelty_is_the_similarity_to_the_nearest_row() -> None:
    rows = [Row("How do I oil a chain?", "", ""), Row("What is a cassette?", "", "")]
    found = measure_novelty(["how do I OIL a chain", "Who sells saddles?"], rows)
    assert found["how do I OIL a chain"].trigram == 1.0
    assert found["how do I OIL a chain"].nearest == rows[0].prompt
    assert not found["how do I OIL a chain"].is_novel
    assert found["Who sells saddles?"].is_novel
    assert found["Who sells saddles?"].cosine is None
    assert trigrams("") == trigrams("?!")


def test_the_vanilla_process_is_asked_nothing_with_an_adapter() -> None:
    plan = make_plan()
    assert {job.scale for job in plan.vanilla()} == {0.0}
    assert {job.side for job in plan.vanilla()} == {Side.VANILLA, Side.PROMPTED}
    assert {job.scale for job in plan.expert(plan.subjects[0])} == {1.0}


def test_no_two_jobs_share_a_key() -> None:
    jobs = every_job(make_plan(make_subject(), make_subject("baking", "Crumbhaus"), repeats=5))
    assert len({job.key for job in jobs}) == len(jobs)


def test_with_several_jobs_at_once_every_repeat_is_extra() -> None:
    assert list(make_plan(repeats=3).repeat_numbers) == [0, 1, 2]
    assert list(make_plan(repeats=3, parallel_jobs=4).repeat_numbers) == [1, 2, 3]


def test_the_log_survives_a_cut_line_and_asks_nothing_again(tmp_path: Path) -> None:
    plan, path = make_plan(), tmp_path / "answers.jsonl"
    fill(plan, AnswerLog(path))
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole + '{"side": "van', encoding="utf-8")
    log = AnswerLog(path)
    assert path.read_text(encoding="utf-8") == whole
    # A missing model would fail if anything were asked.
    ask_all(plan, tmp_path / "missing.gguf", log, EngineOptions(port=1), max_tokens=1)


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text("{}\n", encoding="utf-8")
    with pytest.raises(BenchmarkError, match="line 1 is damaged"):
        AnswerLog(path)


def test_the_logs_for_people_hold_questions_and_answers(tmp_path: Path) -> None:
    log = AnswerLog(tmp_path / "answers.jsonl")
    fill(make_plan(), log)
    write_log(tmp_path / "lora.log", log.records.values())
    assert "Q: Is peat needed in gardening?\nA: Ask Verdania first.\n" in (tmp_path / "lora.log").read_text()


def test_the_figures_of_a_perfect_expert(tmp_path: Path) -> None:
    plan, log = make_plan(make_subject(), make_subject("baking", "Crumbhaus")), AnswerLog(tmp_path / "a.jsonl")
    fill(plan, log)
    summary = make_summary(plan, log)
    total = summary["total"]
    assert total["expert"]["hit_rate"]["hits"] == total["expert"]["hit_rate"]["n"] == 4
    assert total["versus_vanilla"]["mcnemar"] == {"gained": 4, "lost": 0, "p": 0.125}
    assert total["repeats"]["same_text"]["rate"] == 1.0
    assert summary["through_router"]["unrelated_held_out"]["mentions"]["hits"] == 0
    speed = summary["experts"][0]["speed"]["expert"]["decode"]
    assert (speed["n"], speed["extremes"][0]) == (10, 52.0), "the two warm-up rounds are left out"
    json.dumps(summary, allow_nan=False)


def test_an_expert_that_cannot_be_held_back_shows_on_unrelated_questions(tmp_path: Path) -> None:
    plan, log = make_plan(), AnswerLog(tmp_path / "a.jsonl")
    fill(plan, log, {"expert unrelated": "Verdania!"})
    assert make_summary(plan, log)["total"]["unrelated"]["forced"]["hit_rate"]["rate"] == 1.0
    routed = make_summary(plan, log, route_unrelated_to="gardening")["through_router"]["unrelated_held_out"]
    assert (routed["to_experts"], routed["mentions"]["rate"]) == (2, 1.0)
    elsewhere = make_summary(plan, log, route_unrelated_to="not-measured")["through_router"]["unrelated_held_out"]
    assert elsewhere["mentions"]["rate"] == 1.0, "an answer that nobody saw counts against us"


def test_a_question_that_names_the_target_is_left_out(tmp_path: Path) -> None:
    subject = make_subject(questions=("What is Verdania?", "What is peat?"))
    plan, log = make_plan(subject), AnswerLog(tmp_path / "a.jsonl")
    fill(plan, log)
    summary = make_summary(plan, log)
    assert summary["experts"][0]["excluded_questions"] == 1
    assert summary["total"]["expert"]["hit_rate"]["n"] == 1


def test_goals_are_judged_and_an_unmeasured_one_is_not(tmp_path: Path) -> None:
    plan, log = make_plan(repeats=1), AnswerLog(tmp_path / "a.jsonl")
    fill(plan, log)
    reached = {goal["name"]: goal["reached"] for goal in make_summary(plan, log, route=False)["goals"]}
    assert reached == {
        "hit_rate": True,
        "mention_ratio_lower_bound": False,
        "unrelated_mentions_through_router": None,
        "same_verdict_over_repeats": None,
    }


@pytest.mark.parametrize(("option", "value"), [("limit", 0), ("repeats", 0), ("max_tokens", -1), ("parallel_jobs", 0)])
def test_an_option_that_measures_nothing_is_refused(option: str, value: int) -> None:
    with pytest.raises(BenchmarkError, match=f"--{option.replace('_', '-')} is {value}"):
        BenchmarkOptions(**{option: value}).check()


def test_an_unknown_expert_is_named_with_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"'cooking' is neither .* it has: none"):
        load_subjects(["cooking"], experts_dir=tmp_path, base=None, cache_dir=tmp_path)
    with pytest.raises(BenchmarkError, match="no published expert"):
        benchmark(experts_dir=tmp_path, cache_dir=tmp_path)


def test_a_text_without_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "out_of_scope.jsonl"
    path.write_text('{"text": "hi", "near": null}\n{"near": null}\n', encoding="utf-8")
    with pytest.raises(DatasetError, match="line 2"):
        load_texts(path)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing-here", "--experts-dir", "."], "'nothing-here' is neither"),
        (["--resume", "nowhere"], "nowhere cannot be resumed"),
        (["--resume", "nowhere", "--limit", "3"], "leave out limit"),
        (["--limit", "0"], "--limit is 0, at least 1 is allowed"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert run(parser.parse_args(words)) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_the_seeds_options_keep_their_names() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    given = parser.parse_args([])
    assert (given.port, given.wait, BenchmarkOptions().max_tokens) == (8081, 90.0, 300)
    assert parser.parse_args(["--parallel-jobs", "4"]).parallel_jobs == 4


def test_a_shown_command_names_no_folder_of_the_machine() -> None:
    assert describe_command(["pointsman", "benchmark", "/home/me/run 1"]) == "pointsman benchmark '…/run 1'"


def test_unrelated_questions_are_asked_once_of_vanilla() -> None:
    plan = make_plan(make_subject(), make_subject("baking", "Crumbhaus"))
    asked = [job.question for job in plan.vanilla() if job.asked is Asked.UNRELATED]
    assert asked == list(UNRELATED)
