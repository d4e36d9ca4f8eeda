"""Fill a hole in a photo: around faces from what surrounds it, in faces by a network that knows faces.

The hole is known to the pixel, and nothing outside it changes. Every pixel of it is first filled from around
(`pipelines.old_photo`). Then each face whose crop the hole touches is drawn by the network, fitted to the picture along
the hole's rim, restored to the picture's detail, and put into the hole; where a hole is as thin as a scratch, what
surrounds it says more than a network does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from ..errors import UsageError
from ..geometry.crop import align_matrix
from ..geometry.paste import FacePatch, border_fade, face_mask
from ..geometry.resample import crop_by_matrix, resampled
from ..geometry.similarity import invert
from ..io.image import Photo, read
from ..io.provenance import Provenance, detect_face_watermark, xmp_packet
from ..tasks.inpaint import DAMAGE, PARTS, PersonalFiller
from .choosing import sure_faces
from .edit import marked
from .grain import with_grain
from .old_photo import filled_from_around, found_damage, with_rim
from .order import reading_order
from .references import ReferenceDesk, reference_networks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ..face import Face, FaceCrop
    from ..tasks.analyse import Parser
    from ..tasks.declare import NetworkChoice, Networks, Task
    from ..tasks.detect import Detector
    from ..tasks.inpaint import Filler, InpaintOptions
    from ..tasks.restore import DamageFinder, Restorer

    Image = NDArray[np.uint8]
    Hole = NDArray[np.bool_]

THIN = 0.06
"""Eye distances: half the width of a hole below which it is filled from around, in a face as well."""
_PART = 0.4  # probability from which a pixel belongs to a part of the face that is to be filled
_PART_RIM = 0.06  # eye distances around such a part: its edge and its shadow
_WIDE = 100.0  # px from the rim of a hole to its middle, from which a smaller copy is filled
_RIM = 6  # px of the crop: how far around a hole picture and drawing are compared


@dataclass(frozen=True, slots=True, eq=False)
class FilledFace:
    """A face of the photo, and what share of its crop was filled.

    `drawn` says whether the network drew a part of it, or all was filled from around; `mark` whether the invisible mark
    can be found in it.
    """

    index: int
    face: Face
    share: float
    drawn: bool = False
    mark: bool = False
    references: tuple[str, ...] = ()

    @property
    def filled(self) -> bool:
        return self.share > 0

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and words, ready for JSON."""
        return {
            "index": self.index,
            **self.face.to_dict(),
            "filled": self.filled,
            "share": round(self.share, 4),
            "drawn": self.drawn,
            "mark": self.mark,
            "references": list(self.references),
        }


