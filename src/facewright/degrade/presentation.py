"""Simulated presentation attacks: a photo shown on paper, on a screen, as a cut print or a mask, and captured again.

The photo is taken for the scene's radiance. Somebody live is that radiance captured once; an attack is the radiance
through an instrument, captured by the same kind of camera. Only so does a network learn the instrument and not the
camera. Instruments and cameras are drawn as *instances* that can be kept apart between training and test.

Pictures are square: (W, W, 3) float32 linear RGB in [0, 1] as radiance, (S, S, 3) uint8 sRGB as captured, with W a few
times S so that halftone dots and screen stripes are sampled, not painted: moiré emerges from that. Lengths of
instruments are in shares of W, so that they do not depend on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import cv2
import numpy as np

from ..errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.random import Generator
    from numpy.typing import NDArray

    Radiance = NDArray[np.float32]
    Image = NDArray[np.uint8]
    Floats = NDArray[np.float64]

Species = Literal["live", "print", "replay", "cut", "mask"]
SPECIES: tuple[Species, ...] = get_args(Species)

_YULE_NIELSEN = 1.8  # spread of light in paper, between 1.5 and 2.2 in print shops
_INKS = np.array([[0.05, 0.55, 0.85], [0.75, 0.08, 0.35], [0.95, 0.85, 0.08], [0.04, 0.04, 0.04]])
"""Linear RGB that full cyan, magenta, yellow and black let through."""
_ANGLES = np.radians([15.0, 75.0, 0.0, 45.0])
_RESOLVED = 2.0  # px of a period below which a pattern cannot be drawn, and only its mean is seen
_LEVELS = np.quantile(
    np.add.outer(*(2 * [np.cos(np.linspace(0, 2 * np.pi, 400, endpoint=False))])), np.linspace(0, 1, 129)
)
"""Level of a halftone screen below which a share of it lies."""
_LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)


def to_linear(image: Image) -> Radiance:
    """sRGB bytes to linear light in [0, 1]."""
    v = np.arange(256) / 255
    table = np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4).astype(np.float32)
    return np.asarray(table[image], np.float32)


def to_srgb(linear: NDArray[np.floating]) -> Radiance:
    """Linear light in [0, 1] to sRGB values in [0, 1]."""
    v = np.clip(linear, 0, 1).astype(np.float32)
    coded = np.where(v <= 0.0031308, 12.92 * v, 1.055 * v ** np.float32(1 / 2.4) - 0.055)
    return np.asarray(coded, np.float32)


# --- camera ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Camera:
    """One device. psf: sigma of its optics in pixels of the sensor. shot, read: variance of the noise a·x + b.
    balance: error of its white balance, a gain for red and blue. sharpen: amount of its unsharp mask. quality: of its
    JPEG. oversampling: pixels of the sensor for one of the picture."""

    psf: float
    shot: float
    read: float
    balance: tuple[float, float]
    sharpen: float
    quality: int
    oversampling: int

    @classmethod
    def draw(cls, rng: Generator) -> Camera:
        """A device at random."""
        red, blue = rng.uniform(0.87, 1.15, 2)
        return cls(
            psf=float(rng.uniform(0.4, 1.2)),
            shot=float(10 ** rng.uniform(-4, -2.6)),
            read=float(10 ** rng.uniform(-6, -4.4)),
            balance=(float(red), float(blue)),
            sharpen=float(rng.choice([0.0, 0.4, 0.9])),
            quality=int(rng.integers(60, 99)),
            oversampling=int(rng.choice([1, 2])),
        )

    def capture(self, radiance: Radiance, size: int, rng: Generator) -> Image:
        """What the device makes of (W, W, 3) linear radiance: (size, size, 3) uint8 sRGB.

        Optics, integration over the pixel, a Bayer mosaic, noise, white balance, demosaicing, sharpening, JPEG.
        """
        side = min(size * self.oversampling, radiance.shape[0])
        side -= side % 2  # a mosaic has pairs of rows
        blurred = cv2.GaussianBlur(radiance, (0, 0), self.psf * radiance.shape[0] / side)
        light = np.asarray(cv2.resize(blurred, (side, side), interpolation=cv2.INTER_AREA), np.float32)
        mosaic = _mosaic(light)
        noise = rng.standard_normal(mosaic.shape, dtype=np.float32) * np.sqrt(self.shot * mosaic + self.read)
        raw = np.rint(np.clip(mosaic + noise, 0, 1) * 65535).astype(np.uint16)
        colour = cv2.cvtColor(raw, cv2.COLOR_BayerRGGB2RGB).astype(np.float32) / np.float32(65535)
        colour *= np.array([self.balance[0], 1.0, self.balance[1]], np.float32)
        small = cv2.resize(colour, (size, size), interpolation=cv2.INTER_AREA)
        coded = to_srgb(small)
        if self.sharpen:
            coded = coded + np.float32(self.sharpen) * (coded - cv2.GaussianBlur(coded, (0, 0), 1.0))
        return _jpeg(np.rint(np.clip(coded, 0, 1) * 255).astype(np.uint8), self.quality)


def _mosaic(light: Radiance) -> Radiance:
    """One colour a pixel, in the order RGGB."""
    raw = light[..., 1].copy()
    raw[0::2, 0::2], raw[1::2, 1::2] = light[0::2, 0::2, 0], light[1::2, 1::2, 2]
    return raw


def _jpeg(image: Image, quality: int) -> Image:
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.ascontiguousarray(np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))[..., ::-1], np.uint8)


# --- instruments -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Printer:
    """A printer with its paper. pitch: period of the halftone screen (share of the picture). gain: of a dot in the
    mid-tones. paper: its colour. black: least reflectance. grain: relative noise of the paper. gloss: of its surface.
    saturation: what is left of the colours."""

    pitch: float
    gain: float
    paper: tuple[float, float, float]
    black: float
    grain: float
    gloss: float
    saturation: float

    @classmethod
    def draw(cls, rng: Generator) -> Printer:
        """A printer at random: 85 to 175 lines per inch, on a picture 40 to 180 mm wide."""
        millimetres = float(rng.uniform(40, 180))
        white = rng.uniform(0.78, 0.95)
        warm = rng.uniform(0.0, 0.06)
        return cls(
            pitch=25.4 / float(rng.uniform(85, 175)) / millimetres,
            gain=float(rng.uniform(0.1, 0.25)),
            paper=(float(white), float(white - warm / 2), float(white - warm)),
            black=float(rng.uniform(0.02, 0.06)),
            grain=float(rng.uniform(0.01, 0.03)),
            gloss=float(rng.choice([0.0, rng.uniform(0.1, 0.45)])),
            saturation=float(rng.uniform(0.6, 0.95)),
        )

    def show(self, radiance: Radiance, rng: Generator) -> Radiance:
        """The print as reflectance, flat: inks by Neugebauer's mixing with Yule and Nielsen's spread of light.

        Halftone dots are drawn where their period can be resolved; below that only their mean is seen.
        """
        coverage = _inks(to_srgb(radiance), self.saturation)
        coverage = np.clip(coverage + 4 * self.gain * coverage * (1 - coverage), 0, 1)
        period = self.pitch * radiance.shape[0]
        if period >= _RESOLVED:
            coverage = _dots(coverage, period)
        through = (_INKS ** (1 / _YULE_NIELSEN)).astype(np.float32)
        light = np.ones_like(radiance)
        for ink in range(4):  # dots of several inks fall independently, so their shares multiply (Demichel)
            light *= 1 - coverage[..., ink, None] * (1 - through[ink])
        paper = np.array(self.paper, np.float32)
        sheet = self.black + (1 - self.black) * light ** np.float32(_YULE_NIELSEN) * paper
        return np.asarray(sheet * (1 + self.grain * _clouds(radiance.shape[0], rng)[..., None]), np.float32)


def _inks(coded: Radiance, saturation: float) -> Radiance:
    """Coverage (W, W, 4) of cyan, magenta, yellow and black that is to give sRGB values."""
    grey = coded @ _LUMA
    dull = grey[..., None] + np.float32(saturation) * (coded - grey[..., None])
    cmy = 1 - np.clip(dull, 0, 1)
    black = np.float32(0.5) * cmy.min(2, keepdims=True)
    return np.concatenate([(cmy - black) / np.maximum(1 - black, 1e-3), black], 2)


def _dots(coverage: Radiance, period: float) -> Radiance:
    """The same coverage on average, in dots: ink lies where the screen's height is below a level."""
    level = np.interp(coverage, np.linspace(0, 1, len(_LEVELS)), _LEVELS).astype(np.float32)
    rows, columns = np.mgrid[: coverage.shape[0], : coverage.shape[1]].astype(np.float32)
    out = np.empty_like(coverage)
    for ink, angle in enumerate(_ANGLES):
        k, cos, sin = np.float32(2 * np.pi / period), np.float32(np.cos(angle)), np.float32(np.sin(angle))
        height = np.cos(k * (columns * cos + rows * sin)) + np.cos(k * (rows * cos - columns * sin))
        out[..., ink] = np.clip((level[..., ink] - height) * 1.5 + 0.5, 0, 1)
    return out


