"""What a parsed portrait is good for: other backgrounds, calmer skin, whiter teeth (EasyPortrait, arXiv 2304.13509).

Every function takes an (H, W, 3) uint8 RGB picture and a soft mask (H, W) of what it is about, float in [0, 1], and
returns a new uint8 picture. Where the change has no weight (outside skin and teeth; on the person for backgrounds)
pixels keep their bits. All raise UsageError for pictures and masks of other shapes or types, and for strengths outside
[0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np

from ..errors import UsageError
from ..geometry.similarity import invert
from ..geometry.turns import turned_by, upright, upright_face
from ..io.encode import format_of
from ..io.image import read
from ..io.provenance import Provenance, xmp_packet
from .choosing import sure_faces

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from numpy.typing import NDArray

    from ..face import Face
    from ..io.image import Photo
    from ..tasks.analyse import Parser
    from ..tasks.declare import NetworkChoice, Networks, Task
    from ..tasks.portrait import PortraitOptions

Background = Literal["keep", "blur", "remove", "replace"]

SKIN_RADIUS, SKIN_CONTRAST = 0.012, 0.05
"""Blemishes to smooth: up to this share of the picture's longer side, of less contrast than this share of white."""
_LEAST_TEETH_LIGHT, _LIGHTER, _KEPT_YELLOW = 0.35, 0.2, 0.3
_TEETH_RED, _GUM_RED = 14, 24  # a* of CIE Lab
_CUT_SIDE, _CUT_ROUNDS, _SURE = 320, 4, 0.9


@dataclass(frozen=True, slots=True, eq=False)
class PortraitMasks:
    """Soft masks (H, W) float32 in [0, 1] of the whole person, of skin (without brows, eyes and lips), and of teeth."""

    person: NDArray[np.float32]
    skin: NDArray[np.float32]
    teeth: NDArray[np.float32]

    @classmethod
    def of(cls, probabilities: NDArray[np.float32], classes: Sequence[str]) -> PortraitMasks:
        """From probabilities (C, H, W) of a parser whose classes have these names; a class it lacks has mask 0."""
        return cls(
            person=1 - class_mask(probabilities, classes, ("background",)),
            skin=class_mask(probabilities, classes, ("skin", "nose")),
            teeth=class_mask(probabilities, classes, ("teeth",)),
        )


def photo_masks(image: NDArray[np.uint8], faces: Sequence[Face], parser: Parser) -> PortraitMasks:
    """The masks of a whole photo (H, W, 3) uint8 RGB and its faces.

    A parser of whole photos says it all. One of aligned crops says what is in them; the rest of the person is found by
    a graph cut on colours that starts from there (Rother, Kolmogorov, Blake, "GrabCut", SIGGRAPH 2004), and teeth are
    what is light and not red of a mouth's inside. Raises UsageError where there is no face.
    """
    if not faces:
        raise UsageError("no face was found, so there is nothing to retouch")
    crop = parser.preprocess.crop
    if crop.kind == "whole":
        turn = max(faces, key=lambda face: face.eye_distance).turn
        found = parser.probabilities(upright(image, turn)[None])[0]
        masks = PortraitMasks.of(found, parser.classes)
        return PortraitMasks(*(turned_by(mask, turn) for mask in (masks.person, masks.skin, masks.teeth)))
    shape = image.shape[:2]
    skin, mouth, person = (np.zeros(shape, np.float32) for _ in range(3))
    seen = np.zeros(shape, bool)
    for face in faces:
        cut = crop.cut(image, face)
        matrix = cut.matrix
        found = parser.probabilities(cut.image[None], faces=[face.moved(matrix)])[0]
        _place(skin, class_mask(found, parser.classes, ("skin", "nose")), matrix)
        _place(mouth, class_mask(found, parser.classes, ("mouth", "teeth")), matrix)
        _place(person, 1 - class_mask(found, parser.classes, ("background",)), matrix)
        inner = np.pad(np.ones((crop.size - 4,) * 2, np.uint8), 2)
        seen |= _in_photo(inner, matrix, shape, cv2.INTER_NEAREST) > 0
    return PortraitMasks(_whole_person(image, person, seen, faces), skin, mouth * _like_teeth(image))


