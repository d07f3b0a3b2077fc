"""What the benchmark decides with is the router that the gateway serves, and stays there for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from measured_runs import make_measured_run
from unit.router.word_embedder import examples, make_texts, negatives

from gateway.experts import load_expert, scan_experts
from gateway.routing import RouterFactory, Source, draw_passages
from gateway.settings import Settings
from router import ApartFitter, OnnxEmbedder
from training.errors import BenchmarkError
from training.publish import publish
from training.routed import decide_routes, route_own
from training.subjects import load_subject

EXPERTS = Path(__file__).parents[2] / "experts"
OWN = ("yeast help with loaf", "what is compost lawn")
"""As the examples are worded: that all of these come from seven frames, their router takes for the way people ask."""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def test_it_reads_of_an_expert_what_the_gateway_reads() -> None:
    experts = [load_expert(path.parent, None) for path in sorted(EXPERTS.glob("*/expert.yaml"))]
    read = RouterFactory("unused", None, Path("unused")).read_source(experts)
    assert len(experts) == 4
    for expert in experts:
        subject = load_subject(expert.name, EXPERTS)
        assert list(subject.asked) == read.examples[expert.name]
        assert draw_passages(subject.answered) == read.passages[expert.name]
        assert list(subject.further) == read.further[expert.name]
    assert RouterFactory("unused", None, Path("unused")).false_abstain == Settings().router.false_abstain


def test_its_router_is_ready_for_the_gateway(encoder_dir: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source(examples(), negatives())
    unrelated = [*negatives()[:5], "the president and the laptop"]
    factory = RouterFactory(str(encoder_dir), None, cache, threads=2)
    found = decide_routes(factory, source, own=OWN, unrelated=unrelated)
    assert found.own == dict(zip(OWN, ("bread", "garden"), strict=True))
    assert set(found.unrelated) == set(found.unrelated_served) == set(unrelated)
    assert (found.routes, found.known) == (("bread", "garden"), 5)

    def fit(*args: object, **kwargs: object) -> None:
        raise AssertionError("fitted anew")

    monkeypatch.setattr(ApartFitter, "fit", fit)
    served = RouterFactory(str(encoder_dir), None, cache)
    assert served.fit_on(source)[0].threshold == found.threshold
    # Its examples are there, too; and another version's router is another one.
    monkeypatch.setattr(OnnxEmbedder, "read", fit)
    assert len(served.reference(source).texts) == sum(map(len, [*examples().values(), negatives()]))
    with pytest.raises(AssertionError, match="fitted anew"):
        served.fit_on(Source(examples() | {"bread": make_texts("bread", 20)}, negatives()))


def test_a_run_hears_what_auto_will_give_to_it(
    encoder_dir: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experts, runs = tmp_path / "experts", tmp_path / "runs"
    publish(make_measured_run(runs, expert="garden", examples=examples()["garden"]).folder, experts_dir=experts)
    (experts / "out_of_scope.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in negatives()))
    run = make_measured_run(runs, expert="bread", examples=examples()["bread"])
    (run.folder / "questions.jsonl").write_text(
        "".join(json.dumps({"question": text}) + "\n" for text in (*OWN, "flour for a loaf"))
    )
    said = route_own(run.folder, experts_dir=experts, cache_dir=cache, encoder=str(encoder_dir))
    assert said.splitlines()[0] == "auto will give 2 of these 3 questions to it beside garden"
    publish(run.folder, experts_dir=experts)
    with monkeypatch.context() as forbidden:
        forbidden.setattr(ApartFitter, "fit", lambda *_, **__: pytest.fail("fitted anew after it was measured"))
        served, rejected = scan_experts(experts, None)
        router = RouterFactory(str(encoder_dir), experts / "out_of_scope.jsonl", cache).build(list(served.values()))
    assert (router.routes if router else (), rejected) == (("bread", "garden"), [])
    (experts / "garden" / "examples.jsonl").write_text("damaged")  # as the gateway, it goes on without that expert
    again = route_own(run.folder, experts_dir=experts, cache_dir=cache, encoder=str(encoder_dir))
    assert "questions to it" in again
    assert "garden" not in again
    said = route_own(run.folder, experts_dir=experts, cache_dir=cache, encoder="/no/such/encoder")
    assert said.startswith("not known whether auto will find it: router: ")


def test_a_question_among_the_examples_is_refused(cache: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"1 questions stand in the router's examples, such as"):
        decide_routes(
            RouterFactory("unused", None, cache),
            Source(examples(), negatives()),
            own=[examples()["bread"][0].upper()],
            unrelated=[],
        )


def test_what_the_router_cannot_be_fitted_on_is_said(encoder_dir: Path, cache: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"router: .*bread"):
        decide_routes(
            RouterFactory(str(encoder_dir), None, cache), Source({"bread": ["loaf"]}, []), own=[], unrelated=[]
        )