def _clouds(side: int, rng: Generator) -> Radiance:
    """Noise of unit deviation whose power falls with frequency."""
    total = np.zeros((side, side), np.float32)
    for cells in (4, 16, 64, side):
        noise = rng.standard_normal((cells, cells), dtype=np.float32)
        total += cv2.resize(noise, (side, side), interpolation=cv2.INTER_LINEAR)
    return total / max(float(total.std()), 1e-6)


@dataclass(frozen=True, slots=True)
class Screen:
    """A display. pitch: of its pixels (share of the picture). black: least luminance. white: most luminance against
    the room. tint: gains of red and blue. glare: of the room in its glass. bands: depth of the rolling shutter's
    stripes. bezel: width of its frame where it is seen."""

    pitch: float
    black: float
    white: float
    tint: tuple[float, float]
    glare: float
    bands: float
    bezel: float

    @classmethod
    def draw(cls, rng: Generator) -> Screen:
        """A display at random, from too fine for the camera to twice as coarse as its pixels."""
        red, blue = rng.uniform([0.85, 0.95], [1.05, 1.25])
        return cls(
            pitch=float(np.exp(rng.uniform(np.log(0.002), np.log(0.015)))),
            black=float(1 / rng.uniform(100, 1500)),
            white=float(rng.uniform(0.6, 1.3)),
            tint=(float(red), float(blue)),
            glare=float(rng.choice([0.0, rng.uniform(0.02, 0.25)])),
            bands=float(rng.choice([0.0, rng.uniform(0.02, 0.12)])),
            bezel=float(rng.uniform(0.02, 0.1)),
        )

    def show(self, radiance: Radiance, rng: Generator) -> Radiance:
        """The lit display: stripes of red, green and blue where they can be resolved, black floor, tint, bands."""
        side = radiance.shape[0]
        light = radiance * np.array([self.tint[0], 1.0, self.tint[1]], np.float32) * np.float32(self.white)
        period = self.pitch * side
        if period >= _RESOLVED:
            light = light * _stripes(side, period)
        if self.bands:
            phase, waves = rng.uniform(0, 2 * np.pi), rng.uniform(1, 6)
            rows = np.sin(np.linspace(0, 2 * np.pi * waves, side) + phase).astype(np.float32)
            light = light * (1 + np.float32(self.bands) * rows[:, None, None])
        return np.asarray(light + np.float32(self.black), np.float32)


