"""Declarations of tasks, and what is made from them."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from facewright.errors import UsageError
from facewright.tasks.declare import Checked, Opt, Shape, entry, option_fields, tasks
from facewright.tasks.restore import RestoreOptions

ROOT = Path(__file__).parents[2]
VERBS = list(tasks())

DUMMY_TASK = '''
"""Count the faces of a photo."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from typing_extensions import TypedDict

from facewright.tasks.declare import Checked, Opt, Shape, Task


class CountRecord(TypedDict):
    """How light a photo is."""

    light: float


@dataclass(frozen=True, slots=True)
class CountOptions(Checked):
    """How light is measured."""

    times: Annotated[float, Opt("Factor.", low=0, high=10)] = 1.0


TASKS = (
    Task(
        name="light",
        verb="light",
        summary="How light a photo is.",
        shape=Shape.RECORDS,
        options=CountOptions,
        load="facewright.systems.light.meter.network:load",
        result="facewright.systems.light.meter.network:Light",
        record=CountRecord,
        default="meter",
        media=("photo", "folder"),
        public=False,
    ),
)
'''

DUMMY_SYSTEM = '''
"""A system of the task."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Light:
    value: float

    def to_dict(self):
        return {"light": self.value}

    def line(self):
        return f"light {self.value:.1f}"


def load(session, task, choice):
    return lambda photo, options: [Light(options.times * float(photo.rgb().mean()))]
'''


def test_every_task_names_code_that_exists() -> None:
    for task in tasks().values():
        for name in (task.load, task.result, task.video, task.video_result, task.draw):
            assert not name or callable(entry(name)), name
        assert (ROOT / "docs" / task.guide).is_file(), task.verb
        assert task.system_task is None or task.card("").slug == task.default


@pytest.mark.parametrize("verb", VERBS)
def test_options_explain_themselves_and_have_the_types_their_defaults_have(verb: str) -> None:
    options = tasks()[verb].options
    for field in option_fields(options):
        assert field.opt.help.endswith("."), field.name
        assert getattr(options(), field.name) == field.default
        TypeAdapter(field.type).validate_python(field.default, strict=True)


@pytest.mark.parametrize("verb", VERBS)
def test_schemas_are_json(verb: str) -> None:
    schema = tasks()[verb].schema()
    assert json.loads(json.dumps(schema)) == schema
    named = {field.name for field in option_fields(tasks()[verb].options)}
    assert set(schema["options"].get("properties", {})) >= named


def test_values_outside_their_limits_are_refused() -> None:
    @dataclass(frozen=True)
    class Options(Checked):
        share: Annotated[float, Opt("Share.", low=0, high=1)] = 0.5
        count: Annotated[int | None, Opt("Count.", low=1)] = None
        kind: Annotated[str, Opt("Kind.", choices=("a", "b"))] = "a"

    Options(share=1, count=1, kind="b")
    for wrong, said in (
        ({"share": 1.5}, "outside 0…1"),
        ({"count": 0}, "at least 1"),
        ({"kind": "c"}, "choose a or b"),
    ):
        with pytest.raises(UsageError, match=said):
            Options(**wrong)
    with pytest.raises(UsageError, match="outside"):
        Options(share=float("nan"))


def test_numbers_of_numpy_become_plain() -> None:
    box = np.array([1.5, 2, 30, 40], np.float32)
    given: dict[str, Any] = {"boxes": [box], "points": (tuple(box[:2]),), "max_faces": np.int64(2)}
    options = RestoreOptions(**given)
    assert json.loads(json.dumps([options.boxes, options.points, options.max_faces])) == [
        [[1.5, 2.0, 30.0, 40.0]],
        [[1.5, 2.0]],
        2,
    ]


def test_a_system_of_another_task_is_refused_with_those_that_fit() -> None:
    with pytest.raises(UsageError, match=r"frgp is not a detector; choose one of mos"):
        tasks()["detect"].card("frgp")
    with pytest.raises(UsageError, match="unknown model"):
        tasks()["detect"].card("nosuch")


def test_the_written_functions_are_up_to_date() -> None:
    done = subprocess.run([sys.executable, "tools/make_api.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_declarations_need_no_heavy_module() -> None:
    code = (
        "import sys, facewright.tasks.declare as d; d.tasks(); print([m for m in ('torch', 'cv2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def run_with_plugin(folder: Path, code: str) -> str:
    """Run Python code in a process that has the dummy task and its system."""
    start = f"""
    import facewright.systems, facewright.tasks
    facewright.tasks.__path__.append({str(folder / "tasks")!r})
    facewright.systems.__path__.append({str(folder / "systems")!r})
    """
    text = textwrap.dedent(start) + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    """A new task and a system of it, as files."""
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "light.py").write_text(DUMMY_TASK, encoding="utf-8")
    place = tmp_path / "systems" / "light" / "meter"
    place.mkdir(parents=True)
    (place / "network.py").write_text(DUMMY_SYSTEM, encoding="utf-8")
    card = {
        "slug": "meter",
        "name": "Meter",
        "task": "light",
        "entry": "facewright.systems.light.meter.network:Light",
        "title": "A dummy",
        "authors": "Nobody",
        "year": 2026,
        "url": "https://example.org",
        "summary": "Measures light.",
        "faithful": "There is no paper.",
        "limits": ["A dummy."],
        "bias": "None.",
    }
    (place / "card.json").write_text(json.dumps(card), encoding="utf-8")
    return tmp_path


def test_a_new_task_gets_function_command_docs_and_checks(plugin: Path, fakes: Any) -> None:
    from PIL import Image

    Image.fromarray(fakes.textured(20, 30)).save(plugin / "a.png")
    out = run_with_plugin(
        plugin,
        f"""
        import json
        import facewright as fw
        from typer.testing import CliRunner
        from facewright.cli import app
        from facewright.errors import UsageError

        photo = {str(plugin / "a.png")!r}
        (found,) = fw.light(photo, times=2.0)
        run = CliRunner().invoke(app, ["light", photo, "--times", "2.0", "--json"])
        assert run.exit_code == 0, run.output
        assert json.loads(run.stdout)[0]["faces"] == [found.to_dict()]
        assert "Factor." in CliRunner().invoke(app, ["light", "--help"]).output
        assert fw.models("light")[0].slug == "meter"
        try:
            fw.light(photo, times=11)
        except UsageError as error:
            assert "outside 0" in str(error)
        else:
            raise AssertionError("times=11 went through")
        import importlib.util
        spec = importlib.util.spec_from_file_location("make_docs", "tools/make_docs.py")
        make_docs = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(make_docs)
        pages = {{str(path): text for path, text in make_docs.pages().items()}}
        assert "How light a photo is." in pages["reference/tasks/light.md"]
        assert "## light" in pages["reference/cli.md"]
        print("all made")
        """,
    )
    assert out.strip() == "all made"


def test_shapes_are_all_used() -> None:
    assert {task.shape for task in tasks().values()} == set(Shape)