def load(session: Networks, task: Task, choice: NetworkChoice) -> Callable[[Photo, PortraitOptions], Portrait]:
    """Detector and parser as a callable of photos."""
    parser, detector = session.chosen(task, choice), session.detector(choice)

    def portrait(photo: Photo, options: PortraitOptions) -> Portrait:
        kept = options.background in ("keep", "blur", "remove")
        if not kept and not Path(options.background).is_file():
            raise UsageError(f"background {options.background!r} is neither keep, blur, remove nor a picture")
        return retouch(
            photo,
            sure_faces(detector.detect(photo.rgb())),
            parser,
            background=options.background if kept else "replace",  # type: ignore[arg-type]
            backdrop=None if kept else read(options.background).rgb(),
            blur=options.blur,
            skin=options.smooth_skin,
            teeth=options.whiten_teeth,
        )

    return portrait


def retouch(
    photo: Photo,
    faces: Sequence[Face],
    parser: Parser,
    *,
    background: Background = "keep",
    backdrop: NDArray[np.uint8] | None = None,
    blur: float = 0.5,
    skin: float = 0.0,
    teeth: float = 0.0,
) -> Portrait:
    """A photo with another background (`backdrop` for "replace"), smoother skin and whiter teeth; strengths in [0, 1].

    Raises UsageError where there is no face, and for "replace" without a backdrop.
    """
    rgb = photo.rgb()
    masks = photo_masks(rgb, faces, parser)
    done = smooth_skin(rgb, masks.skin, strength=skin)
    done = whiten_teeth(done, masks.teeth, strength=teeth)
    if background == "blur":
        done = blur_background(done, masks.person, strength=blur)
    elif background == "replace":
        if backdrop is None:
            raise UsageError("replacing the background needs a backdrop")
        done = replace_background(done, masks.person, backdrop)
    whole = np.ones(rgb.shape[:2], np.float32)
    changed = photo.patched((0, 0, photo.width, photo.height), done.astype(np.float32), whole)
    if background == "remove":
        opacity = np.rint(masks.person * 255).clip(0, 255).astype(np.uint8)
        changed = replace(changed, alpha=_at_depth(opacity, photo.pixels.dtype))
    parameters = {"background": background, "blur": blur, "smooth_skin": skin, "whiten_teeth": teeth}
    return Portrait(changed, tuple(faces), str(getattr(parser, "slug", type(parser).__name__)), parameters)


@dataclass(frozen=True, slots=True, eq=False)
class Portrait:
    """A retouched photo, and what was done to it."""

    image: Photo
    faces: tuple[Face, ...]
    model: str
    parameters: dict[str, Any]

    @property
    def summary(self) -> str:
        """One line for people."""
        return f"portrait of {len(self.faces)} face{'s' * (len(self.faces) != 1)} retouched"

    def report(self, target: str | Path | None = None, *, keep_gps: bool = True) -> dict[str, Any]:
        """Everything but the pixels, ready for JSON; with what the file at `target` cannot hold among the notes."""
        return {
            "source": Path(self.image.source).name,
            "size": [self.image.width, self.image.height],
            "notes": list(self.notes(target, keep_gps=keep_gps)),
            "summary": self.summary,
            "options": dict(self.parameters),
            "models": [self.model],
            "faces": [face.to_dict() for face in self.faces],
        }

    def notes(self, target: str | Path | None = None, *, keep_gps: bool = True) -> tuple[str, ...]:
        """What reading had to change, and what a file at `target` cannot hold."""
        lost = () if target is None else self.image.not_kept(target, keep_gps=keep_gps)
        return (*self.image.notes, *lost)

    def provenance(self) -> Provenance:
        """What was done, for the picture's metadata."""
        from .. import __version__

        boxes = tuple(tuple(float(v) for v in face.box) for face in self.faces)
        return Provenance(
            version=__version__,
            action="edited",
            models=(self.model,),
            faces=boxes,  # type: ignore[arg-type]
            parameters=self.parameters,
        )

    def check_target(self, path: str | Path) -> None:
        """Raise UsageError for a file format that cannot hold the result."""
        if self.parameters["background"] == "remove" and format_of(path) not in ("PNG", "WEBP", "TIFF"):
            raise UsageError(f"{path} cannot be transparent; write a .png, .webp or .tif")

    def save(
        self,
        path: str | Path,
        *,
        overwrite: bool = False,
        quality: int = 95,
        provenance: bool = True,
        keep_gps: bool = True,
    ) -> Path:
        """Write it; what was done is recorded in XMP. A removed background needs PNG, WebP or TIFF (UsageError)."""
        self.check_target(path)
        packet = xmp_packet(self.provenance(), self.image.xmp) if provenance else None
        return self.image.save(path, overwrite=overwrite, quality=quality, xmp=packet, keep_gps=keep_gps)