def _stripes(side: int, period: float) -> Radiance:
    """How much of a display each pixel of the picture sees lit, (W, W, 3), with a mean of 1."""
    x = np.arange(side, dtype=np.float32)[:, None] / np.float32(period)
    across = np.maximum(0, np.cos(2 * np.pi * (x - np.arange(3, dtype=np.float32) / 3))) + np.float32(0.1)
    gaps = np.clip(1.6 + np.cos(2 * np.pi * x), 0, 2)  # between rows
    pattern = across[None] * gaps[:, :, None]
    return np.asarray(pattern / pattern.mean((0, 1)), np.float32)


@dataclass(frozen=True, slots=True)
class Material:
    """What a mask is made of. smooth: of the skin's detail that is lost, sigma as a share of the picture. shine: of
    its surface. tint: of its colour. ridge: darkness of the seam around openings and rim."""

    smooth: float
    shine: float
    tint: tuple[float, float, float]
    ridge: float

    @classmethod
    def draw(cls, rng: Generator) -> Material:
        red, green, blue = rng.uniform(0.85, 1.15, 3)
        return cls(
            smooth=float(rng.uniform(0.006, 0.02)),
            shine=float(rng.uniform(0.05, 0.4)),
            tint=(float(red), float(green), float(blue)),
            ridge=float(rng.uniform(0.2, 0.6)),
        )


@dataclass(frozen=True, slots=True)
class Kit:
    """Instances of cameras and instruments; kits of different seeds share none."""

    cameras: tuple[Camera, ...]
    printers: tuple[Printer, ...]
    screens: tuple[Screen, ...]
    materials: tuple[Material, ...]

    @classmethod
    def draw(cls, seed: int, count: int = 24) -> Kit:
        """`count` instances of each kind, the same for the same seed."""
        rng = np.random.default_rng((seed, 0x22))
        return cls(
            tuple(Camera.draw(rng) for _ in range(count)),
            tuple(Printer.draw(rng) for _ in range(count)),
            tuple(Screen.draw(rng) for _ in range(count)),
            tuple(Material.draw(rng) for _ in range(count)),
        )


