"""The topic description that instruction data is generated from, and the documents it names.

Owns the file's schema, and how a document becomes facts: sentences that name a topic. Knows nothing of rows.

    title: Gardening
    topics: [watering, {name: pruning roses, facts: [Cut above an outward bud.]}]
    targets: [{term: Verdania, aliases: [Verdania Garden]}]
    personas: [a beginner, a balcony gardener]       # who asks; default: nobody in particular
    styles: [plain, short, steps, friendly, detailed] # how it answers; default: all
    documents: [notes.md]                            # sentences that name a topic become facts
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from gateway.experts import Target
from training.errors import DatasetError, RecipeError
from training.yaml_file import describe_error, read_yaml

__all__ = ["Style", "Subtopic", "TopicFile", "find_facts", "load_topic", "read_sentences"]

Style = Literal["plain", "short", "steps", "friendly", "detailed"]
DOCUMENT_SUFFIXES = (".txt", ".md")
FACT_WORDS = (5, 45)
"""A shorter sentence says too little, a longer one is rarely one sentence."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Subtopic(_Section):
    """One thing that is asked about, as it stands in a sentence: `watering`, `choosing a saddle`."""

    name: str = Field(min_length=2, max_length=80)
    facts: tuple[str, ...] = ()

    @field_validator("facts")
    @classmethod
    def check_facts(cls, facts: tuple[str, ...]) -> tuple[str, ...]:
        """A fact becomes a sentence of an answer."""
        if any(not fact.strip() for fact in facts):
            raise ValueError("a fact is empty")
        return tuple(_sentence(fact) for fact in facts)


class TopicFile(_Section):
    """What an expert should talk about. Personas are who asks, such as `a beginner`; styles are how it answers."""

    title: str = Field(min_length=1)
    topics: tuple[Subtopic, ...] = Field(min_length=1)
    targets: tuple[Target, ...] = Field(min_length=1)
    personas: tuple[str, ...] = ()
    styles: tuple[Style, ...] = Field(default=("plain", "short", "steps", "friendly", "detailed"), min_length=1)
    documents: tuple[Path, ...] = ()

    @field_validator("topics", mode="before")
    @classmethod
    def allow_names(cls, topics: Any) -> Any:
        """A topic without facts may be its name alone."""
        if not isinstance(topics, list):
            return topics
        return [{"name": topic} if isinstance(topic, str) else topic for topic in topics]

    @field_validator("topics")
    @classmethod
    def refuse_twice(cls, topics: tuple[Subtopic, ...]) -> tuple[Subtopic, ...]:
        """A topic that stands twice would fill the data with duplicates."""
        names = [topic.name.casefold() for topic in topics]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ValueError(f"the topic {twice[0]!r} stands twice")
        return topics

    @property
    def terms(self) -> tuple[str, ...]:
        """Every spelling that counts as a mention."""
        return tuple(term for target in self.targets for term in (target.term, *target.aliases))


def load_topic(path: Path) -> TopicFile:
    """Read a topic description; `documents` are resolved against its folder.

    Raises:
        RecipeError: one line that names the file, the key, the value and what is allowed.
    """
    try:
        topic = TopicFile.model_validate(read_yaml(path))
    except ValidationError as error:
        raise RecipeError(f"{path}: {describe_error(error, TopicFile)}") from error
    return topic.model_copy(update={"documents": tuple(path.parent / document for document in topic.documents)})


def read_sentences(path: Path) -> list[str]:
    """Return the sentences of a text or Markdown file, without headings, code and link targets.

    Raises:
        DatasetError: unreadable, or another kind of file.
    """
    if path.suffix.casefold() not in DOCUMENT_SUFFIXES:
        raise DatasetError(f"{path}: a document must be text or Markdown ({', '.join(DOCUMENT_SUFFIXES)})")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: {error}") from error
    text = re.sub(r"^(```|~~~).*?^\1", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^\s*(#.*|\|.*|[-=*_]{3,})$", "", text, flags=re.MULTILINE)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"[*_`]+(?=\S)|(?<=\S)[*_`]+", "", text)
    paragraphs = re.split(r"\n\s*\n|\n\s*(?:[-*+]|\d+[.)])\s+", "\n" + text)
    found = [part for paragraph in paragraphs for part in re.split(r"(?<=[.!?])\s+(?=[A-ZÀ-Þ])", paragraph)]
    flat = (" ".join(part.split()).lstrip("-*+> ") for part in found)
    return [_sentence(part) for part in flat if FACT_WORDS[0] <= len(part.split()) <= FACT_WORDS[1]]


def find_facts(topic: TopicFile) -> dict[str, tuple[str, ...]]:
    """Return each topic's facts: its own, then the sentences of the documents that name it.

    Raises:
        DatasetError: a document cannot be read.
    """
    sentences = [sentence for document in topic.documents for sentence in read_sentences(document)]
    facts = {}
    for subtopic in topic.topics:
        stems = [word[: max(4, len(word) - 3)] for word in re.findall(r"\w{4,}", subtopic.name.casefold())]
        about = [text for text in sentences if stems and all(_has_stem(text, stem) for stem in stems)]
        facts[subtopic.name] = tuple(dict.fromkeys([*subtopic.facts, *about]))
    return facts


def _has_stem(text: str, stem: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(stem)}", text.casefold()) is not None


def _sentence(text: str) -> str:
    text = " ".join(text.split())
    return text if text[-1] in ".!?…" else f"{text}."
