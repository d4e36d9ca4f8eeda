"""Low-cost detection and recognition: skin colour in L*a*b*, wavelets, nearest neighbour (arXiv 1111.1090, 2011).

"A robust, low-cost approach to Face Detection and Face Recognition" finds the frontal face of a cheap camera's colour
frame by its skin in CIE L*a*b*, removes the background, takes the discrete wavelet transform of the whole 128×128 grey
face, and recognises it by the least Euclidean distance to registered pictures. Only these steps are published; every
constant below is a plain textbook choice. Nothing is learned. Skin is told from other red things by a threshold alone:
coloured light, wood, red walls and grey cameras defeat it, and it does not serve all skin equally.
"""

from __future__ import annotations

import zipfile
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import cv2
import numpy as np

from ....errors import GalleryError, MissingDependencyError, UsageError
from ....metrics.verification import roc

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Image = NDArray[np.uint8]
    Mask = NDArray[np.bool_]
    Floats = NDArray[np.float64]

SIDE = 128
DEEPEST = 7  # 128 is 2⁷

# lowest and highest L*, a*, b* of the fixed rule
SKIN_BOX = ((15.0, 5.0, 5.0), (95.0, 35.0, 45.0))
LEAST_CONTRAST = 4.0  # of a* between the two classes of Otsu's threshold, else there is no skin
LEAST_CHROMA = 2.0  # spread of a* and b*, below which a camera is taken for a grey one
LEAST_SHARE = 0.01  # of the frame
ASPECT = (0.8, 2.2)  # height over width of a face's box
LEAST_EXTENT = 0.45  # of the box that is skin
NECK = 0.7  # share of the widest row below which the neck begins
TALLEST = 1.35  # face widths from the top of a face to where the neck is cut at the latest
SIDE_CUT = 0.1  # share of the fullest column below which a side is cut
ACCEPTED = 0.5

SkinRule = Literal["otsu", "box"]
Bands = Literal["approximation", "all"]


@dataclass(frozen=True, slots=True, eq=False)
class SkinFace:
    """A face hypothesis: `box` (x0, y0, x1, y1) in pixels, `mask` (H, W) of its skin in the frame, `confidence` in
    [0, 1] by shape: proportions, how full the box is, how well an ellipse fits, and dark places for eyes and mouth."""

    box: Floats
    mask: Mask
    confidence: float


@dataclass(frozen=True, slots=True)
class SkinDetector:
    """Finds faces in an RGB frame by colour (section on detection).

    `rule`: "otsu" splits a* where its two classes differ most, "box" takes fixed limits of L*, a* and b*. `robust`
    removes sensor noise by a 3×3 median and takes out a colour cast (grey world) first.
    """

    rule: SkinRule = "otsu"
    robust: bool = False

    def __post_init__(self) -> None:
        if self.rule not in ("otsu", "box"):
            raise UsageError(f"unknown skin rule {self.rule!r}; choose otsu or box")

    def detect(self, frame: Image) -> list[SkinFace]:
        """Faces of an (H, W, 3) uint8 RGB frame, most confident first; none in a frame without colour."""
        _check_frame(frame)
        frame = _cleaned(frame) if self.robust else frame
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        faces = [_hypothesis(part, np.asarray(grey, np.uint8)) for part in _parts(self.skin(frame))]
        return sorted((f for f in faces if f.confidence >= ACCEPTED), key=lambda f: -f.confidence)

    def skin(self, frame: Image) -> Mask:
        """(H, W) where skin is, by colour alone."""
        lab = to_lab(frame)
        chroma = lab[..., 1:].reshape(-1, 2).std(0)
        if float(chroma.max()) < LEAST_CHROMA:
            return np.zeros(frame.shape[:2], bool)
        if self.rule == "box":
            low, high = SKIN_BOX
            return np.asarray(((lab >= low) & (lab <= high)).all(-1))
        return _redder(lab[..., 1])


def to_lab(image: Image) -> NDArray[np.float32]:
    """(H, W, 3) uint8 sRGB to CIE L*a*b* (D65) in its own units: L* 0…100, a* and b* about ±100; exact to 0.2."""
    return np.asarray(cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB), np.float32)