# --- scenes ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Presented:
    """A simulated presentation: the picture (S, S, 3), what it shows, and what can be seen of it, in words."""

    image: Image
    species: Species
    camera: int
    instrument: int
    seen: tuple[str, ...]


def present(
    photo: Image,
    points5: NDArray[np.floating],
    species: Species,
    kit: Kit,
    size: int,
    seed: int | Sequence[int],
) -> Presented:
    """Show a photo as a species of attack (or live) and capture it.

    Args:
        photo: (W, W, 3) uint8 sRGB, W at least twice `size`.
        points5: (5, 2) in its pixels.
        species: One of `SPECIES`.
        kit: Instances to draw from.
        size: Side of the captured picture.
        seed: Of everything drawn.

    Raises UsageError for another species or a photo that is not square.
    """
    if species not in SPECIES:
        raise UsageError(f"no attack is called {species!r}; there are: {', '.join(SPECIES)}")
    if photo.ndim != 3 or photo.shape[0] != photo.shape[1]:
        raise UsageError(f"an attack is simulated on square photos, not {photo.shape}")
    rng = np.random.default_rng(seed)
    radiance = to_linear(photo)
    camera = int(rng.integers(len(kit.cameras)))
    side = photo.shape[0]
    seen: tuple[str, ...] = ()
    if species == "live":
        instrument = -1
        scene = _warp(radiance, _turned(side, rng, 0.0))
    else:
        instruments = {"print": kit.printers, "cut": kit.printers, "replay": kit.screens, "mask": kit.materials}[
            species
        ]
        instrument = int(rng.integers(len(instruments)))
        shown = _recaptured(radiance, rng) if species != "mask" else radiance
        if species == "replay":
            scene, seen = _replayed(shown, kit.screens[instrument], rng)
        elif species == "mask":
            worn = _masked(radiance, points5, kit.materials[instrument], rng)
            scene, seen = _warp(worn, _turned(side, rng, 0.0)), ("mask", "smooth skin", "shine")
        else:
            openings = _eye_holes(points5, side) if species == "cut" else None
            scene, seen = _printed(shown, radiance, kit.printers[instrument], openings, rng)
    lit = _exposed(scene * _room(side, rng), radiance, rng)
    return Presented(kit.cameras[camera].capture(lit, size, rng), species, camera, instrument, seen)


def _recaptured(radiance: Radiance, rng: Generator) -> Radiance:
    """The photo an attacker has: of somebody else's camera, smaller and compressed."""
    side = radiance.shape[0]
    small = max(16, int(side * rng.uniform(0.35, 1.0)))
    coded = to_srgb(np.asarray(cv2.resize(radiance, (small, small), interpolation=cv2.INTER_AREA), np.float32))
    data = _jpeg(np.rint(coded * 255).astype(np.uint8), int(rng.integers(60, 97)))
    return to_linear(np.asarray(cv2.resize(data, (side, side), interpolation=cv2.INTER_CUBIC), np.uint8))


def _exposed(scene: Radiance, photo: Radiance, rng: Generator) -> Radiance:
    """The scene at an exposure that makes it about as bright as the photo, or else brightness would tell attacks."""
    return scene * np.float32(np.exp(rng.normal(0, 0.25)) * photo.mean() / max(float(scene.mean()), 1e-4))


def _room(side: int, rng: Generator) -> Radiance:
    """The light of a room: its colour, and how it falls off across the picture."""
    angle, slope = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.4)
    line = np.linspace(-0.5, 0.5, side, dtype=np.float32)
    ramp = 1 + np.float32(slope) * (np.cos(angle) * line[None] + np.sin(angle) * line[:, None])
    gains = np.array([rng.uniform(0.9, 1.1), 1.0, rng.uniform(0.9, 1.1)])
    return np.asarray(ramp[..., None] * gains.astype(np.float32), np.float32)


