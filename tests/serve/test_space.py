"""The Gradio app: a tab for every task, and what its functions give."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from facewright.serve.networks import ServedNetworks
from facewright.serve.requests import INPUTS, fields_of, network_fields
from facewright.serve.settings import ServeOptions
from facewright.serve.space import offered
from facewright.tasks.declare import Shape, get_task

gradio = pytest.importorskip("gradio", reason="the extra gradio is not installed", exc_type=ImportError)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def call(source: Any) -> Callable[..., list[Any]]:
    """Run a task as its tab does, with fake networks."""
    from facewright.serve.space import task_function

    session = ServedNetworks(source)
    return lambda verb, **values: task_function(verb, session, ServeOptions(device="cpu", max_mb=1.0))(**values)


@pytest.fixture
def photo(tmp_path: Path, photo_bytes: Callable[..., bytes]) -> str:
    path = tmp_path / "anna.png"
    path.write_bytes(photo_bytes())
    return str(path)


def test_every_task_that_is_ready_has_a_tab_with_all_its_fields() -> None:
    from facewright.serve.space import create_space

    config = create_space(ServeOptions(device="cpu")).get_config_file()
    functions = {d["api_name"]: d for d in config["dependencies"] if d["api_name"]}
    assert {task.verb for task in offered()} <= set(functions)
    assert "restore" in functions
    assert config["analytics_enabled"] is False
    for task in offered():
        expected = len(INPUTS[task.shape]) + len(fields_of(task)) + len(network_fields(task))
        assert len(functions[task.verb]["inputs"]) == expected
        shown = functions[task.verb]["outputs"]
        assert shown == sorted(shown), "the page shows them in the order in which they were made: pictures first"


def test_a_photo_is_edited_as_the_command_does(
    call: Any, photo: str, tmp_path: Path, source: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from facewright.runtime import editing
    from facewright.tasks.declare import NetworkChoice

    (before, after), file, report = call("restore", source=photo, strength=0.5, faces="0")
    assert before.shape == after.shape == (200, 240, 3)
    assert not np.array_equal(before, after)
    assert report["faces"][0]["restored"] is True
    task = get_task("restore")
    session = ServedNetworks(source)
    monkeypatch.setattr(editing, "default_session", lambda: session)
    options = task.options(strength=0.5, faces=(0,))
    editing.edit_file(task, photo, tmp_path / "x.png", options, NetworkChoice())
    with open(file, "rb") as made:
        assert made.read() == (tmp_path / "x.png").read_bytes()


@pytest.mark.parametrize("verb", [task.verb for task in offered() if task.shape is Shape.RECORDS])
def test_records_come_as_json_and_drawn(call: Any, photo: str, verb: str) -> None:
    *drawn, document = call(verb, source=photo)
    assert len(document["faces"]) == 1
    assert document["source"] == "anna.png"
    assert all(picture.shape == (200, 240, 3) for picture in drawn)
    assert bool(drawn) == bool(get_task(verb).draw)


def test_pairs_and_made_pictures(call: Any, photo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facewright.serve.requests.check_ready", lambda card, weights: None)  # fakes need no weights
    (decision,) = call("verify", first=photo, second=photo)
    assert decision["decision"] in ("same", "different", "cannot tell")
    files, report = call("synthesise", count="3")
    assert len(files) == len(report["files"]) == 3


def test_what_makes_no_sense_is_one_line(call: Any, photo: str, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("letter")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (700, 700, 3), np.uint8)).save(tmp_path / "large.png")
    for values, said in (
        ({}, "send one file as source"),
        ({"source": str(tmp_path / "letter.txt")}, "neither a photo nor a video"),
        ({"source": photo, "strength": 3}, "strength 3.0 is outside"),
        ({"source": photo, "model": "nosuch"}, "nosuch"),
        ({"source": str(tmp_path / "large.png")}, "more than the limit of 1 million bytes"),
    ):
        with pytest.raises(gradio.Error) as error:
            call("restore", **values)
        assert said in str(error.value.message)
        assert str(tmp_path) not in str(error.value.message)


def test_what_was_sent_is_gone_and_results_go_with_a_later_run(
    call: Any, photo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from facewright.serve import space

    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    call("restore", source=photo)
    (first,) = place.iterdir()
    assert not (first / "sent").exists()
    monkeypatch.setattr(space, "KEPT_SECONDS", -10)
    call("restore", source=photo)
    assert not first.exists()
