"""Restore the faces of a photo or video."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Protocol, runtime_checkable

from ..errors import UsageError
from .declare import Checked, Opt, Shape, Task, paths_of
from .edit import EditOptions
from .records import RestoreRecord

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from .card import Preprocess


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


@runtime_checkable
class ReferenceRestorer(Restorer, Protocol):
    """A restorer that also takes other photos of the person."""

    def restore_by(
        self,
        crops: NDArray[np.uint8],
        references: Sequence[NDArray[np.uint8]] | None,
        *,
        seed: int | None = None,
    ) -> NDArray[np.uint8]:
        """As `restore`, with references (R, S, S, 3) uint8 RGB for every crop, cut as the crops are; R may differ."""
        ...


@dataclass(frozen=True, slots=True)
class RestoreOptions(EditOptions):
    """What a user can ask for: which faces and how they are put back (`EditOptions`), and how they are restored.

    Without `seed` the noise is as trained. `references` also takes a list, and paths that are no strings.
    """

    fidelity: Annotated[float, Opt("1 stays closest to the input, 0 relies on the prior.", low=0, high=1)] = 1.0
    seed: Annotated[int | None, Opt("Seed of the generator's noise; default: the noise it was trained with.")] = None
    relight: Annotated[bool, Opt("Take lighting and colours from the restorer.")] = False
    old_photo: Annotated[
        bool, Opt("Repair an old print: inpaint damage, restore faded contrast, remove a colour cast.")
    ] = False
    scratches: Annotated[bool, Opt("With --old-photo: find and inpaint scratches, folds and tears.")] = True
    tones: Annotated[bool, Opt("With --old-photo: restore faded contrast and remove a colour cast.")] = True
    damage_mask: Annotated[
        str | None, Opt("With --old-photo: mask of the damage (white) to use instead of finding it.", picture=True)
    ] = None
    references: Annotated[
        tuple[str, ...],
        Opt(
            "Another photo of the same person, or a folder of them; repeatable. Needs refldm or restorerid.",
            flag="--reference",
            picture=True,
        ),
    ] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "references", paths_of(self.references))
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
        needs=("detector", "parser", "recogniser", "background", "damage_finder"),
        media=("photo", "folder", "video"),
        video="facewright.pipelines.restore_video:restore_video",
        video_result="facewright.pipelines.restore_video:VideoRestoreResult",
        dtype=True,
        compares=True,
        finds_damage=True,
        metrics=("PSNR", "SSIM", "perceptual distance", "identity similarity", "landmark distance"),
        guide="guides/restore-a-photo.md",
        title="Restore faces",
    ),
)
