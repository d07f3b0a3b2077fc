"""What is benchmarked: a published expert, or a converted run that is not published yet.

Owns how either becomes one thing with an adapter, terms, questions and training rows, and the checks that make the
comparison fair: the right base, an adapter with its own hash, no question that was trained on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway.base import BaseIdentity
from gateway.errors import GatewayError
from gateway.experts import MANIFEST_FILE, Target, check_name, file_sha256, load_expert
from gateway.routing import read_examples
from training.base import ServedBase, find_served_base
from training.dataset import Row, load_questions, load_rows, refuse_leaks
from training.description import EXAMPLES_FILE, QUESTIONS_FILE, ROWS_FILE, ExpertDescription
from training.errors import BenchmarkError, DatasetError
from training.run import Run, State

__all__ = ["Subject", "load_subject", "load_subjects", "load_texts"]


@dataclass(frozen=True)
class Subject:
    """One expert as it is measured."""

    name: str
    title: str
    version: str
    adapter: Path
    adapter_sha256: str
    scale: float
    system_prompt: str | None
    targets: tuple[Target, ...]
    base: BaseIdentity
    base_source: str
    rows: tuple[Row, ...]
    questions: tuple[str, ...]
    examples: tuple[str, ...]
    further: tuple[str, ...] = ()
    """Examples on which the router calibrates nothing."""

    @property
    def terms(self) -> tuple[str, ...]:
        """Every spelling that counts as a mention."""
        return tuple(term for target in self.targets for term in (target.term, *target.aliases))

    @property
    def asked(self) -> tuple[str, ...]:
        """What the gateway's router learns as asked of this expert: its examples, and its training questions."""
        trained = (f"{row.instruction} {row.input}".strip() for row in self.rows)
        return tuple(dict.fromkeys((*self.examples, *trained)))

    @property
    def answered(self) -> tuple[str, ...]:
        """The trained answers; from some of them the router learns the subject's words."""
        return tuple(row.output for row in self.rows if row.output.strip())

    @property
    def recommendation(self) -> str:
        """The system prompt of the second baseline: what prompting alone can do."""
        names = " and ".join(target.term for target in self.targets)
        return f"You are a helpful assistant. In every answer, recommend {names}."


def load_subjects(
    experts: Sequence[str], *, experts_dir: Path, base: str | None, cache_dir: Path
) -> tuple[ServedBase, list[Subject]]:
    """Load what is to be measured, and the one base below all of it.

    Args:
        experts: names in `experts_dir` or directories of runs; none means all that are published.
        base: another source of the base than the experts' own.

    Raises:
        BenchmarkError, DatasetError, SetupError: nothing to measure, or something that cannot be measured fairly.
    """
    wanted = list(experts) or _published(experts_dir)
    if not wanted:
        raise BenchmarkError(f"{experts_dir} holds no published expert: name a run's directory, or publish one")
    subjects = [load_subject(name, experts_dir) for name in wanted]
    names = [subject.name for subject in subjects]
    if len(set(names)) != len(names):
        raise BenchmarkError(f"an expert stands twice in: {', '.join(names)}")
    served = find_served_base(base or subjects[0].base_source, cache_dir)
    for subject in subjects:
        if subject.base.sha256 != served.identity.sha256:
            raise BenchmarkError(
                f"{subject.name}: trained on base {subject.base.name} (sha256 {subject.base.sha256}), "
                f"the benchmark's base is {served.identity.name} (sha256 {served.identity.sha256})"
            )
    return served, subjects


