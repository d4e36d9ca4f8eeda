"""Retouch a portrait: background, skin, teeth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from .declare import Checked, Opt, Shape, Task
from .records import PortraitRecord


@dataclass(frozen=True, slots=True)
class PortraitOptions(Checked):
    """What a user can ask for; `background` is keep, blur, remove, or the path of a picture that replaces it."""

    background: Annotated[
        str, Opt("keep, blur, remove, or a picture that replaces it.", choices=("keep", "blur", "remove"), picture=True)
    ] = "keep"
    blur: Annotated[float, Opt("Strength of the background blur.", low=0, high=1)] = 0.5
    smooth_skin: Annotated[float, Opt("Strength of skin smoothing.", low=0, high=1)] = 0.0
    whiten_teeth: Annotated[float, Opt("Strength of teeth whitening.", low=0, high=1)] = 0.0


TASKS = (
    Task(
        name="portrait",
        verb="portrait",
        summary="Blur, remove or replace the background of a portrait, smooth skin, whiten teeth.",
        shape=Shape.EDIT,
        options=PortraitOptions,
        load="facewright.pipelines.portrait:load",
        result="facewright.pipelines.portrait:Portrait",
        record=PortraitRecord,
        default="segface",
        systems="parse",
        needs=("detector",),
        media=("photo",),
        guide="guides/analyse.md",
    ),
)
