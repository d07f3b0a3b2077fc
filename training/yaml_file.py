"""Read the YAML files that people write for training, strictly.

Owns what YAML is allowed to do to a value: `2e-4` is a number (PyYAML alone reads it as text, and LlamaFactory then
trains with text for a learning rate), a key may stand only once, and how a mistake is put in one line.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from training.errors import RecipeError

__all__ = ["describe_error", "read_yaml"]


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2 floats and without duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping; a key that stands twice is refused."""
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a mapping.

    Raises:
        RecipeError: missing, not YAML, a duplicate key, or no mapping at the top.
    """
    try:
        value = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise RecipeError(f"{path}: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(value, dict):
        raise RecipeError(f"{path}: a mapping is expected at the top, found {type(value).__name__}")
    return value


def describe_error(error: ValidationError, model: type[BaseModel]) -> str:
    """Put the first finding of a validation in one line, with the nearest allowed key for an unknown one."""
    errors = error.errors()
    # A typo shows twice, as an unknown key and as a missing one: the unknown key tells more.
    first = next((found for found in errors if found["type"] == "extra_forbidden"), errors[0])
    location = [str(part) for part in first["loc"]]
    where = ".".join(location) or "the file"
    if first["type"] == "extra_forbidden":
        allowed = sorted(_section_at(model, location[:-1]).model_fields)
        near = difflib.get_close_matches(location[-1], allowed, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        return f"{where}: unknown key; {hint}allowed: {', '.join(allowed)}"
    if first["type"] == "missing":
        return f"{where}: this key is required"
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}: {message[0].lower()}{message[1:]} (value: {first['input']!r})"


def _section_at(model: type[BaseModel], location: list[str]) -> type[BaseModel]:
    for part in location:
        field = model.model_fields.get(part)
        if field is not None and isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            model = field.annotation
    return model
