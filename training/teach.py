"""Texts that a person has labelled become routing examples of the experts, or texts that no expert should get.

Each expert concerned gets a new version: the same adapter with more examples; the one before is kept for `rollback`.
Owns what may be taught, and the order; the changes to an expert's folder are `versions`'.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from gateway.errors import ConfigError
from gateway.experts import BASE, MANIFEST_FILE, FileHash, Manifest, file_sha256
from gateway.labelled import read_labelled
from gateway.routing import FURTHER, Source, read_examples, read_rows
from router import RouterError, check_examples
from router.examples import text_key
from training.card import CARD_FILE
from training.dataset import load_questions, normalise
from training.description import EXAMPLES_FILE, QUESTIONS_FILE, ROWS_FILE, ExpertDescription
from training.errors import DatasetError, PublishError
from training.files import write_text
from training.routed import OUT_OF_SCOPE_FILE
from training.versions import (
    INCOMING_DIR,
    PREVIOUS_DIR,
    bring_in,
    edited_files,
    next_version,
    read_manifest,
    stage_version,
    write_manifest,
)

__all__ = ["Taught", "teach"]


@dataclass(frozen=True)
class Taught:
    """What `teach` did: the new version of each expert that got examples, and how many texts there were."""

    versions: Mapping[str, str]
    added: int
    known: int
    """Of the texts, so many were there already, with the same label."""


@dataclass(frozen=True)
class _Text:
    """A labelled text; `expert` is None for none, `near` the one that it comes close to then."""

    text: str
    expert: str | None
    near: str | None = None
    place: str = ""
    """Where it stands already."""


def teach(
    files: Sequence[Path],
    *,
    experts_dir: Path,
    descriptions: Mapping[str, ExpertDescription],
    out_of_scope: Path | None = None,
) -> Taught:
    """Add labelled texts (`gateway.labelled`) to the experts' examples and to the texts for none; see the module.

    Nothing is written unless every text may be taught. Stopped anywhere, a second call finishes it.

    Args:
        descriptions: an expert whose data is kept elsewhere gets the examples there too, or its next publication would
            lose them.
        out_of_scope: the file of texts for none; default: out_of_scope.jsonl in `experts_dir`.

    Raises:
        DatasetError: an expert that is not published, a text that stands under another label, or one that an expert is
            measured by; names each.
        PublishError: an expert's training rows or questions were edited since it was published.
        ConfigError: a file that cannot be read, or is not as described.
    """
    rest = out_of_scope or experts_dir / OUT_OF_SCOPE_FILE
    versions = _finish_incoming(experts_dir)
    folders = {path.parent.name: path.parent for path in sorted(experts_dir.glob(f"*/{MANIFEST_FILE}"))}
    new = [text for path in files for text in _read(path)]
    _check_experts(new, folders)
    known = {text_key(each.text): each for each in _known(folders, rest)}
    _check_labels(new, known)
    _check_questions(new, folders)
    fresh = {text_key(each.text): each for each in new if text_key(each.text) not in known}
    examples: dict[str, list[str]] = {}
    for each in fresh.values():
        if each.expert is not None:
            examples.setdefault(each.expert, []).append(each.text)
    for name in examples:
        _check_unedited(folders[name], name)
    negatives = [each for each in fresh.values() if each.expert is None]
    _check_fit(folders, rest, examples, [each.text for each in negatives])
    versions |= {
        name: _add_examples(folders[name], name, texts, descriptions.get(name)) for name, texts in examples.items()
    }
    if negatives:
        _append(rest, [{"text": each.text, "near": each.near} for each in negatives])
    return Taught(versions, len(fresh), len(new) - len(fresh))


def _finish_incoming(experts_dir: Path) -> dict[str, str]:
    """Bring in what was stopped on its way, and return those versions."""
    versions = {}
    for incoming in sorted(experts_dir.glob(f"*/{INCOMING_DIR}")):
        folder = incoming.parent
        if edited := edited_files(folder):
            raise PublishError(
                f"{folder.name}: {', '.join(edited)} was edited since a change of this expert was stopped halfway, and "
                f"would be overwritten: move the edit away, or remove {incoming}"
            )
        versions[folder.name] = bring_in(folder, folder.name).version
    return versions


def _check_fit(
    folders: Mapping[str, Path], rest: Path, examples: Mapping[str, Sequence[str]], negatives: Sequence[str]
) -> None:
    """Refuse at once what would keep the gateway from a router, such as an answer of another expert."""
    files = {name: (folder / ROWS_FILE, folder / EXAMPLES_FILE) for name, folder in folders.items()}
    source = Source.read(files, rest if rest.is_file() else None)
    further = {name: [*texts, *examples.get(name, ())] for name, texts in source.further.items()}
    try:
        check_examples(source.examples, [*source.negatives, *negatives], passages=source.passages, further=further)
    except RouterError as error:
        raise DatasetError(f"the router could not be fitted with these texts: {error}") from error


def _read(path: Path) -> list[_Text]:
    """Return what is to be taught; a conversation's turns are one text, as they are for `pointsman router fit`."""
    rows = read_labelled([path])
    lines = [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    texts = []
    for row, line in zip(rows, lines, strict=True):
        near = json.loads(line).get("near")
        if not (near is None or isinstance(near, str)):
            raise ConfigError(f'{path}: "near" is {near!r}; the name of an expert, or null, is expected')
        texts.append(_Text("\n".join(row.turns), row.route, near))
    return texts


def _known(folders: Mapping[str, Path], rest: Path) -> list[_Text]:
    """Return all that the router is fitted on, but for the answers."""
    found = [_Text(text, None, place=str(rest)) for text in (read_examples(rest) if rest.is_file() else ())]
    for name, folder in folders.items():
        for file, texts in (
            (ROWS_FILE, read_rows(folder / ROWS_FILE)[0]),
            (EXAMPLES_FILE, read_examples(folder / EXAMPLES_FILE)),
        ):
            found += [_Text(text, name, place=str(folder / file)) for text in texts]
    return found


def _check_experts(new: Sequence[_Text], folders: Mapping[str, Path]) -> None:
    unknown = sorted({each.expert for each in new if each.expert is not None} - set(folders))
    if unknown:
        allowed = ", ".join([*folders, f"{BASE} or null"])
        raise DatasetError(f"no such expert is published: {', '.join(map(repr, unknown))}; allowed: {allowed}")


def _check_labels(new: Sequence[_Text], known: Mapping[str, _Text]) -> None:
    """A text belongs to one expert, or to none."""
    seen, findings = dict(known), []
    for each in new:
        other = seen.setdefault(text_key(each.text), each)
        if other.expert != each.expert:
            there = f"stands under {other.expert or BASE!r}" + (f" in {other.place}" if other.place else ", too")
            findings.append(f"{each.text[:100]!r} is to be taught as {each.expert or BASE!r} and {there}")
    if findings:
        headline = f"{len(findings)} texts stand under two labels: correct one of the two"
        raise DatasetError(f"{headline}: {findings[0]}", headline, findings)


def _check_questions(new: Sequence[_Text], folders: Mapping[str, Path]) -> None:
    """Whoever teaches what an expert is measured by cannot measure any more."""
    asked = {
        normalise(question): folder / QUESTIONS_FILE
        for folder in folders.values()
        for question in load_questions(folder / QUESTIONS_FILE)
    }
    findings = [
        f"{each.text[:100]!r} stands in {asked[normalise(each.text)]}" for each in new if normalise(each.text) in asked
    ]
    if findings:
        headline = f"{len(findings)} texts are questions that an expert is measured by: leave them out"
        raise DatasetError(f"{headline}: {findings[0]}", headline, findings)


def _check_unedited(folder: Path, name: str) -> None:
    edited = [file for file in edited_files(folder) if file != EXAMPLES_FILE]
    if edited:
        raise PublishError(
            f"{name}: {', '.join(edited)} in {folder} was edited since it was published, and a new version with it "
            "would be another expert's: publish it first, or move the edit away"
        )


def _add_examples(folder: Path, name: str, texts: Sequence[str], description: ExpertDescription | None) -> str:
    """Make the new version and return its number; examples that were edited by hand go into it as they are."""
    manifest = Manifest.load(folder / MANIFEST_FILE)
    if description is not None and description.data != folder.resolve():
        elsewhere = description.data / EXAMPLES_FILE
        if elsewhere.is_file():
            there = {text_key(text) for text in read_examples(elsewhere)}
            _append(elsewhere, [_row(text) for text in texts if text_key(text) not in there])
    with stage_version(folder) as staged:
        _append(staged / EXAMPLES_FILE, [_row(text) for text in texts])
        kept = read_manifest(folder / PREVIOUS_DIR / MANIFEST_FILE)
        version = next_version(manifest.version, [each.version for each in (manifest, kept) if each])
        card = staged / CARD_FILE
        if card.is_file():
            page = card.read_text(encoding="utf-8")
            write_text(card, page.replace(f" {manifest.version}\n", f" {version}\n", 1))
        changed = {
            "version": version,
            "created": datetime.now(UTC).replace(microsecond=0),
            "examples": FileHash(file=EXAMPLES_FILE, sha256=file_sha256(staged / EXAMPLES_FILE)),
        }
        write_manifest(manifest.model_copy(update=changed), staged / MANIFEST_FILE)
    bring_in(folder, name)
    return version


def _row(text: str) -> dict[str, str | bool]:
    """A further example: whoever labels texts has chosen those that a router was in doubt about."""
    return {"text": text, FURTHER: True}


def _append(path: Path, rows: Sequence[Mapping[str, str | bool | None]]) -> None:
    before = path.read_text(encoding="utf-8").rstrip("\n") if path.is_file() else ""
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    write_text(path, "\n".join([before, *lines] if before else lines) + "\n")