def _turned(side: int, rng: Generator, lean: float) -> Floats:
    """A homography of the picture onto itself: a small turn, shift and change of size, and a lean out of the plane of
    up to `lean` degrees."""
    middle = (side - 1) / 2
    roll, scale = np.radians(rng.uniform(-8, 8)), rng.uniform(0.93, 1.1)
    yaw, pitch = np.radians(rng.uniform(-lean, lean, 2))
    distance = 2.5 * side
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * side / 2
    turn = np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
    flat = scale * corners @ turn.T
    depth = distance + flat[:, 0] * np.sin(yaw) + flat[:, 1] * np.sin(pitch)
    seen = flat * np.array([np.cos(yaw), np.cos(pitch)]) * (distance / depth)[:, None]
    seen += rng.uniform(-0.03, 0.03, 2) * side
    source, target = (corners + middle).astype(np.float32), (seen + middle).astype(np.float32)
    return np.asarray(cv2.getPerspectiveTransform(source, target), np.float64)


def _warp(image: Radiance, matrix: Floats, border: int = cv2.BORDER_REFLECT_101) -> Radiance:
    return np.asarray(
        cv2.warpPerspective(image, matrix, image.shape[1::-1], flags=cv2.INTER_LINEAR, borderMode=border), np.float32
    )


def _behind(side: int, rng: Generator) -> Radiance:
    """A blurred room, for what is seen beside an instrument."""
    cells = (rng.uniform(0.02, 0.6, (4, 4, 1)) * rng.uniform(0.8, 1.2, (4, 4, 3))).astype(np.float32)
    return np.asarray(cv2.resize(cells, (side, side), interpolation=cv2.INTER_CUBIC), np.float32).clip(0, 1)


def _laid(sheet: Radiance, matrix: Floats, edge: float, rng: Generator) -> Radiance:
    """A sheet in front of a room; `edge` is how much of the picture lies beside it."""
    side = sheet.shape[0]
    if edge <= 0:
        return _warp(sheet, matrix)
    shrink = np.array([[1 - edge, 0, edge * side / 2], [0, 1 - edge, edge * side / 2], [0, 0, 1]])
    placed = matrix @ shrink
    there = _warp(np.ones((side, side, 1), np.float32).repeat(3, 2), placed, cv2.BORDER_CONSTANT)
    return _warp(sheet, placed, cv2.BORDER_CONSTANT) + (1 - there) * _behind(side, rng)


def _spot(side: int, strength: float, rng: Generator) -> Radiance:
    """A soft reflection of a lamp or window."""
    line = np.linspace(0, 1, side, dtype=np.float32)
    x, y = rng.uniform(0, 1, 2)
    wide, high = rng.uniform(0.08, 0.35, 2)
    spot = np.exp(-(((line[None] - x) / wide) ** 2 + ((line[:, None] - y) / high) ** 2))
    return np.asarray(np.float32(strength) * spot[..., None], np.float32)


def _printed(
    shown: Radiance, person: Radiance, printer: Printer, openings: Radiance | None, rng: Generator
) -> tuple[Radiance, tuple[str, ...]]:
    side = shown.shape[0]
    seen = ["paper"]
    sheet = printer.show(shown, rng)
    if openings is not None:  # a living person looks through, a little displaced, in the shadow of the sheet
        shift = np.array([[1.0, 0.0, rng.uniform(-0.02, 0.02) * side], [0.0, 1.0, rng.uniform(-0.02, 0.02) * side]])
        eyes = cv2.warpAffine(person, shift, (side, side), borderMode=cv2.BORDER_REFLECT_101)
        shade = 1 - np.float32(0.5) * (cv2.GaussianBlur(1 - openings, (0, 0), 0.012 * side))
        sheet = sheet * (1 - openings[..., None]) + eyes * (shade * openings)[..., None]
        seen += ["cut holes", "eyes behind paper"]
    if rng.random() < 0.5:
        sheet = _bent(sheet, rng)
        seen.append("bent paper")
    if printer.gloss:
        sheet = sheet + _spot(side, printer.gloss, rng)
        seen.append("glossy paper")
    if printer.pitch * side >= _RESOLVED:
        seen.append("dots")
    edge = float(rng.uniform(0.05, 0.25)) if rng.random() < 0.3 else 0.0
    if edge:
        seen.append("edge")
    return _laid(sheet, _turned(side, rng, 25.0), edge, rng), tuple(seen)


