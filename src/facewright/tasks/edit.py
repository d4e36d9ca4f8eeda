"""What can be asked of every task that edits faces in place: which faces, how strongly, how they are put back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from .declare import Checked, Opt

Upscale = Literal[1, 2, 4]
Grain = Literal["match", "none"]


@dataclass(frozen=True, slots=True)
class EditOptions(Checked):
    """Options of an edit of faces.

    `faces` and `skip` choose faces by their number: in a photo in reading order, in a video in the order in which they
    appear, as its report lists them. `boxes` choose by a box that holds the face's centre, `points` by a point inside
    the face; in a video a face counts from the moment when it is there.
    """

    upscale: Annotated[Upscale, Opt("Enlarge the whole picture: 1, 2 or 4.")] = 1
    strength: Annotated[float, Opt("Blend with the input: 0 is the input, 1 the edited face.", low=0, high=1)] = 1.0
    faces: Annotated[
        tuple[int, ...] | None,
        Opt("Only these faces, e.g. 0,2 (in reading order; in a video, in order of appearance)."),
    ] = None
    skip: Annotated[tuple[int, ...], Opt("Leave these faces alone.")] = ()
    boxes: Annotated[
        tuple[tuple[float, float, float, float], ...],
        Opt("Only faces inside x0,y0,x1,y1; repeatable.", flag="--box"),
    ] = ()
    points: Annotated[tuple[tuple[float, float], ...], Opt("Only the face at x,y; repeatable.", flag="--point")] = ()
    max_faces: Annotated[int | None, Opt("Maximum number of faces, largest first.", low=1)] = None
    min_score: Annotated[float, Opt("Minimum detection score for editing.", low=0, high=1)] = 0.7
    force: Annotated[bool, Opt("Edit faces that would be left alone, too.")] = False
    watermark: Annotated[bool, Opt("Embed an invisible watermark in edited faces.")] = True
    hair: Annotated[bool, Opt("Edit the hair around the face, too.")] = False
    whole: Annotated[bool, Opt("Edit glasses and hair in front of the face, too.")] = False
    grain: Annotated[
        Grain, Opt("match adds the grain of the surrounding picture to edited faces; none leaves them clean.")
    ] = "match"
