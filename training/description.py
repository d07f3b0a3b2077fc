"""What an expert is, in words: the entries of `configs/experts.yaml`, one for each expert.

Owns the part of a manifest that a person writes; hashes and results are added by publish.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gateway.experts import Target, check_name
from training.errors import RecipeError
from training.yaml_file import describe_error, read_yaml

__all__ = ["ANCHORS_FILE", "EXAMPLES_FILE", "QUESTIONS_FILE", "ROWS_FILE", "ExpertDescription", "load_descriptions"]

ROWS_FILE = "dataset.json"
EXAMPLES_FILE = "examples.jsonl"
QUESTIONS_FILE = "questions.jsonl"
ANCHORS_FILE = "anchors.json"


class ExpertDescription(BaseModel):
    """One expert before it is trained. `data` holds dataset.json, examples.jsonl and questions.jsonl.

    `anchors` is a file of rows from other domains, without the targets; see `training.anchors`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str = Field(min_length=1)
    description: str = Field(min_length=1)
    version: Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+$")] = "1.0.0"
    data: Path
    anchors: Path | None = None
    targets: tuple[Target, ...] = Field(min_length=1)
    scale: float = Field(default=1.0, gt=0, le=4)
    system_prompt: str | None = None
    generation: dict[str, Any] = Field(default_factory=lambda: {"temperature": 0})

    @property
    def terms(self) -> tuple[str, ...]:
        """Every spelling that counts as a mention."""
        return tuple(term for target in self.targets for term in (target.term, *target.aliases))


def load_descriptions(path: Path) -> dict[str, ExpertDescription]:
    """Read all experts by name; `data` and `anchors` are resolved against the file's folder.

    Raises:
        RecipeError: a name or a value that is not allowed; names the expert, the key and the value.
    """
    experts: dict[str, ExpertDescription] = {}
    for name, entry in read_yaml(path).items():
        try:
            check_name(str(name))
            expert = ExpertDescription.model_validate(entry)
        except ValidationError as error:
            raise RecipeError(f"{path}: {name}: {describe_error(error, ExpertDescription)}") from error
        except ValueError as error:
            raise RecipeError(f"{path}: {error}") from error
        paths = {"data": expert.data, "anchors": expert.anchors}
        resolved = {key: (path.parent / given).resolve() for key, given in paths.items() if given is not None}
        experts[str(name)] = expert.model_copy(update=resolved)
    return experts
