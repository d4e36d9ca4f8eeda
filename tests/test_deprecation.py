"""Old public names work for one more minor version and say what to write instead."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import pytest

from facewright.deprecation import renamed_arguments, renamed_names
from facewright.face import FaceQuality
from facewright.tasks.declare import Shape, Task
from facewright.training.trainer import Recipe, build_entry

if TYPE_CHECKING:
    from pathlib import Path

MOVED = {
    "facewright.data.large_pose:TurnedCrops": "facewright.data.large_pose:LargePoseCrops",
    "facewright.data.large_pose:TurnedFaces": "facewright.data.large_pose:LargePoseFaces",
    "facewright.data.large_pose:TurnedScenes": "facewright.data.large_pose:LargePoseScenes",
    "facewright.evaluation.restore:Judges": "facewright.evaluation.restore:EvaluationModels",
    "facewright.io.kinds:FILMS": "facewright.io.kinds:VIDEOS",
    "facewright.metrics.detection:Found": "facewright.metrics.detection:Detections",
    "facewright.metrics.detection:Wanted": "facewright.metrics.detection:GroundTruth",
    "facewright.pipelines.colour_match:in_light": "facewright.pipelines.colour_match:match_illumination",
    "facewright.pipelines.colour_match:in_tone": "facewright.pipelines.colour_match:apply_tint",
    "facewright.pipelines.colour_match:tone_of": "facewright.pipelines.colour_match:fit_tint",
    "facewright.pipelines.film:FilmReport": "facewright.pipelines.restore_video:VideoRestoreResult",
    "facewright.pipelines.film:restore_video": "facewright.pipelines.restore_video:restore_video",
    "facewright.systems.quality.kept:KeptModel": "facewright.systems.quality.retained:RetainedModel",
    "facewright.systems.quality.kept:kept": "facewright.systems.quality.retained:retained_fraction",
    "facewright.systems.quality.kept:kept_after": "facewright.systems.quality.retained:retained_after",
    "facewright.weights.download:Wanted": "facewright.weights.download:DownloadRequest",
}


def resolve(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


@pytest.mark.parametrize("old", MOVED)
def test_moved_names_are_the_new_ones_and_warn(old: str) -> None:
    new = MOVED[old].replace(":", ".")
    with pytest.warns(DeprecationWarning, match=f"^{old.replace(':', '.')} is deprecated; use {new}$"):
        found = resolve(old)
    assert found is resolve(MOVED[old])


def test_other_names_are_still_unknown() -> None:
    with pytest.raises(AttributeError, match=r"module 'facewright\.metrics\.detection' has no attribute 'Wnated'"):
        resolve("facewright.metrics.detection:Wnated")
    with pytest.raises(AttributeError, match="module 'here' has no attribute 'b'"):
        renamed_names("here", {"a": ":c"})("b")


def test_old_attributes_give_the_new_ones() -> None:
    quality = FaceQuality(0.4, 50.0, retained_fraction=0.25)
    with pytest.warns(DeprecationWarning, match=r"^FaceQuality\.kept is deprecated; use retained_fraction$"):
        assert quality.kept == 0.25


def test_old_arguments_reach_the_new_ones() -> None:
    @renamed_arguments(old="new")
    def double(*, new: int) -> int:
        return 2 * new

    with pytest.warns(DeprecationWarning, match="^the argument old of double is deprecated; use new$"):
        assert double(old=3) == 6  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="both 'old' and 'new'"):
        double(old=3, new=4)  # type: ignore[call-arg]
    assert double(new=5) == 10


def test_old_declarations_of_tasks_are_taken() -> None:
    with pytest.warns(DeprecationWarning, match="film"):
        task = Task("a", "b", "c", Shape.EDIT, object, "m:load", "m:Result", None, film="m:video", film_result="m:R")  # type: ignore[call-arg]
    assert (task.video, task.video_result) == ("m:video", "m:R")


def test_old_recipes_load_and_say_the_new_names(tmp_path: Path) -> None:
    file = tmp_path / "old.yaml"
    file.write_text("system: mos\nsteps: 4\nbatch: 3\nclip: 0.5\nfinal_lr: 0.1\ntraining: {}\ndata: {}\n")
    with pytest.warns(DeprecationWarning, match="is deprecated; use") as warned:
        recipe = Recipe.load(file)
    assert (recipe.batch_size, recipe.max_grad_norm, recipe.min_lr_ratio) == (3, 0.5, 0.1)
    assert sorted(str(w.message).rpartition(" ")[2] for w in warned) == ["batch_size", "max_grad_norm", "min_lr_ratio"]
    with pytest.warns(DeprecationWarning, match="batch_size"):
        assert recipe.batch == 3


def test_entries_of_old_recipes_are_found() -> None:
    from facewright.errors import UsageError

    with (
        pytest.warns(DeprecationWarning, match=r"facewright\.data\.large_pose:LargePoseScenes"),
        pytest.raises(UsageError, match="options do not fit LargePoseScenes"),
    ):
        build_entry({"entry": "facewright.data.turned:TurnedScenes", "options": {"no_such_option": 1}})