def _bent(sheet: Radiance, rng: Generator) -> Radiance:
    """A sheet on a cylinder with an upright axis: it narrows and darkens towards its sides."""
    side = sheet.shape[0]
    radius = rng.uniform(0.55, 3.0)  # in widths of the sheet
    x = np.linspace(-0.5, 0.5, side)
    inside = np.clip(x / radius, -0.98, 0.98)
    along = radius * np.arcsin(inside)  # where on the sheet a ray hits the cylinder
    columns = ((along + 0.5) * (side - 1)).astype(np.float32)
    rows = np.arange(side, dtype=np.float32)
    across = np.ascontiguousarray(np.broadcast_to(columns[None], (side, side)))
    down = np.ascontiguousarray(np.broadcast_to(rows[:, None], (side, side)))
    out = cv2.remap(sheet, across, down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    light = np.sqrt(1 - inside**2).astype(np.float32) ** np.float32(0.7)
    return np.asarray(out * light[None, :, None], np.float32)


def _replayed(shown: Radiance, screen: Screen, rng: Generator) -> tuple[Radiance, tuple[str, ...]]:
    side = shown.shape[0]
    seen = ["screen"]
    lit = screen.show(shown, rng)
    if screen.pitch * side >= _RESOLVED:
        seen.append("moire")
    edge = float(rng.uniform(0.05, 0.2)) if rng.random() < 0.25 else 0.0
    if edge:
        frame = max(1, int(screen.bezel * side))
        lit[:frame], lit[-frame:], lit[:, :frame], lit[:, -frame:] = (np.float32(0.01),) * 4
        seen.append("bezel")
    scene = _laid(lit, _turned(side, rng, 15.0), edge, rng)
    if screen.glare:
        scene = scene + _spot(side, screen.glare, rng) + np.float32(0.15 * screen.glare)
        seen.append("glare")
    return scene, tuple(seen)


def _eye_holes(points5: NDArray[np.floating], side: int) -> Radiance:
    """1 where a cut print has holes for the eyes, soft at their edges."""
    holes = np.zeros((side, side), np.float32)
    apart = float(np.hypot(*(points5[1] - points5[0])))
    for x, y in points5[:2]:
        cv2.ellipse(
            holes, (round(float(x)), round(float(y))), (round(0.3 * apart), round(0.16 * apart)), 0, 0, 360, 1.0, -1
        )
    return np.asarray(cv2.GaussianBlur(holes, (0, 0), 0.004 * side), np.float32)


def _masked(radiance: Radiance, points5: NDArray[np.floating], material: Material, rng: Generator) -> Radiance:
    """Somebody wearing a mask: within an oval the skin loses its detail, takes another colour and shines; eyes and
    mouth are open, with a seam around them. In the plane of the picture: depth is not simulated."""
    side = radiance.shape[0]
    eyes, mouth = points5[:2].mean(0), points5[3:5].mean(0)
    unit = float(np.hypot(*(mouth - eyes)))
    centre = eyes + 0.45 * (mouth - eyes)
    across = points5[1] - points5[0]
    angle = float(np.degrees(np.arctan2(across[1], across[0])))
    face = np.zeros((side, side), np.float32)
    middle = (round(float(centre[0])), round(float(centre[1])))
    cv2.ellipse(face, middle, (round(1.05 * unit), round(1.5 * unit)), angle, 0, 360, 1.0, -1)
    openings = _eye_holes(points5, side)
    lips = (round(float(mouth[0])), round(float(mouth[1])))
    cv2.ellipse(openings, lips, (round(0.5 * unit), round(0.16 * unit)), angle, 0, 360, 1.0, -1)
    worn = cv2.GaussianBlur(face, (0, 0), 0.006 * side) * (1 - openings)
    skin = cv2.GaussianBlur(radiance, (0, 0), material.smooth * side) * np.array(material.tint, np.float32)
    grey = skin @ _LUMA
    skin = skin + np.float32(material.shine) * np.clip(grey - np.quantile(grey, 0.6), 0, 1)[..., None]
    skin = skin + _spot(side, 0.4 * material.shine, rng)
    seam = np.abs(worn - cv2.GaussianBlur(worn, (0, 0), 0.008 * side))
    out = radiance * (1 - worn[..., None]) + skin * worn[..., None]
    return np.asarray(out * (1 - np.float32(material.ridge) * np.clip(2 * seam, 0, 1)[..., None]), np.float32)


def shares(wanted: Mapping[Species, float]) -> tuple[tuple[Species, ...], Floats]:
    """Species and their probabilities, from weights; UsageError for unknown species or nothing to draw."""
    unknown = set(wanted) - set(SPECIES)
    total = sum(wanted.values())
    if unknown or not total > 0 or min(wanted.values()) < 0:
        raise UsageError(f"shares of {', '.join(SPECIES)} are wanted, of which one is above 0, not {dict(wanted)}")
    return tuple(wanted), np.array([value / total for value in wanted.values()])
