"""Every pipeline that asks a parser takes every parser, whatever part of a photo it looks at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from facewright.face import Landmarks
from facewright.io.image import read
from facewright.pipelines.analyse import Analyser
from facewright.pipelines.portrait import photo_masks
from facewright.pipelines.restore import RestoreOptions, RestorePipeline
from facewright.systems.base import system_class
from facewright.tasks.card import cards

if TYPE_CHECKING:
    from types import SimpleNamespace

SMALL: dict[str, dict[str, Any]] = {
    "easyportrait": {"size": 64},
    "rtnet": {"size": 65, "width": 8},
    "segface": {"size": 64},
    "segface on LaPa": {"size": 64, "labels": "lapa", "warp": True},
    "bisenet": {"size": 64},
    "parsenet": {"size": 64},
}
"""Configurations of parsers that are small enough for a test."""


def parser_of(name: str) -> Any:
    cls = system_class(name.partition(" ")[0])
    base = cls.Config.compact() if hasattr(cls.Config, "compact") else cls.Config()
    fields = {**vars(base), **SMALL[name]}
    torch.manual_seed(0)
    return cls(type(base)(**fields)).eval()


def test_every_parser_is_tried() -> None:
    assert {name.partition(" ")[0] for name in SMALL} == {c.slug for c in cards().values() if "parse" in c.tasks}


class Landmarker:
    def locate(self, image: np.ndarray, faces: Any) -> list[Landmarks]:
        return [Landmarks(np.repeat(face.points5, 14, 0)[:68], np.ones(68, np.float32)) for face in faces]


@pytest.mark.parametrize("name", SMALL)
def test_the_pipelines_take_it(name: str, fakes: SimpleNamespace) -> None:
    parser = parser_of(name)
    faces = [fakes.face_at((60, 60), 24), fakes.face_at((150, 70), 20, angle=90, turn=90)]
    photo = read(fakes.textured(120, 200))
    for analysis in Analyser(fakes.Detector(*faces), Landmarker(), parser)(photo):
        assert analysis.mask is not None
        assert analysis.mask.in_photo((120, 200)).shape == (120, 200)
    masks = photo_masks(photo.rgb(), faces, parser)
    assert masks.person.shape == (120, 200)
    assert 0 <= masks.skin.min() <= masks.skin.max() <= 1
    result = RestorePipeline(fakes.Detector(*faces), fakes.Restorer(64), parser=parser)(photo, RestoreOptions())
    assert result.restored_count == 2
