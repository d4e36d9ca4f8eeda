"""The order of the floors: a module imports only from its own floor and from those below.

Imports for type checkers alone and inside functions do not count: they close no circle when the package is loaded.
"""

from __future__ import annotations

import ast
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[1] / "src"

FLOORS: tuple[tuple[str, ...], ...] = (
    ("deprecation", "errors", "processors", "progress"),
    ("face", "geometry.*"),
    ("io.*", "degrade.*"),
    ("tasks.*",),
    ("weights.pack",),
    ("weights.*", "nn.*"),
    ("metrics.*",),
    ("losses.*",),
    ("render.*",),
    ("systems.*.training", "systems.*_training", "systems.detect.operating_room.*"),
    ("systems.*",),
    ("data.*",),
    ("training.*",),
    ("pipelines.*",),
    ("gallery.*",),
    ("runtime.*",),
    ("loading",),
    ("evaluation.*",),
    ("api",),
    ("serve.*", "batch.*"),
    ("cli.*", "__main__"),
)
"""From the ground up; a module belongs to the first pattern that fits. `weights.pack`, which opens networks, and the
trainings of systems stand higher than their folder: see `HIGHER`."""

HIGHER = {4: 10.5, 9: 12.5}
"""Floors of the table that stand elsewhere than listed: their patterns must be tried before those of their folder."""


def floor(module: str) -> float:
    name = module.removeprefix("facewright").lstrip(".")
    for number, patterns in enumerate(FLOORS):
        if any(fnmatch(name, pattern) or fnmatch(name + ".", pattern) for pattern in patterns):
            return HIGHER.get(number, number)
    return len(FLOORS)  # the package itself


def test_no_arrow_points_up() -> None:
    wrong = [f"{a} -> {b}" for a, b in sorted(imports()) if floor(b) > floor(a)]
    assert wrong == []


def test_every_module_has_a_floor() -> None:
    homeless = [m for m in modules() if floor(m) == len(FLOORS) and m != "facewright"]
    assert homeless == []


def modules() -> dict[str, Path]:
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports() -> set[tuple[str, str]]:
    known, found = modules(), set()
    for module, path in known.items():
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        for node in loaded(ast.parse(path.read_text(encoding="utf-8")).body):
            base = package.split(".")[: len(package.split(".")) - node.level + 1]
            target = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                full = f"{target}.{alias.name}"
                found.add((module, full if full in known else target))
    return found


def loaded(body: list[ast.stmt]) -> list[ast.ImportFrom]:
    """The relative imports that run when a module is loaded."""
    found = []
    for node in body:
        if isinstance(node, ast.ImportFrom) and node.level:
            found.append(node)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.dump(node.test):
            found += loaded([*node.body, *node.orelse])
        elif isinstance(node, ast.Try | ast.With):
            found += loaded(node.body)
    return found