@dataclass(frozen=True, slots=True, eq=False)
class Inpainted:
    """A photo with a hole (H, W) filled, and what was done."""

    original: Photo
    image: Photo
    hole: Hole
    faces: tuple[FilledFace, ...]
    model: str
    checkpoint: str | None
    options: InpaintOptions
    reference_notes: tuple[str, ...] = ()

    @property
    def box(self) -> tuple[int, int, int, int]:
        """The box around the hole, right and lower edge exclusive."""
        rows, columns = (np.flatnonzero(self.hole.any(axis)) for axis in (1, 0))
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1

    @property
    def summary(self) -> str:
        """One line for people."""
        drawn = [face for face in self.faces if face.drawn]
        line = f"{100 * self.hole.mean():.2g} % of the picture filled"
        if not drawn:
            touched = any(face.filled for face in self.faces)
            return f"{line} from around" + ("" if touched else "; no face is touched")
        numbers = ", ".join(str(face.index) for face in drawn)
        which = f"face {numbers}" if len(drawn) == 1 else f"faces {numbers}"
        return f"{line}; what is new in {which} is invented by {self.model}"

    def notes(self, target: str | Path | None = None, *, keep_gps: bool = True) -> tuple[str, ...]:
        """What reading had to change, and what a file at `target` cannot hold."""
        lost = () if target is None else self.image.not_kept(target, keep_gps=keep_gps)
        return (*self.original.notes, *self.reference_notes, *lost)

    def report(self, target: str | Path | None = None, *, keep_gps: bool = True) -> dict[str, Any]:
        """Everything but the pixels, ready for JSON; with what the file at `target` cannot hold among the notes."""
        return {
            "source": Path(self.original.source).name,
            "size": [self.original.width, self.original.height],
            "notes": list(self.notes(target, keep_gps=keep_gps)),
            "summary": self.summary,
            "options": self._parameters(),
            "models": list(self._models()),
            "hole": {
                "pixels": int(self.hole.sum()),
                "share": round(float(self.hole.mean()), 6),
                "box": list(self.box),
            },
            "faces": [face.to_dict() for face in self.faces],
        }

    def _models(self) -> tuple[str, ...]:
        return (self.model,) if any(face.drawn for face in self.faces) else ()

    def _parameters(self) -> dict[str, Any]:
        options = self.options
        return {
            "mask": options.mask if options.mask in (None, DAMAGE, *PARTS) else Path(str(options.mask)).name,
            "boxes": [list(box) for box in options.boxes],
            "faces": None if options.faces is None else list(options.faces),
            "references": len(options.references),
            "prompt": options.prompt,
            "personalise": options.personalise,
            "seed": options.seed,
            "watermark": options.watermark,
        }

    def provenance(self) -> Provenance:
        """What was done, for the picture's metadata: filled faces are synthesised in part."""
        from .. import __version__

        boxes = tuple(tuple(float(v) for v in face.face.box) for face in self.faces if face.filled)
        return Provenance(
            version=__version__,
            action="inpainted",
            models=self._models(),
            checkpoint=self.checkpoint if self._models() else None,
            faces=boxes,  # type: ignore[arg-type]
            parameters={**self._parameters(), "hole": list(self.box)},
        )

    def save(
        self,
        path: str | Path,
        *,
        overwrite: bool = False,
        quality: int = 95,
        provenance: bool = True,
        keep_gps: bool = True,
    ) -> Path:
        """Write it; that a part of it was made up is recorded in XMP.

        What lies outside the hole has the original's bits in formats without loss; JPEG and its like compress anew.
        """
        packet = xmp_packet(self.provenance(), self.original.xmp) if provenance else None
        return self.image.save(path, overwrite=overwrite, quality=quality, xmp=packet, keep_gps=keep_gps)


@dataclass(frozen=True, slots=True, eq=False)
class _Person:
    """Who fills: the network, the references' crops (R, S, S, 3) or None, their names, and notes about them."""

    filler: Filler
    crops: Image | None
    names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def drawn(self, crop: Image, lost: Hole, options: InpaintOptions) -> Image:
        """A crop (S, S, 3) as the network draws it."""
        if not isinstance(self.filler, PersonalFiller):
            return np.asarray(self.filler.fill(crop[None], lost[None])[0])
        crops = crop[None][:0] if self.crops is None else self.crops
        drawn = self.filler.fill_by(crop[None], lost[None], [crops], prompt=options.prompt, seed=options.seed)
        return np.asarray(drawn[0])