def _redder(a: NDArray[np.float32]) -> Mask:
    """The redder of Otsu's two classes of a*; nothing where the classes hardly differ."""
    steps = np.clip((a + 64) * 2, 0, 255).astype(np.uint8)
    threshold, upper = cv2.threshold(steps, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    chosen = np.asarray(upper) > 0
    if not 0 < threshold < 255 or chosen.all() or not chosen.any():
        return np.zeros(a.shape, bool)
    contrast = float(a[chosen].mean() - a[~chosen].mean())
    return chosen if contrast >= LEAST_CONTRAST else np.zeros(a.shape, bool)


def _cleaned(frame: Image) -> Image:
    smooth = np.asarray(cv2.medianBlur(frame, 3), np.float32)
    means = smooth.reshape(-1, 3).mean(0)
    return np.asarray(np.clip(smooth * (means.mean() / np.maximum(means, 1)), 0, 255), np.uint8)


def _parts(skin: Mask) -> list[Mask]:
    """Connected regions after opening, closing and filling of holes, without specks."""
    height, width = skin.shape
    radius = max(1, round(0.01 * min(height, width)))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    clean = cv2.morphologyEx(skin.astype(np.uint8), cv2.MORPH_OPEN, disc)
    clean = cv2.morphologyEx(clean, cv2.MORPH_CLOSE, disc)
    outlines, _ = cv2.findContours(clean, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    parts = []
    for outline in outlines:
        if cv2.contourArea(outline) >= LEAST_SHARE * height * width:
            part = np.zeros((height, width), np.uint8)
            cv2.drawContours(part, [outline], -1, 1, cv2.FILLED)
            parts.append(part > 0)
    return parts


def _hypothesis(part: Mask, grey: Image) -> SkinFace:
    box = _face_box(part)
    x0, y0, x1, y1 = box
    inside = np.zeros_like(part)
    inside[y0:y1, x0:x1] = part[y0:y1, x0:x1]
    return SkinFace(np.array(box, np.float64), inside, _shape_score(inside[y0:y1, x0:x1], grey[y0:y1, x0:x1]))


def _face_box(part: Mask) -> tuple[int, int, int, int]:
    """Bounds of a region by its projections: sides where columns thin out, below where the neck begins."""
    columns = part.sum(0)
    wide = np.flatnonzero(columns >= SIDE_CUT * columns.max())
    x0, x1 = int(wide[0]), int(wide[-1]) + 1
    rows = part[:, x0:x1].sum(1)
    filled = np.flatnonzero(rows)
    y0, bottom = int(filled[0]), int(filled[-1]) + 1
    widest = y0 + int(rows[y0:bottom].argmax())
    narrow = np.flatnonzero(rows[widest:bottom] < NECK * rows[widest])
    neck = widest + int(narrow[0]) if len(narrow) else bottom
    latest = y0 + max(1, round(TALLEST * (x1 - x0)))
    return x0, y0, x1, max(y0 + 1, min(bottom, latest, max(neck, y0 + (x1 - x0))))


def _shape_score(part: Mask, grey: Image) -> float:
    """Mean of four marks in [0, 1]."""
    height, width = part.shape
    aspect = height / width
    proportion = float(np.clip(1 - max(ASPECT[0] - aspect, aspect - ASPECT[1], 0) / 0.5, 0, 1))
    fullness = float(np.clip(part.mean() / LEAST_EXTENT - 1, 0, 1)) if part.mean() >= LEAST_EXTENT else 0.0
    y, x = np.mgrid[:height, :width]
    ellipse = ((x + 0.5) / width * 2 - 1) ** 2 + ((y + 0.5) / height * 2 - 1) ** 2 <= 1
    fit = float((part & ellipse).sum() / max(1, (part | ellipse).sum()))
    return float(np.mean([proportion, fullness, fit, _dark_places(part, grey)])) if proportion > 0 else 0.0


def _dark_places(part: Mask, grey: Image) -> float:
    """1 where both halves of a region hold something darker than its skin, as eyes and a mouth are."""
    if not part.any():
        return 0.0
    skin = grey[part].astype(np.float64)
    dark = part & (grey < skin.mean() - skin.std())
    half = len(part) // 2
    return 0.5 * float(dark[:half].mean() > 0.01) + 0.5 * float(dark[half:].mean() > 0.01)


def _check_frame(frame: Image) -> None:
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
        raise UsageError(f"a frame is (H, W, 3) uint8 RGB, not {frame.shape} {frame.dtype}")


def frontal_crop(frame: Image, box: Sequence[float] | Floats, mask: Mask | None = None) -> Image:
    """The (128, 128) uint8 grey face of a box; what lies outside `mask` (H, W) of the frame becomes black.

    The part of a box beyond the frame is black. Raises UsageError for an empty box.
    """
    _check_frame(frame)
    x0, y0, x1, y1 = (round(float(v)) for v in box)
    if x1 <= x0 or y1 <= y0:
        raise UsageError(f"the box of a face must have an area, not {x0, y0, x1, y1}")
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    if mask is not None:
        grey = np.where(mask, grey, 0).astype(np.uint8)
    height, width = grey.shape
    part = np.zeros((y1 - y0, x1 - x0), np.uint8)
    top, left, bottom, right = max(0, y0), max(0, x0), min(height, y1), min(width, x1)
    if bottom > top and right > left:
        part[top - y0 : bottom - y0, left - x0 : right - x0] = grey[top:bottom, left:right]
    method = cv2.INTER_AREA if min(part.shape) > SIDE else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(part, (SIDE, SIDE), interpolation=method), np.uint8)


@dataclass(frozen=True, slots=True)
class WaveletFeatures:
    """How a face becomes a vector: the transform of the entire picture, of `level` 1 to 7, with an orthonormal wavelet.

    `bands` "approximation" keeps the coarsest band, (128 / 2^level)² values with Haar; "all" keeps all 16,384
    coefficients, whose distance is that of the pixels whatever the level. `normalised` takes out brightness and
    contrast: mean 0, length 1.
    """

    level: int = 3
    wavelet: str = "haar"
    bands: Bands = "approximation"
    normalised: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.level <= DEEPEST:
            raise UsageError(f"a 128 px face has wavelet levels 1 to {DEEPEST}, not {self.level}")
        if self.bands not in ("approximation", "all"):
            raise UsageError(f"unknown choice of bands {self.bands!r}; choose approximation or all")

    def extract(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, 128, 128) grey faces, or one (128, 128), to vectors (N, L) or (L,)."""
        if crops.shape[-2:] != (SIDE, SIDE):
            raise UsageError(f"wavelet features are of (…, {SIDE}, {SIDE}) grey faces, not {crops.shape}")
        pywt = _pywt()
        if self.wavelet not in pywt.wavelist(kind="discrete") or not pywt.Wavelet(self.wavelet).orthogonal:
            raise UsageError(f"{self.wavelet!r} is not an orthogonal wavelet such as haar, db4 or sym4")
        x = crops.astype(np.float64)
        coarse, *details = pywt.wavedec2(x, self.wavelet, mode="periodization", level=self.level)
        bands = [coarse] if self.bands == "approximation" else [coarse, *(b for group in details for b in group)]
        vectors = np.concatenate([band.reshape(*x.shape[:-2], -1) for band in bands], axis=-1)
        if self.normalised:
            vectors = vectors - vectors.mean(-1, keepdims=True)
            vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
        return np.asarray(vectors, np.float32)


def _pywt() -> Any:
    try:
        return import_module("pywt")
    except ImportError as error:
        raise MissingDependencyError("wavelet features need PyWavelets: pip install 'facewright[wavelet]'") from error


@dataclass(frozen=True, slots=True)
class Nearest:
    """The registered person `identity` closest to a face, at Euclidean `distance`; `margin` is the distance to the next
    person over it, infinite where there is none."""

    identity: str
    distance: float
    margin: float


@dataclass(slots=True, eq=False)
class WaveletGallery:
    """Registered faces and the nearest neighbour among them. All of one gallery are made with the same features.

    `threshold` is the distance below which a face is accepted: set it by `calibrate` or by hand.
    """

    features: WaveletFeatures = field(default_factory=WaveletFeatures)
    threshold: float | None = None
    identities: list[str] = field(default_factory=list)
    vectors: list[NDArray[np.float32]] = field(default_factory=list)

    def enrol(self, identity: str, crop: NDArray[np.uint8]) -> None:
        """Register a (128, 128) grey face; several of one person are all kept."""
        self.vectors.append(self.features.extract(crop))
        self.identities.append(identity)

    def distances(self, crop: NDArray[np.uint8]) -> dict[str, float]:
        """Distance to the closest picture of every person, closest first. Raises GalleryError when nobody is here."""
        if not self.vectors:
            raise GalleryError("nobody is registered in this gallery; enrol faces first")
        away = np.linalg.norm(np.stack(self.vectors) - self.features.extract(crop), axis=1)
        best: dict[str, float] = {}
        for index in np.argsort(away, kind="stable"):
            best.setdefault(self.identities[index], float(away[index]))
        return best

    def identify(self, crop: NDArray[np.uint8]) -> Nearest:
        """Who a (128, 128) grey face is most like."""
        (identity, distance), *others = self.distances(crop).items()
        return Nearest(identity, distance, others[0][1] / max(distance, 1e-12) if others else float("inf"))

    def verify(self, crop: NDArray[np.uint8], identity: str) -> bool:
        """Whether a face is closer to that person than the threshold."""
        if self.threshold is None:
            raise GalleryError("this gallery has no threshold to verify by; calibrate it or set one")
        away = self.distances(crop)
        if identity not in away:
            raise GalleryError(f"{identity!r} is not registered in this gallery")
        return away[identity] < self.threshold

    def calibrate(self) -> float:
        """Set the threshold to the equal error rate of all pairs of the gallery, and return that rate.

        Raises GalleryError unless there are two people, and two pictures of one.
        """
        names = np.array(self.identities)
        first, second = np.triu_indices(len(names), 1)
        same = names[first] == names[second]
        if not same.any() or same.all():
            raise GalleryError("calibration needs two people or more, and two pictures of one of them")
        vectors = np.stack(self.vectors)
        away = np.linalg.norm(vectors[first] - vectors[second], axis=1)
        rates = roc(-away, same)
        best = int(np.abs(rates.far - (1 - rates.tar)).argmin())
        strict = -float(rates.thresholds[best])
        further = away[away > strict]
        self.threshold = (strict + float(further.min())) / 2 if len(further) else strict
        return float((rates.far[best] + 1 - rates.tar[best]) / 2)

    def save(self, path: str | Path) -> None:
        """Write an .npz; it is personal data of those registered."""
        arrays: dict[str, Any] = {
            "features": np.stack(self.vectors) if self.vectors else np.zeros((0, 0), np.float32),
            "ids": np.array(self.identities, str),
            "threshold": np.array(np.nan if self.threshold is None else self.threshold),
            **asdict(self.features),
        }
        np.savez(path, **arrays)

    @classmethod
    def load(cls, path: str | Path, features: WaveletFeatures | None = None) -> Self:
        """Read what `save` wrote; with `features`, raises GalleryError if the gallery was made with others."""
        file = Path(path)
        try:
            with np.load(file, allow_pickle=False) as stored:
                made = WaveletFeatures(
                    int(stored["level"]), str(stored["wavelet"]), _bands(stored["bands"]), bool(stored["normalised"])
                )
                limit, names, vectors = float(stored["threshold"]), stored["ids"], stored["features"]
        except (OSError, KeyError, ValueError, zipfile.BadZipFile, UsageError) as error:
            raise GalleryError(f"{file} is not a wavelet gallery or is damaged ({error})") from error
        if features is not None and features != made:
            raise GalleryError(f"{file} was made with {made}, which cannot be compared with {features}; enrol again")
        threshold = None if np.isnan(limit) else limit
        return cls(made, threshold, [str(name) for name in names], list(vectors))


def _bands(value: Any) -> Bands:
    return "all" if str(value) == "all" else "approximation"