def _at_depth(opacity: NDArray[np.uint8], dtype: np.dtype[Any]) -> NDArray[Any]:
    return opacity if dtype == np.uint8 else opacity.astype(np.uint16) * 257


def _place(whole: NDArray[np.float32], mask: NDArray[np.float32], matrix: NDArray[np.floating]) -> None:
    """Put a crop's mask where it belongs in the photo's, in place; where faces overlap the larger value stays."""
    np.maximum(whole, _in_photo(mask, matrix, whole.shape, cv2.INTER_LINEAR), out=whole)


def _in_photo(
    mask: NDArray[np.generic], matrix: NDArray[np.floating], shape: tuple[int, ...], how: int
) -> NDArray[np.float32]:
    placed = cv2.warpAffine(np.asarray(mask), invert(matrix), (shape[1], shape[0]), flags=how)
    return np.asarray(placed, np.float32)


def _whole_person(
    image: NDArray[np.uint8], person: NDArray[np.float32], seen: NDArray[np.bool_], faces: Sequence[Face]
) -> NDArray[np.float32]:
    """The person's soft mask where a parser has `seen`, carried on over hair it missed and the rest of the photo."""
    scale = min(1.0, _CUT_SIDE / max(image.shape[:2]))
    size = (max(1, round(scale * image.shape[1])), max(1, round(scale * image.shape[0])))
    small, known, found = (
        cv2.resize(v, size, interpolation=cv2.INTER_AREA) for v in (image, seen.astype(np.float32), person)
    )
    head, body = _reach(faces, scale, (size[1], size[0]))
    hints = np.where(body | (head & (found > 0.5)), cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    hints[(known > _SURE) & (found < 1 - _SURE) & ~head & ~body] = cv2.GC_BGD
    hints[found > _SURE] = cv2.GC_FGD
    backgrounds = np.isin(hints, (cv2.GC_BGD, cv2.GC_PR_BGD))
    if backgrounds.all() or not backgrounds.any():
        return person
    cv2.setRNGSeed(0)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(np.ascontiguousarray(small), hints, (0, 0, 1, 1), *models, _CUT_ROUNDS, cv2.GC_INIT_WITH_MASK)
    cut = np.isin(hints, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8)
    closed = np.asarray(cv2.morphologyEx(cut, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8)), np.uint8)
    near = np.asarray(head | body | (found > 0.5), bool)
    soft = cv2.GaussianBlur((closed * _touching(closed, near)).astype(np.float32), (0, 0), 0.8)
    whole = np.asarray(cv2.resize(soft, image.shape[1::-1], interpolation=cv2.INTER_LINEAR), np.float32)
    return np.clip(np.maximum(whole, np.where(person > 0.5, person, 0)), 0, 1)


