"""Fill holes in photos, inside faces by what faces look like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Protocol, runtime_checkable

from ..errors import UsageError
from .declare import Checked, Opt, Shape, Task, paths_of
from .records import InpaintRecord

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from .card import Preprocess

PARTS: Mapping[str, tuple[str, ...]] = {
    "glasses": ("eye_g",),
    "hat": ("hat",),
    "earrings": ("ear_r",),
    "necklace": ("neck_l",),
    "eyes": ("l_eye", "r_eye"),
    "brows": ("l_brow", "r_brow"),
    "nose": ("nose",),
    "mouth": ("mouth", "teeth", "u_lip", "l_lip", "lips"),
    "hair": ("hair",),
    "face": ("skin", "nose", "mouth", "teeth", "u_lip", "l_lip", "lips", "l_eye", "r_eye", "l_brow", "r_brow", "eye_g"),
}
"""Words for a mask, and the classes of a parser that each means."""
DAMAGE = "damage"


@runtime_checkable
class Filler(Protocol):
    """Fills holes in aligned face crops."""

    @property
    def preprocess(self) -> Preprocess: ...

    def fill(self, crops: NDArray[np.uint8], holes: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """(N, S, S, 3) uint8 RGB crops and (N, S, S) holes, true where pixels are lost, to crops drawn whole.

        Outside the holes a crop is what the network makes of it, near the given one: the caller puts hole and picture
        together, and can tell by the rim how well they fit.
        """
        ...


@runtime_checkable
class PersonalFiller(Filler, Protocol):
    """A filler that also takes other photos of the person, and words."""

    def fill_by(
        self,
        crops: NDArray[np.uint8],
        holes: NDArray[np.bool_],
        references: Sequence[NDArray[np.uint8]],
        *,
        prompt: str = "",
        seed: int | None = None,
    ) -> NDArray[np.uint8]:
        """As `fill`, with references (R, S, S, 3) uint8 RGB for every crop, cut as the crops are; R may be 0.

        `prompt` says in words what is wanted; "" for nothing in particular.
        """
        ...

    def personalised(self, references: NDArray[np.uint8], *, seed: int | None = None) -> PersonalFiller:
        """Another filler that has learnt the person of (R, S, S, 3) uint8 RGB references."""
        ...


@dataclass(frozen=True, slots=True)
class InpaintOptions(Checked):
    """Where the hole is, and how it is filled.

    The hole is what `mask` and `boxes` cover together; one of them is needed. `mask` is a picture of the photo's size,
    white where it is to be filled, or a word: damage (of a print), or a part of the faces. `references` also takes a
    list, and paths that are no strings; the embedded network takes none: it fills by what faces look like, not by who
    it is.
    """

    mask: Annotated[
        str | None,
        Opt(
            "A picture, white in the hole; or damage, or a part of faces such as glasses.",
            choices=(DAMAGE, *PARTS),
            picture=True,
        ),
    ] = None
    boxes: Annotated[
        tuple[tuple[float, float, float, float], ...],
        Opt("Fill the box x0,y0,x1,y1, in pixels; repeatable.", flag="--box"),
    ] = ()
    faces: Annotated[
        tuple[int, ...] | None, Opt("With a mask that is a part of faces: only these, e.g. 0,2 (in reading order).")
    ] = None
    references: Annotated[
        tuple[str, ...],
        Opt(
            "Another photo of the same person, or a folder of them; repeatable. Needs the model pva.",
            flag="--reference",
            picture=True,
        ),
    ] = ()
    prompt: Annotated[str, Opt("What to draw, in words, such as 'smiling'. Needs the model pva.")] = ""
    personalise: Annotated[bool, Opt("With references: learn the person from them first, by forty steps.")] = False
    seed: Annotated[int | None, Opt("Seed of the noise of models that draw any, such as pva.")] = None
    watermark: Annotated[bool, Opt("Embed an invisible watermark in filled faces.")] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "references", paths_of(self.references))
        object.__setattr__(self, "mask", None if self.mask is None else str(self.mask))
        Checked.__post_init__(self)
        for box in self.boxes:
            x0, y0, x1, y1 = box
            if not (x0 < x1 and y0 < y1):
                raise UsageError(
                    f"the box {x0:g},{y0:g},{x1:g},{y1:g} is empty; give x0,y0,x1,y1 with x0 < x1, y0 < y1"
                )
        if self.faces is not None and self.mask not in PARTS:
            raise UsageError("faces can be chosen only where the mask is a part of faces, such as glasses")
        if self.personalise and not self.references:
            raise UsageError("to personalise needs other photos of the person; add references")
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise UsageError(f"seed {self.seed} is not possible; choose a whole number, 0 or more")


TASKS = (
    Task(
        name="inpaint",
        verb="inpaint",
        summary="Fill a hole in a photo: a box, a painted mask, glasses, the damage of a print.",
        shape=Shape.EDIT,
        options=InpaintOptions,
        load="facewright.pipelines.inpaint:load",
        result="facewright.pipelines.inpaint:Inpainted",
        record=InpaintRecord,
        default="facefill",
        protocol=Filler,
        needs=("detector", "parser", "damage_finder"),
        media=("photo",),
        dtype=True,
        metrics=("PSNR", "perceptual distance", "identity similarity", "landmark distance"),
        guide="guides/inpaint.md",
        title="Fill holes in faces",
    ),
)