class InpaintPipeline:
    """The networks that fill holes, loaded once and used on many photos.

    `restorers` give what is drawn the detail of larger crops, one after the other, as far as the photo has so much
    itself; without any it stays as soft as the filler draws it.
    `references` reads other photos of the person, for fillers that take them.
    """

    def __init__(
        self,
        detector: Detector,
        filler: Filler,
        parser: Parser | None = None,
        damage_finder: DamageFinder | None = None,
        restorers: Sequence[Restorer] = (),
        references: ReferenceDesk | None = None,
    ) -> None:
        self.detector, self.filler, self.parser = detector, filler, parser
        self.damage_finder, self.restorers, self.references = damage_finder, tuple(restorers), references

    def __call__(self, photo: Photo, options: InpaintOptions) -> Inpainted:
        """Fill one photo. UsageError for masks that are empty, full or of another size, and for impossible wishes."""
        slug = str(getattr(self.filler, "slug", type(self.filler).__name__))
        _check_wishes(self.filler, slug, options)
        rgb = photo.rgb()
        faces = reading_order(sure_faces(self.detector.detect(rgb)))
        hole = self._hole(rgb, faces, options)
        base = _filled(rgb, hole)
        if not any(_share(face, hole) for face in faces):  # a face may be seen only when its hole is closed
            faces = reading_order([*faces, *(f for f in self._closed(base) if _is_new(f, faces))])
        person = self._person(options)
        filled, owner, drawn = [], _owners(faces, hole), base
        for index, face in enumerate(faces):
            part = hole & (owner == index)
            patch, share = self._patch(base, face, hole, part, person, options)
            if patch is not None:
                drawn = _pasted(drawn, with_grain(patch, base), part)
            names = person.names if patch is not None else ()
            filled.append(FilledFace(index, face, share, patch is not None, references=names))
        image = photo.patched(_whole(photo), drawn.astype(np.float32), hole.astype(np.float32))
        told = tuple(self._marked(face, image, options) for face in filled)
        checkpoint = getattr(self.filler, "weights_sha256", None)
        return Inpainted(photo, image, hole, told, slug, checkpoint, options, person.notes)

    def _person(self, options: InpaintOptions) -> _Person:
        """The filler as the references make it. UsageError where none of them can be used."""
        if not options.references:
            return _Person(self.filler, None)
        if self.references is None or not isinstance(self.filler, PersonalFiller):
            raise UsageError("this pipeline reads no references; omit them")
        found = self.references.gather(options.references)
        used, others = found.people[0], found.people[1:]
        crops = np.stack([face.crop for face in used])
        filler = self.filler.personalised(crops, seed=options.seed) if options.personalise else self.filler
        notes = [f"reference {name} was not used: {why}" for name, why in found.unusable.items()]
        notes += [f"reference {face.name} was not used: it seems to show somebody else" for p in others for face in p]
        return _Person(filler, crops, tuple(face.name for face in used), (*found.notes, *notes))

    def _closed(self, base: Image) -> list[Face]:
        return sure_faces(self.detector.detect(base))

    @staticmethod
    def _marked(face: FilledFace, image: Photo, options: InpaintOptions) -> FilledFace:
        if not (face.drawn and options.watermark):
            return face
        return replace(face, mark=detect_face_watermark(image.rgb(), face.face.points5).present)

    # --- the hole

    def _hole(self, rgb: Image, faces: Sequence[Face], options: InpaintOptions) -> Hole:
        """(H, W) of what is to be filled."""
        if options.mask is None and not options.boxes:
            raise UsageError("say what is to be filled: --mask with a picture or a word such as glasses, or --box")
        hole = np.zeros(rgb.shape[:2], bool)
        for box in options.boxes:
            hole |= _box(box, rgb.shape[:2])
        if options.mask == DAMAGE:
            if self.damage_finder is None:
                raise UsageError("this pipeline has no network that finds damage; give a mask")
            found = found_damage(rgb, self.damage_finder, lambda: faces)
            if not (found.any() or hole.any()):
                raise UsageError("no damage was found, so there is nothing to fill; paint a mask if you see some")
            hole |= with_rim(found) if found.any() else found
        elif options.mask in PARTS:
            hole |= self._part(rgb, faces, str(options.mask), options.faces)
        elif options.mask is not None:
            hole |= mask_of(options.mask, rgb.shape[:2])
        if hole.all():
            raise UsageError("the mask covers the whole picture, so there is nothing to fill it from")
        if not hole.any():
            raise UsageError("the mask is empty, so there is nothing to fill; paint white what is to be filled")
        return hole

    def _part(self, rgb: Image, faces: Sequence[Face], word: str, chosen: Sequence[int] | None) -> Hole:
        """Where the faces show a part such as glasses, with a rim."""
        if self.parser is None:
            raise UsageError("this pipeline has no parser; give a mask")
        classes = [number for number, name in enumerate(self.parser.classes) if name in PARTS[word]]
        if not classes:
            raise UsageError(f"this parser knows no {word}; choose another, such as segface")
        if not faces:
            raise UsageError(f"no face was found, so there is no {word} to fill; give a mask or a box")
        for index in chosen or ():
            if not 0 <= index < len(faces):
                raise UsageError(f"there is no face {index}: {len(faces)} were found, numbered from 0 in reading order")
        hole = np.zeros(rgb.shape[:2], bool)
        for index, face in enumerate(faces):
            if chosen is None or index in chosen:
                hole |= _part_of(rgb, face, self.parser, classes)
        if not hole.any():
            raise UsageError(f"no {word} can be seen in the face{'s' * (len(faces) != 1)}; give a mask or a box")
        return hole

    # --- faces

    def _patch(
        self, base: Image, face: Face, hole: Hole, part: Hole, person: _Person, options: InpaintOptions
    ) -> tuple[FacePatch | None, float]:
        """What a face's network changes of the filled picture, and the share of its crop that this is."""
        spec = self.filler.preprocess.crop
        cut = spec.cut(base, face)
        lost = _in_crop(hole, cut)
        share = float(_in_crop(part, cut).mean())
        if not share:
            return None, 0.0
        drawn = fitted(cut.image, person.drawn(cut.image, lost, options), lost)
        for restorer in self.restorers if spec.kind == "template" else ():
            if cut.size >= restorer.preprocess.size or np.hypot(*cut.matrix[0, :2]) >= 1:
                break
            cut, drawn = _with_detail(base, cut, np.where(lost[..., None], drawn, cut.image), hole, restorer)
            lost = _in_crop(hole, cut)
        if options.watermark:
            drawn = marked(drawn)
        known = border_fade(cut.size) if isinstance(person.filler, PersonalFiller) else _oval(face, cut)
        return _patch(cut, drawn, base, _thick(part, face), known), share


