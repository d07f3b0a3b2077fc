"""Every module says what it exports, and keeps its word."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import gateway

MODULES = sorted(path.stem for path in Path(gateway.__file__).parent.glob("*.py") if not path.stem.startswith("__"))


def test_there_are_modules_to_check() -> None:
    assert {"scheduler", "leases", "api", "app"} <= set(MODULES)


@pytest.mark.parametrize("name", [*MODULES, "__main__"])
def test_all_names_are_unique_and_there(name: str) -> None:
    module = importlib.import_module(f"gateway.{name}")
    exported = module.__all__
    assert len(exported) == len(set(exported))
    assert [entry for entry in exported if not hasattr(module, entry)] == []


@pytest.mark.parametrize("name", MODULES)
def test_modules_take_only_exported_names_from_each_other(name: str) -> None:
    tree = ast.parse((Path(gateway.__file__).parent / f"{name}.py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module:
            exported = importlib.import_module(f"gateway.{node.module}").__all__
            hidden = [alias.name for alias in node.names if alias.name not in exported]
            assert not hidden, f"{name} imports {hidden} from {node.module}"