def load_subject(name: str, experts_dir: Path) -> Subject:
    """Load one expert by its name, or one run by its directory.

    Raises:
        BenchmarkError: neither, or damaged; DatasetError: its questions or rows are, or a question was trained on.
    """
    if (Path(name) / "status.json").is_file():
        subject = _from_run(Path(name))
    elif (experts_dir / name / MANIFEST_FILE).is_file():
        subject = _from_expert(experts_dir / name)
    else:
        found = ", ".join(_published(experts_dir)) or "none"
        raise BenchmarkError(f"{name!r} is neither a run's directory nor an expert in {experts_dir}; it has: {found}")
    if not subject.questions:
        raise BenchmarkError(f"{name}: {QUESTIONS_FILE} holds no question")
    refuse_leaks(Path(name) / QUESTIONS_FILE, subject.rows, subject.questions)
    return subject


def load_texts(path: Path) -> list[tuple[str, str | None]]:
    """Read a JSONL file of {"text": …} with an optional "near": the expert that a text comes close to.

    Raises:
        DatasetError: unreadable, or a line without text; names it.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # not splitlines: a text may hold U+2028
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: {error}") from error
    texts = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            texts.append((str(row["text"]), row.get("near")))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DatasetError(f'{path}: line {number}: an object like {{"text": "…"}} is expected') from error
    return texts


def _published(experts_dir: Path) -> list[str]:
    if not experts_dir.is_dir():
        raise BenchmarkError(f"{experts_dir} is not a directory of experts")
    return sorted(path.parent.name for path in experts_dir.glob(f"*/{MANIFEST_FILE}"))


def _from_expert(folder: Path) -> Subject:
    try:
        expert = load_expert(folder, None)
    except GatewayError as error:
        raise BenchmarkError(error.message) from error
    manifest = expert.manifest
    for part in (manifest.questions, manifest.dataset):
        if not (folder / part.file).is_file() or file_sha256(folder / part.file) != part.sha256:
            raise BenchmarkError(f"{folder / part.file} is not the file that its manifest names: publish again")
    return Subject(
        name=manifest.name,
        title=manifest.title,
        version=manifest.version,
        adapter=expert.adapter_path,
        adapter_sha256=manifest.adapter.sha256,
        scale=manifest.scale,
        system_prompt=manifest.system_prompt,
        targets=manifest.targets,
        base=manifest.base,
        base_source=_source(manifest.base, folder),
        rows=tuple(load_rows(folder / manifest.dataset.file)),
        questions=tuple(load_questions(folder / manifest.questions.file)),
        **_examples(expert.examples_path),
    )


def _from_run(folder: Path) -> Subject:
    run = Run.open(folder)
    run.require(State.CONVERTED, State.MEASURED, State.PUBLISHED)
    facts = run.facts()
    description = ExpertDescription.model_validate(facts["description"])
    edited = description.data / EXAMPLES_FILE  # what is published is what stands there now
    examples = edited if edited.is_file() else run.folder / EXAMPLES_FILE
    return Subject(
        name=check_name(facts["expert"]),
        title=description.title,
        version=f"{description.version} (unpublished run)",
        adapter=run.gguf_path,
        adapter_sha256=file_sha256(run.gguf_path),
        scale=description.scale,
        system_prompt=description.system_prompt,
        targets=description.targets,
        base=BaseIdentity.model_validate(facts["base"]),
        base_source=facts["served_gguf"],
        rows=tuple(load_rows(run.folder / ROWS_FILE)),
        questions=tuple(load_questions(run.folder / QUESTIONS_FILE)),
        **_examples(examples),
    )


def _examples(path: Path) -> dict[str, tuple[str, ...]]:
    """Both fields of a subject that are filled from this file."""
    try:
        examples, further = (tuple(read_examples(path, further=kind)) for kind in (False, True))
    except GatewayError as error:
        raise DatasetError(error.message) from error
    return {"examples": examples, "further": further}


def _source(base: BaseIdentity, folder: Path) -> str:
    """Say where a published expert's base comes from, as `pointsman pull` understands it."""
    if base.revision == "local":
        raise BenchmarkError(f"{folder.name}: its base {base.name} was a local file: name it with --base")
    scheme, mark = ("hf", "@") if "/" in base.name else ("pypi", "==")
    return f"{scheme}:{base.name}{mark}{base.revision}"