def load(session: Networks, task: Task, choice: NetworkChoice) -> InpaintPipeline:
    """The pipeline of a choice of networks."""
    filler, detector = session.chosen(task, choice), session.detector(choice)
    return InpaintPipeline(
        detector,
        filler,
        session.parser(choice),
        session.of_task("damage", choice.damage_finder or "printscan", choice.device),
        [session.network(slug, None, choice.device, choice.dtype) for slug in ("frgp", "facedetail")],
        ReferenceDesk(detector, filler.preprocess.crop, lambda: reference_networks(session, choice.device)),
    )


def mask_of(path: str, shape: tuple[int, int]) -> Hole:
    """The hole (H, W) that a picture shows in white. UsageError for a file that is not there, or of another size."""
    if not Path(path).is_file():
        words = ", ".join((DAMAGE, *PARTS))
        raise UsageError(f"the mask {path!r} is neither a file nor one of {words}")
    mask = read(path).rgb()[..., 0] > 127
    if mask.shape != shape:
        own, wanted = (f"{a[1]} x {a[0]}" for a in (mask.shape, shape))
        raise UsageError(f"the mask {Path(path).name} has {own} pixels, the picture {wanted}; give a mask of its size")
    return np.asarray(mask)


def _filled(image: Image, hole: Hole) -> Image:
    """The picture with its hole filled from around; wide ones in a smaller copy, which takes no minutes."""
    depth = float(cv2.distanceTransform(np.pad(hole, 1).astype(np.uint8), cv2.DIST_L2, 3).max())
    if depth <= _WIDE:
        return filled_from_around(image, hole)
    height, width = hole.shape
    size = (max(1, round(width * _WIDE / depth)), max(1, round(height * _WIDE / depth)))
    few = cv2.resize(hole.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0
    if few.all():
        return filled_from_around(image, hole)
    small = filled_from_around(np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8), few)
    drawn = np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
    return np.where(hole[..., None], fitted(image, drawn, hole), image)


def _with_detail(base: Image, cut: FaceCrop, joined: Image, hole: Hole, restorer: Restorer) -> tuple[FaceCrop, Image]:
    """The crop at a restorer's size, and what the restorer makes of the joined picture (S, S, 3), fitted to it.

    The restorer sees all of the face as soft as what is drawn: where one part is sharper it would leave the other.
    """
    size = restorer.preprocess.size
    factor = size / cut.size
    matrix = cut.matrix * factor
    matrix[:, 2] += (factor - 1) / 2  # a pixel's centre, not its corner, is at whole numbers
    fine = crop_by_matrix(base, matrix, size)
    sharp = restorer.restore(resampled(joined, size)[None])[0]
    return fine, fitted(fine.image, sharp, _in_crop(hole, fine))