def _touching(cut: NDArray[np.uint8], place: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The connected parts of a cut that reach a place: others only have the person's colours."""
    _, parts = cv2.connectedComponents(cut)
    return np.isin(parts, np.unique(parts[place]))


def _reach(faces: Sequence[Face], scale: float, shape: tuple[int, int]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Where hair is likely to be, around each face, and shoulders and chest: below it, three faces wide."""
    head, body = np.zeros(shape, bool), np.zeros(shape, bool)
    for face in faces:
        in_view = upright(head, face.turn).shape  # above and below are the face's own
        found = _reach_upright(upright_face(face.scaled(scale), shape), in_view)
        head |= turned_by(found[0], face.turn)
        body |= turned_by(found[1], face.turn)
    return head, body


def _reach_upright(face: Face, shape: tuple[int, ...]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    x0, y0, x1, y1 = (float(v) for v in face.box)
    width, height = x1 - x0, y1 - y0
    ys, xs = np.mgrid[: shape[0], : shape[1]]
    middle, half = ((x0 + x1) / 2, (y0 + y1) / 2 - 0.2 * height), (0.85 * width, 0.95 * height)
    head = ((xs - middle[0]) / half[0]) ** 2 + ((ys - middle[1]) / half[1]) ** 2 < 1
    left, right = max(0, round(x0 - width)), max(0, round(x1 + width))
    body = np.zeros(shape, bool)
    body[max(0, round(y1 + 0.15 * height)) :, left:right] = True
    return np.asarray(head, bool), body


def _like_teeth(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(H, W) in [0, 1] how far a pixel is from the red of gums and tongue."""
    lab = np.asarray(cv2.cvtColor(np.asarray(image, np.float32) / np.float32(255), cv2.COLOR_RGB2LAB))
    return np.clip((_GUM_RED - lab[..., 1]) / (_GUM_RED - _TEETH_RED), 0, 1).astype(np.float32)


def class_mask(
    probabilities: NDArray[np.float32], classes: Sequence[str], names: Collection[str]
) -> NDArray[np.float32]:
    """(H, W) float32 in [0, 1]: the probability that a pixel is of one of the named classes."""
    if probabilities.ndim != 3 or len(probabilities) != len(classes):
        raise UsageError(f"probabilities must be ({len(classes)}, H, W), not {probabilities.shape}")
    chosen = [index for index, name in enumerate(classes) if name in names]
    return np.asarray(np.clip(probabilities[chosen].sum(0), 0, 1), np.float32)


def remove_background(image: NDArray[np.uint8], person: NDArray[np.floating]) -> NDArray[np.uint8]:
    """(H, W, 4) RGBA: the picture with the person's mask as its opacity; colours are not premultiplied."""
    _check(image, person)
    opacity = np.rint(person * 255).clip(0, 255).astype(np.uint8)
    return np.dstack([image, opacity])


def replace_background(
    image: NDArray[np.uint8], person: NDArray[np.floating], backdrop: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """The person before another picture (h, w, 3) uint8, which is scaled to cover and cut in its middle."""
    _check(image, person)
    if backdrop.ndim != 3 or backdrop.shape[2] != 3 or backdrop.dtype != np.uint8 or not backdrop.size:
        raise UsageError(f"the new background must be uint8 (H, W, 3), not {backdrop.dtype} {backdrop.shape}")
    return _mixed(image, _covering(backdrop, *image.shape[:2]).astype(np.float32), 1 - person)


def blur_background(
    image: NDArray[np.uint8], person: NDArray[np.floating], *, strength: float = 0.5
) -> NDArray[np.uint8]:
    """The background out of focus; `strength` 1 is a blur of 5 % of the picture's longer side.

    Only background is averaged, so that the person leaves no halo of its colours.
    """
    _check(image, person, strength)
    sigma = 0.05 * strength * max(image.shape[:2])
    if sigma < 0.1:
        return image.copy()
    weight = (1 - person).astype(np.float32)
    light = cv2.GaussianBlur(image.astype(np.float32) * weight[..., None], (0, 0), sigma)
    share = np.asarray(cv2.GaussianBlur(weight, (0, 0), sigma))[..., None]
    blurred = np.where(share > 1e-4, light / np.maximum(share, 1e-4), image)
    return _mixed(image, blurred, weight)


def smooth_skin(image: NDArray[np.uint8], skin: NDArray[np.floating], *, strength: float = 0.5) -> NDArray[np.uint8]:
    """Small blemishes of low contrast evened out by a guided filter (He, Sun, Tang, ECCV 2010); edges stay.

    `strength` 1 takes all of the filter's result, 0.5 half of it.
    """
    _check(image, skin, strength)
    radius = max(1, round(SKIN_RADIUS * max(image.shape[:2])))
    calm = _guided(image.astype(np.float32), radius, (SKIN_CONTRAST * 255) ** 2)
    return _mixed(image, calm, skin * strength)


def whiten_teeth(image: NDArray[np.uint8], teeth: NDArray[np.floating], *, strength: float = 0.5) -> NDArray[np.uint8]:
    """Teeth less yellow and a little lighter, in CIE Lab: b* down by up to 70 %, L* up by a fifth of what white lacks.

    Shadow between teeth stays as dark as it is.
    """
    _check(image, teeth, strength)
    unit = np.asarray(image, np.float32) / np.float32(255)
    light, green_red, blue_yellow = np.moveaxis(np.asarray(cv2.cvtColor(unit, cv2.COLOR_RGB2LAB), np.float32), -1, 0)
    lit = np.clip((light / 100 - _LEAST_TEETH_LIGHT) / _LEAST_TEETH_LIGHT, 0, 1)
    lighter = light + _LIGHTER * (100 - light) * lit
    paler = np.where(blue_yellow > 0, blue_yellow * (1 - (1 - _KEPT_YELLOW) * lit), blue_yellow)
    white = cv2.cvtColor(np.dstack([lighter, green_red, paler]).astype(np.float32), cv2.COLOR_LAB2RGB)
    return _mixed(image, np.asarray(white, np.float32) * 255, teeth * strength)


def _mixed(image: NDArray[np.uint8], changed: NDArray[np.floating], weight: NDArray[np.floating]) -> NDArray[np.uint8]:
    """The change by its weight; pixels of weight 0 keep their bits."""
    out = image.copy()
    share = weight[..., None]
    mixed = np.rint(image + share * (changed - image)).clip(0, 255).astype(np.uint8)
    np.copyto(out, mixed, where=share > 0)
    return out


def _guided(image: NDArray[np.float32], radius: int, noise: float) -> NDArray[np.float32]:
    """Guided filter of a picture by itself, channel by channel: means where the variance is under `noise`."""

    def mean(values: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(cv2.blur(values, (2 * radius + 1, 2 * radius + 1)), np.float32)

    average = mean(image)
    variance = np.maximum(mean(image * image) - average * average, 0)
    slope = np.asarray(variance / (variance + noise), np.float32)
    return np.asarray(mean(slope) * image + mean(average * (1 - slope)), np.float32)


def _covering(backdrop: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """The middle of a picture, scaled so that it just fills (height, width)."""
    scale = max(height / backdrop.shape[0], width / backdrop.shape[1])
    high, wide = (max(side, round(scale * old)) for side, old in zip((height, width), backdrop.shape))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    scaled = np.asarray(cv2.resize(backdrop, (wide, high), interpolation=how), np.uint8)
    top, left = (high - height) // 2, (wide - width) // 2
    return scaled[top : top + height, left : left + width]


def _check(image: NDArray[np.uint8], mask: NDArray[np.floating], strength: float = 1.0) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise UsageError(f"a portrait must be uint8 (H, W, 3), not {image.dtype} {image.shape}")
    if mask.shape != image.shape[:2] or not np.issubdtype(mask.dtype, np.floating):
        raise UsageError(f"a mask must be float {image.shape[:2]}, not {mask.dtype} {mask.shape}")
    if not 0 <= mask.min() <= mask.max() <= 1 or not 0 <= strength <= 1:
        raise UsageError("masks and strengths must lie in 0..1")
