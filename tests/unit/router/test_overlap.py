from __future__ import annotations

import json

from unit.router.word_embedder import WordEmbedder, examples, negatives

from router import Overlap, Reference, find_overlap


def look(extra: dict[str, list[str]], unwanted: list[str] | None = None) -> Overlap:
    given = {route: [*texts, *extra.get(route, [])] for route, texts in examples().items()}
    return find_overlap(Reference.build(given, negatives() if unwanted is None else unwanted, WordEmbedder()))


def test_examples_that_are_apart_give_no_finding() -> None:
    overlap = look({})
    assert overlap.findings == ()
    assert overlap.warnings() == []
    assert (overlap.examples, overlap.negatives) == ({"garden": 56, "bread": 56}, 56)


def test_an_example_nearer_to_another_route_is_found_with_that_route() -> None:
    (found,) = look({"garden": ["yeast flour loaf"]}).findings
    assert (found.kind, found.text, found.route, found.other) == ("nearer", "yeast flour loaf", "garden", "bread")
    assert found.others > found.own
    assert found.neighbour in examples()["bread"]


def test_an_example_that_stands_under_two_routes_is_a_duplicate_of_both() -> None:
    copied = examples()["bread"][0]
    found = look({"garden": [copied]}).findings
    assert {(row.kind, row.route, row.other) for row in found} == {
        ("duplicate", "garden", "bread"),
        ("duplicate", "bread", "garden"),
    }
    assert all(row.others == 1.0 for row in found)


def test_an_example_like_the_out_of_scope_texts_is_found_if_there_are_any() -> None:
    odd = {"garden": ["python invoice passport"]}
    (found,) = look(odd).findings
    assert (found.kind, found.other) == ("out of scope", None)
    assert look(odd, unwanted=[]).negatives == 0
    assert all(row.kind != "out of scope" for row in look(odd, unwanted=[]).findings)


def test_a_single_route_without_negatives_overlaps_with_nothing() -> None:
    reference = Reference.build({"garden": ["rose", "soil"]}, [], WordEmbedder())
    assert find_overlap(reference).findings == ()


def test_warnings_are_one_line_a_route_and_name_the_worst() -> None:
    overlap = look({"garden": ["yeast flour loaf", "oven crust dough", "python invoice passport"]})
    (line,) = overlap.warnings()
    assert line.startswith("route 'garden': of 59 examples 2 are nearer to another route, 1 look out of scope")
    assert repr(overlap.findings[0].text) in line


def test_the_report_about_one_route_keeps_what_it_has_a_part_in() -> None:
    overlap = look({"garden": ["yeast flour loaf"], "bread": ["python invoice passport"]})
    assert [row.text for row in overlap.about("garden").findings] == ["yeast flour loaf"]
    assert len(overlap.about("bread").findings) == 2
    plain = json.loads(json.dumps(overlap.about("garden").to_dict()))
    assert plain["summary"] == {"garden": {"nearer": 1}}
