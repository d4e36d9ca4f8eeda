"""Restore the faces of a photo or video."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, Protocol, runtime_checkable

from ..errors import UsageError
from .declare import Checked, Opt, Shape, Task
from .records import RestoreRecord

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .card import Preprocess

Upscale = Literal[1, 2, 4]
Grain = Literal["match", "none"]


@runtime_checkable
class Restorer(Protocol):
    """Restores aligned face crops."""

    @property
    def preprocess(self) -> Preprocess: ...

    def restore(self, crops: NDArray[np.uint8], *, fidelity: float = 1.0, seed: int | None = None) -> NDArray[np.uint8]:
        """(N, S, S, 3) uint8 RGB crops to restored crops of the same shape.

        `fidelity` in [0, 1]: 1 stays closest to the input, less leans more on what faces usually look like. `seed`
        draws the network's noise anew, the same for every crop; None takes it as trained. What a network cannot do is
        a UsageError.
        """
        ...


@runtime_checkable
class DamageFinder(Protocol):
    """Finds where a print is damaged."""

    def find(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(H, W, 3) uint8 RGB of any size to the probability (H, W) that a pixel is lost."""
        ...


@dataclass(frozen=True, slots=True)
class RestoreOptions(Checked):
    """What a user can ask for.

    `faces`, `boxes` and `points` choose faces by index in reading order, by a box that holds their centre, or by a
    point inside them; they work for photos, not for videos. Without `seed` the noise is as trained.
    """

    upscale: Annotated[Upscale, Opt("Enlarge the whole picture: 1, 2 or 4.")] = 1
    fidelity: Annotated[float, Opt("1 stays closest to the input, 0 relies on the prior.", low=0, high=1)] = 1.0
    strength: Annotated[float, Opt("Blend with the input: 0 is the input, 1 the restored face.", low=0, high=1)] = 1.0
    faces: Annotated[tuple[int, ...] | None, Opt("Only these faces, e.g. 0,2 (in reading order).")] = None
    skip: Annotated[tuple[int, ...], Opt("Leave these faces alone.")] = ()
    boxes: Annotated[
        tuple[tuple[float, float, float, float], ...],
        Opt("Only faces inside x0,y0,x1,y1; repeatable.", flag="--box"),
    ] = ()
    points: Annotated[tuple[tuple[float, float], ...], Opt("Only the face at x,y; repeatable.", flag="--point")] = ()
    max_faces: Annotated[int | None, Opt("Maximum number of faces, largest first.", low=1)] = None
    min_score: Annotated[float, Opt("Minimum detection score for restoring.", low=0, high=1)] = 0.7
    force: Annotated[bool, Opt("Restore faces that would be left alone, too.")] = False
    watermark: Annotated[bool, Opt("Embed an invisible watermark in restored faces.")] = True
    seed: Annotated[int | None, Opt("Seed of the generator's noise; default: the noise it was trained with.")] = None
    hair: Annotated[bool, Opt("Restore the hair around the face, too.")] = False
    whole: Annotated[bool, Opt("Restore glasses and hair in front of the face, too.")] = False
    relight: Annotated[bool, Opt("Take lighting and colours from the restorer.")] = False
    grain: Annotated[
        Grain, Opt("match adds the grain of the surrounding picture to restored faces; none leaves them clean.")
    ] = "match"
    old_photo: Annotated[
        bool, Opt("Repair an old print: inpaint damage, restore faded contrast, remove a colour cast.")
    ] = False
    scratches: Annotated[bool, Opt("With --old-photo: find and inpaint scratches, folds and tears.")] = True
    tones: Annotated[bool, Opt("With --old-photo: restore faded contrast and remove a colour cast.")] = True
    damage_mask: Annotated[
        str | None, Opt("With --old-photo: mask of the damage (white) to use instead of finding it.")
    ] = None

    def __post_init__(self) -> None:
        Checked.__post_init__(self)
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise UsageError(f"seed {self.seed} is not possible; choose a whole number, 0 or more")
        steps = {"damage_mask": self.damage_mask is not None, "no-scratches": not self.scratches}
        given = [name for name, used in (steps | {"no-tones": not self.tones}).items() if used]
        if given and not self.old_photo:
            raise UsageError(f"{given[0].replace('_', '-')} is part of --old-photo; add --old-photo")
        if self.damage_mask is not None and not self.scratches:
            raise UsageError("a damage mask has no effect with --no-scratches; omit one of them")


TASKS = (
    Task(
        name="restore",
        verb="restore",
        summary="Restore the faces in a photo, a video, or everything in a folder.",
        shape=Shape.EDIT,
        options=RestoreOptions,
        load="facewright.pipelines.restore:load",
        result="facewright.pipelines.restore:RestoreResult",
        record=RestoreRecord,
        default="facedetail",
        protocol=Restorer,
        needs=("detector", "parser", "recogniser", "background"),
        media=("photo", "folder", "video"),
        video="facewright.pipelines.restore_video:restore_video",
        video_result="facewright.pipelines.restore_video:VideoRestoreResult",
        dtype=True,
        compares=True,
        metrics=("PSNR", "SSIM", "perceptual distance", "identity similarity", "landmark distance"),
        guide="guides/restore-a-photo.md",
        title="Restore faces",
    ),
)
