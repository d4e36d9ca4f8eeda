"""Write what programs call, from the declarations of the tasks: `src/facewright/api.py`, the typed functions of Python,
and `docs/reference/openapi.json`, the description of the REST API.

python tools/make_api.py            # write them (needs the extra web)
python tools/make_api.py --check    # exit with 1 if one of them is out of date
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from facewright.tasks.declare import OptionField, Shape, Task, option_fields, tasks

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "src" / "facewright" / "api.py"
OPENAPI = ROOT / "docs" / "reference" / "openapi.json"
HEAD = '''"""The functions of all tasks; written by tools/make_api.py from the declarations in `facewright.tasks`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .runtime.runners import run_edit, run_generate, run_pair, run_records, run_report
from .tasks.declare import NetworkChoice, paths_of
'''
FIRST = {
    Shape.RECORDS: (("source: Any",), ("source: Photo: a path, bytes, a file, a PIL picture, an array or a `Photo`.",)),
    Shape.PAIR: (
        ("first: Any", "second: Any"),
        ("first: Photo: a path, bytes, a file, a PIL picture, an array or a `Photo`.", "second: The same."),
    ),
    Shape.EDIT: (
        ("source: Any", "output: str | Path | None = None"),
        (
            "source: Photo: a path, bytes, a file, a PIL picture, an array or a `Photo`; or the path of a video.",
            "output: Where the result is written; a video and a photo of several pages need it.",
        ),
    ),
    Shape.GENERATE: (("output: str | Path | None = None",), ("output: Folder the pictures are written into.",)),
    Shape.REPORT: (
        ("source: str | Path", "output: str | Path | None = None"),
        ("source: Folder with one subfolder per person.", "output: Folder the report is written into."),
    ),
}
OVERWRITES = (Shape.EDIT, Shape.GENERATE, Shape.REPORT)
PAGES = "facewright.pipelines.pages:PagesReport"
"""Result of a photo of several pages, where videos and their like can be edited."""
NETWORKS = {
    "model": ("str", "System; see `fw.models()`."),
    "weights": ("str | None", "File, folder or name of its weights."),
    "detector": ("str", "Slug of another detector."),
    "parser": ("str", "Slug of another parser."),
    "recogniser": ("str", "Slug of another recogniser."),
    "background": ("str", "Draws what is not a face: clean (embedded), or the slug of an enlarger such as realesrgan."),
    "damage_finder": ("str", "Finds the damage of a print: printscan (embedded), or a slug such as bopbtl."),
    "landmarker": ("str", "Places landmarks: facewarp (embedded), or a slug such as fan."),
    "head_pose": ("str", "Measures the pose: a slug such as sixdrepnet; without, the detector or the landmarks do."),
    "device": ("str", '"auto" (CUDA when present), "cpu", "cuda" or "cuda:1".'),
    "dtype": ("str", '"auto", "fp32" or "bf16".'),
}


def source() -> str:
    """The whole module, formatted."""
    table = [task for task in tasks().values() if task.public]
    results = sorted({name for task in table for name in results_of(task)})
    imports = [f"    from .{module[11:]} import {name}" for module, _, name in (r.partition(":") for r in results)]
    options = [f"from .{t.options.__module__[11:]} import {t.options.__name__}" for t in table]
    parts = [
        HEAD + "\n".join(options),
        "if TYPE_CHECKING:\n    from collections.abc import Sequence\n\n" + "\n".join(imports),
        *map(function, table),
    ]
    names = "".join(f"    {verb!r},\n" for verb in sorted(task.verb for task in table))
    parts.append(f"__all__ = [\n{names}]")
    text = "\n\n\n".join(parts) + "\n"
    fixes = ["check", "--fix", "--unsafe-fixes", "--exit-zero", "--quiet"]
    return ruff(ruff(ruff(text, "format"), *fixes), "format")


def ruff(text: str, *command: str) -> str:
    """Source code after a command of ruff."""
    arguments = ["ruff", *command, "--stdin-filename", str(TARGET), "-"]
    done = subprocess.run(arguments, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{done.stdout[-2000:]}{done.stderr}")
    return done.stdout


def function(task: Task) -> str:
    """The function of one task."""
    fields = option_fields(task.options)
    networks = network_names(task)
    first, explained = FIRST[task.shape]
    keywords = [f"{f.name}: {type_name(f)} = {f.default!r}" for f in fields]
    keywords += [f"{name}: {NETWORKS[name][0]} = {default(task, name)!r}" for name in networks]
    says = [*explained, *(f"{f.name}: {f.opt.help}" for f in fields), *(f"{n}: {NETWORKS[n][1]}" for n in networks)]
    if task.shape in OVERWRITES:
        keywords.append("overwrite: bool = False")
        says.append("overwrite: Replace outputs that exist.")
    doc = [task.summary, "", "    Args:", *(f"        {line}" for line in says)]
    chosen = ", ".join(f"{f.name}={f'paths_of({f.name})' if f.is_pictures else f.name}" for f in fields)
    choice = ", ".join(f"{name}={name}" for name in networks)
    given = [part.partition(":")[0] for part in first]
    runner = {
        Shape.RECORDS: "run_records",
        Shape.PAIR: "run_pair",
        Shape.EDIT: "run_edit",
        Shape.GENERATE: "run_generate",
        Shape.REPORT: "run_report",
    }[task.shape]
    extra = ", overwrite=overwrite" if task.shape in OVERWRITES else ""
    arguments = ", ".join([repr(task.verb), *given, "options", "networks"])
    return (
        f"def {task.verb}({', '.join([*first, '*', *keywords])},) -> {result_name(task)}:\n"
        f'    """' + "\n".join(doc) + '\n    """\n'
        f"    options = {task.options.__name__}({chosen})\n"
        f"    networks = NetworkChoice({choice})\n"
        f"    result: {result_name(task)} = {runner}({arguments}{extra})\n"
        "    return result"
    )


def network_names(task: Task) -> list[str]:
    """Which networks can be chosen."""
    own = ["model", "weights"] if task.system_task is not None else []
    return [*own, *task.needs, "device", *(["dtype"] if task.dtype else [])]


def default(task: Task, name: str) -> Any:
    return {"model": task.default, "weights": None, "device": "auto", "dtype": "auto"}.get(name, "")


def type_name(field: OptionField) -> str:
    """The type of an option as source."""
    if field.is_pictures:
        return "str | Path | Sequence[str | Path]"
    kind = field.type
    return kind.__name__ if isinstance(kind, type) and not getattr(kind, "__args__", ()) else plain(kind)


def plain(kind: Any) -> str:
    return str(kind).replace("typing.", "").replace("NoneType", "None")


def results_of(task: Task) -> list[str]:
    """What its function gives, as "module:Class"."""
    return [task.result, task.video_result, PAGES] if task.video_result else [task.result]


def result_name(task: Task) -> str:
    names = " | ".join(name.partition(":")[2] for name in results_of(task))
    return f"list[{names}]" if task.shape is Shape.RECORDS else names


def openapi() -> str:
    """The description of the REST API, the same on every machine."""
    from facewright.serve.app import create_app
    from facewright.serve.settings import ServeOptions
    from facewright.serve.store import Store

    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder), 1)
        document = create_app(ServeOptions(), store).openapi()
        store.close()
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description="Write what programs call, from the declarations of the tasks.")
    parser.add_argument("--check", action="store_true", help="change nothing, exit with 1 if something is out of date")
    check = parser.parse_args().check
    wanted = {TARGET: source(), OPENAPI: openapi()}
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        if check:
            print(f"{path.relative_to(ROOT)} is out of date; run: python tools/make_api.py", file=sys.stderr)
        else:
            path.write_text(wanted[path], encoding="utf-8")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