def fitted(given: Image, drawn: Image, hole: Hole) -> Image:
    """A drawing (S, S, 3) whose light and colours go over into the given picture at the rim of a hole (S, S).

    The difference along the rim is carried into the hole as a membrane would (Pérez et al., "Poisson Image Editing",
    SIGGRAPH 2003), by pulling it through a pyramid and pushing it back (Gortler et al., SIGGRAPH 1996).
    """
    near = cv2.dilate(hole.astype(np.uint8), np.ones((2 * _RIM + 1, 2 * _RIM + 1), np.uint8)) > 0
    rim = near & ~hole
    if not rim.any():
        return drawn
    difference = np.asarray((given.astype(np.float32) - drawn) * rim[..., None], np.float32)
    spread = _membrane(difference, rim.astype(np.float32))
    return np.asarray(np.rint(drawn + spread).clip(0, 255), np.uint8)


def _membrane(values: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Values (H, W, C), premultiplied by their weights (H, W), carried smoothly to where there are none."""
    height, width = weights.shape
    if min(height, width) <= 2 or weights.min() >= 1:
        return np.asarray(values / np.maximum(weights, 1e-6)[..., None], np.float32)
    half = ((width + 1) // 2, (height + 1) // 2)
    smaller, fewer = (
        np.asarray(cv2.resize(a, half, interpolation=cv2.INTER_AREA), np.float32) for a in (values, weights)
    )
    excess = np.maximum(1, 2 * fewer)  # two known pixels of four are as good as all
    doubled = np.asarray(2 * smaller / excess[..., None], np.float32)
    coarse = _membrane(doubled, np.minimum(1, 2 * fewer))
    pushed = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR).reshape(values.shape)
    smooth = cv2.GaussianBlur(pushed, (0, 0), 1.0).reshape(values.shape)
    known = np.minimum(1, weights)[..., None]
    return np.asarray(values + (1 - known) * smooth, np.float32)


def _check_wishes(filler: Filler, slug: str, options: InpaintOptions) -> None:
    """Refuse what the filler would ignore."""
    given = {
        "other photos of the person": bool(options.references),
        "words": bool(options.prompt),
        "a seed": options.seed is not None,
    }
    for wish in (name for name, used in given.items() if used):
        if not isinstance(filler, PersonalFiller):
            raise UsageError(f"{slug} fills without {wish}, which would have no effect; add --model pva, or omit it")


def _whole(photo: Photo) -> tuple[int, int, int, int]:
    return 0, 0, photo.width, photo.height


def _box(box: tuple[float, float, float, float], shape: tuple[int, int]) -> Hole:
    """(H, W) of a box in pixels; UsageError for one outside the picture."""
    x0, y0, x1, y1 = (round(v) for v in box)
    hole = np.zeros(shape, bool)
    hole[max(0, y0) : max(0, y1), max(0, x0) : max(0, x1)] = True
    if not hole.any():
        given = ",".join(f"{v:g}" for v in box)
        raise UsageError(f"the box {given} lies outside the picture, which has {shape[1]} x {shape[0]} pixels")
    return hole


def _part_of(rgb: Image, face: Face, parser: Parser, classes: Sequence[int]) -> Hole:
    """(H, W) where one face shows some classes of a parser, grown by a rim."""
    cut = parser.preprocess.crop.cut(rgb, face)
    shares = parser.probabilities(cut.image[None], faces=[face.moved(cut.matrix)])[0][list(classes)].sum(0)
    seen = np.asarray(shares > _PART, np.uint8)
    if shares.shape != cut.image.shape[:2]:
        seen = np.asarray(cv2.resize(seen, cut.image.shape[1::-1], interpolation=cv2.INTER_NEAREST))
    unit = face.moved(cut.matrix).eye_distance
    reach = max(1, round(_PART_RIM * unit))
    grown = cv2.dilate(seen, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1)))
    placed = cv2.warpAffine(grown, invert(cut.matrix), rgb.shape[1::-1], flags=cv2.INTER_NEAREST)
    return np.asarray(placed > 0)


def _in_crop(hole: Hole, cut: FaceCrop) -> Hole:
    """A hole as it lies in a crop: what touches it is part of it."""
    moved = cv2.warpAffine(hole.astype(np.float32), cut.matrix, (cut.size, cut.size), flags=cv2.INTER_LINEAR)
    shrink = 1 / max(float(np.hypot(*cut.matrix[0, :2])), 1e-6)
    if shrink > 1:  # lines that sampling would miss
        reach = int(np.ceil(shrink / 2))
        wide = cv2.dilate(hole.astype(np.uint8), np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
        moved = cv2.warpAffine(wide, cut.matrix, (cut.size, cut.size), flags=cv2.INTER_NEAREST)
    return np.asarray(moved > 0)


def _share(face: Face, hole: Hole) -> float:
    """Share of a face's aligned crop that a hole covers."""
    side = 64
    matrix = align_matrix(face.points5, side)
    return float(cv2.warpAffine(hole.astype(np.float32), matrix, (side, side), flags=cv2.INTER_AREA).mean())


def _is_new(face: Face, others: Sequence[Face]) -> bool:
    return all(np.hypot(*np.subtract(face.centre, other.centre)) > 0.5 * other.eye_distance for other in others)


def _owners(faces: Sequence[Face], hole: Hole) -> NDArray[np.int64]:
    """(H, W) number of the face that each pixel is nearest to, in eye distances; 0 without faces."""
    owner, nearest = np.zeros(hole.shape, np.int64), np.full(hole.shape, np.inf, np.float32)
    rows, columns = np.mgrid[: hole.shape[0], : hole.shape[1]].astype(np.float32)
    for index, face in enumerate(faces):
        x, y = (float(v) for v in face.points5.mean(0))
        distance = np.hypot(columns - x, rows - y) / max(face.eye_distance, 1e-3)
        closer = distance < nearest
        owner[closer], nearest[closer] = index, distance[closer]
    return owner


def _thick(hole: Hole, face: Face) -> NDArray[np.float32]:
    """(H, W), 1 in the parts of a hole that are wider than a scratch, softly 0 in thin ones."""
    inside = cv2.distanceTransform(np.pad(hole, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    least = max(1.0, THIN * face.eye_distance)
    core = (inside > least).astype(np.uint8)
    if not core.any():
        return np.zeros(hole.shape, np.float32)
    away = cv2.distanceTransform(1 - core, cv2.DIST_L2, 3)
    return np.asarray(hole * np.clip(2 - away / (1.5 * least), 0, 1), np.float32)


def _oval(face: Face, cut: FaceCrop) -> NDArray[np.float32]:
    """(S, S): where a crop shows the face itself, which is all that a model of faces knows."""
    return face_mask(face.moved(cut.matrix).points5, cut.size)


def _patch(
    cut: FaceCrop, drawn: Image, base: Image, weight: NDArray[np.float32], known: NDArray[np.float32]
) -> FacePatch | None:
    """The drawing in place of what was filled from around, by weights in the photo (H, W) and in the crop (S, S).

    None where the weights leave nothing of it.
    """
    rows, columns = np.nonzero(weight > 0)
    if not len(rows):
        return None
    x0, y0, x1, y1 = int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1
    to_box = invert(cut.matrix)
    to_box[:, 2] -= (x0, y0)
    size = (x1 - x0, y1 - y0)
    shown = cv2.warpAffine(drawn.astype(np.float32), to_box, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    fade = cv2.warpAffine(known, to_box, size, flags=cv2.INTER_LINEAR)
    mask = np.clip(fade, 0, 1) * weight[y0:y1, x0:x1]
    if not mask.any():
        return None
    return FacePatch((x0, y0, x1, y1), np.asarray(shown - base[y0:y1, x0:x1], np.float32), np.asarray(mask, np.float32))


def _pasted(image: Image, patch: FacePatch, hole: Hole) -> Image:
    """A copy with a patch inside a hole."""
    x0, y0, x1, y1 = patch.box
    out = image.copy()
    region = out[y0:y1, x0:x1]
    changed = np.rint(region + patch.mask[..., None] * patch.change).clip(0, 255).astype(np.uint8)
    np.copyto(region, changed, where=hole[y0:y1, x0:x1, None])
    return out
