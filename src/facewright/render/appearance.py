"""What one rendered person looks like: a look drawn from documented rates, and the textures and layers it makes.

A `Look` holds plain JSON values only, and the same look always makes the same arrays. All colours are linear
reflectance 0..1, not sRGB. Labels are the 19 classes of CelebAMask-HQ (Lee et al., MaskGAN, CVPR 2020) with l_ and r_
for the subject's left and right.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import cv2
import numpy as np
import torch

from ..errors import UsageError
from . import accessories
from .accessories import Layer, below_collar, head_of
from .conventions import CELEBAMASK_19
from .facial_hair import BEARDS, beard, beard_share, brows, may_have_beard
from .hair import STYLES, scalp_share, wear_hair
from .rasteriser import Projected, Topology, rasterise
from .skin import (
    CHART,
    below_jaw,
    chart_cm,
    chart_of,
    chart_uv,
    freckles,
    noise,
    pores,
    sample_chart,
    skin_colour,
    skin_map,
    smoothstep,
    statistics,
    wrinkles,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch import Tensor

    from .accessories import Head
    from .morphable import MorphableData

HAIR_COLOURS = {
    "black": (0.012, 0.010, 0.009),
    "dark_brown": (0.035, 0.022, 0.015),
    "brown": (0.085, 0.048, 0.027),
    "auburn": (0.16, 0.055, 0.025),
    "red": (0.30, 0.10, 0.03),
    "blond": (0.36, 0.24, 0.11),
    "light_blond": (0.55, 0.42, 0.24),
}
GREY = (0.42, 0.41, 0.40)
IRISES = {
    "dark": (0.035, 0.018, 0.010),
    "brown": (0.10, 0.045, 0.018),
    "hazel": (0.15, 0.11, 0.04),
    "green": (0.12, 0.17, 0.08),
    "blue": (0.12, 0.20, 0.30),
    "grey": (0.20, 0.23, 0.25),
}
RATES = {
    "freckles": 0.15,
    "lipstick": 0.25,
    "eye_shadow": 0.18,
    "blush": 0.2,
    "beard": 0.45,
    "hat": 0.1,
    "glasses": 0.25,
    "sunglasses": 0.2,
    "earrings": 0.2,
    "necklace": 0.15,
    "fringe": 0.2,
    "occluder": 0.06,
}
"""How often each thing occurs; make-up, long styles and jewellery among the half drawn as feminine, beards among the
other, sun glasses among those with glasses."""
_FACE, _HEAD, _SMALL = 384, 256, 96  # texels of a side
_SHEET = 4  # subdivision of the chart on which masks are drawn


@dataclass(frozen=True, slots=True)
class Look:
    """One person's appearance in plain JSON values.

    `skin`: standard scores of the statistical skin about the mean of its age; `tone`: three standard scores of the
    skin's tone, dark to light first; `age` 0 (12 years) to 1 (90): wrinkles, spots, grey; colours are linear RGB.
    Amounts of freckles, make-up, grey and receding run 0..1, `hair_length` multiplies a style's usual length.
    `occluder_at` is the place across (−1..1) and up (0 chin, 1 eyes). `seed` decides pores, strands and folds. Raises
    UsageError for a style that does not exist or numbers out of range.
    """

    skin: tuple[float, ...] = ()
    tone: tuple[float, float, float] = (0.0, 0.0, 0.0)
    age: float = 0.3
    freckles: float = 0.0
    lips: float = 0.3
    lipstick: float = 0.0
    lipstick_colour: tuple[float, float, float] = (0.35, 0.03, 0.05)
    eye_shadow: float = 0.0
    eye_shadow_colour: tuple[float, float, float] = (0.12, 0.07, 0.09)
    blush: float = 0.0
    brows: float = 0.6
    iris: tuple[float, float, float] = IRISES["brown"]
    beard: str = "none"
    beard_density: float = 0.7
    hair: str = "short"
    hair_length: float = 1.0
    hair_colour: tuple[float, float, float] = HAIR_COLOURS["dark_brown"]
    grey: float = 0.0
    receding: float = 0.0
    fringe: bool = False
    hat: str = "none"
    hat_colour: tuple[float, float, float] = (0.1, 0.1, 0.15)
    glasses: str = "none"
    glasses_colour: tuple[float, float, float] = (0.03, 0.025, 0.02)
    glasses_tint: float = 0.0
    earrings: str = "none"
    necklace: bool = False
    metal: tuple[float, float, float] = (0.8, 0.6, 0.3)
    collar: float = 0.5
    cloth_colour: tuple[float, float, float] = (0.2, 0.25, 0.35)
    occluder: str = "none"
    occluder_at: tuple[float, float] = (0.0, 0.0)
    occluder_colour: tuple[float, float, float] = (0.5, 0.5, 0.5)
    seed: int = 0

    def __post_init__(self) -> None:
        kinds: Mapping[str, tuple[str, ...]] = {
            "beard": BEARDS,
            "hair": tuple(STYLES),
            "hat": accessories.HATS,
            "glasses": accessories.GLASSES,
            "earrings": ("none", "stud", "hoop"),
            "occluder": accessories.OCCLUDERS,
        }
        for name, known in kinds.items():
            if getattr(self, name) not in known:
                raise UsageError(f"a look has no {name} {getattr(self, name)!r}; known: {', '.join(known)}")
        for name in ("age", "freckles", "lipstick", "eye_shadow", "blush", "grey", "receding", "glasses_tint"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"a look's {name} must be between 0 and 1, not {getattr(self, name)}")
        if len(self.skin) > len(statistics().basis):
            raise UsageError(f"skin has {len(statistics().basis)} components, not {len(self.skin)}")

    def to_json(self) -> dict[str, Any]:
        """The values by name, tuples as lists."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The look of `to_json`; absent names take their defaults. Raises UsageError for unknown names."""
        unknown = sorted(set(values) - {f.name for f in fields(cls)})
        if unknown:
            raise UsageError(f"a look has no {', '.join(unknown)}; it has {', '.join(f.name for f in fields(cls))}")
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**plain)


@dataclass(frozen=True, slots=True, eq=False)
class Dressed:
    """Textures of a face model and what is worn on it.

    `albedo` (H, W, 3) linear reflectance 0..1, `gloss` and `roughness` (H, W) as in `lighting.Gloss`, `labels` (H, W)
    uint8 indices into `CELEBAMASK_19` (look them up without interpolation), all for every part of the model at
    coordinates `uv` (T, 2), 0..1 with v up, which `triangles_uv` (F, 3) indexes; `layers` are further meshes.
    """

    albedo: Tensor
    gloss: Tensor
    roughness: Tensor
    labels: Tensor
    uv: Tensor
    triangles_uv: Tensor
    layers: tuple[Layer, ...] = field(default=())


def sample_look(rng: np.random.Generator, *, rates: Mapping[str, float] | None = None) -> Look:
    """A look drawn from the documented distribution; `rates` replaces some of `RATES`.

    Skin scores are normal with deviation 0.7; tone is normal about −0.2 with 0.9, 0.4, 0.4, cut off where photos
    overexpose; age is 0.08 + 0.8·Beta(1.6, 2). Hair and eyes lighten with the tone, grey and receding come with age.
    Raises UsageError for an unknown rate.
    """
    unknown = sorted(set(rates or {}) - set(RATES))
    if unknown:
        raise UsageError(f"no rate is named {', '.join(unknown)}; known: {', '.join(RATES)}")
    chance = {**RATES, **(rates or {})}

    def happens(name: str) -> bool:
        return bool(rng.random() < chance[name])

    def amount(name: str, low: float = 0.3) -> float:
        return round(float(rng.uniform(low, 1)), 3) if happens(name) else 0.0

    feminine = bool(rng.random() < 0.5)
    age = float(0.08 + 0.8 * rng.beta(1.6, 2))
    tone = rng.normal([-0.2, 0.0, 0.0], [0.9, 0.4, 0.4]).clip(-2, [1.2, 1.2, 1.2])
    light = float(1 / (1 + np.exp(-2.2 * (tone[0] - 0.4))))
    grey = float(np.clip(rng.normal(1.8 * (age - 0.5), 0.2), 0, 1)) if age > 0.3 else 0.0
    styles = _styles(feminine, light, age)
    hat = str(rng.choice(accessories.HATS[1:])) if happens("hat") else "none"
    hair = str(rng.choice(list(styles), p=np.array(list(styles.values())) / sum(styles.values())))
    if hat != "none" and hair in ("afro", "bun"):
        hair = "curly" if hair == "afro" else "long"
    worn = bool(happens("glasses"))
    occluded = happens("occluder")
    look = Look(
        skin=_rounded(rng.normal(0, 0.7, len(statistics().basis)).clip(-2, 2)),
        tone=_rounded(tone),
        age=round(age, 3),
        freckles=amount("freckles") * float(light > 0.3),
        lips=round(float(rng.uniform(0, 0.6)), 3),
        brows=round(float(rng.uniform(0.35, 0.9)), 3),
        iris=_tinted(rng, IRISES[_eyes(rng, light)], 0.15),
        hair=hair,
        hair_length=round(float(rng.uniform(0.75, 1.25)), 3),
        hair_colour=_tinted(rng, HAIR_COLOURS[_hair_colour(rng, light)], 0.2),
        grey=round(grey, 3),
        receding=0.0 if feminine else round(float(rng.uniform(0, 1) * np.clip(2 * age - 0.3, 0, 1)), 3),
        fringe=hair in ("short", "bob", "long") and happens("fringe"),
        hat=hat,
        hat_colour=_any_colour(rng),
        glasses=str(rng.choice(accessories.GLASSES[1:])) if worn else "none",
        glasses_colour=_any_colour(rng, 0.25),
        glasses_tint=round(float(rng.uniform(0.6, 1)), 3) if worn and happens("sunglasses") else 0.0,
        metal=(0.8, 0.6, 0.3) if rng.random() < 0.5 else (0.7, 0.7, 0.7),
        collar=round(float(rng.uniform(0, 1)), 3),
        cloth_colour=_any_colour(rng),
        occluder=str(rng.choice(accessories.OCCLUDERS[1:], p=[0.55, 0.15, 0.15, 0.15])) if occluded else "none",
        occluder_at=(round(float(rng.uniform(-1, 1)), 3), round(float(rng.uniform(0, 0.8)), 3)),
        occluder_colour=_any_colour(rng),
        seed=int(rng.integers(2**31)),
    )
    if not feminine:
        beard = str(rng.choice(BEARDS[1:], p=[0.45, 0.1, 0.15, 0.3])) if happens("beard") and age > 0.1 else "none"
        return replace(look, beard=beard, beard_density=round(float(rng.uniform(0.4, 1)), 3))
    return replace(
        look,
        lipstick=amount("lipstick"),
        lipstick_colour=_tinted(rng, (0.38, 0.06, 0.08), 0.5),
        eye_shadow=amount("eye_shadow"),
        eye_shadow_colour=_any_colour(rng, 0.3),
        blush=amount("blush", 0.2),
        earrings=str(rng.choice(["stud", "hoop"])) if happens("earrings") else "none",
        necklace=happens("necklace"),
    )


def _rounded(values: NDArray[np.float64]) -> Any:
    return tuple(round(float(v), 3) for v in values)


def _tinted(rng: np.random.Generator, colour: tuple[float, ...], spread: float) -> Any:
    return _rounded((np.array(colour) * np.exp(rng.normal(0, spread) + rng.normal(0, spread / 3, 3))).clip(0.004, 0.9))


def _any_colour(rng: np.random.Generator, most: float = 0.75) -> Any:
    value = rng.uniform(0.02, most)
    return _rounded((value * (1 - rng.uniform(0, 0.75) * rng.random(3))).clip(0.01, 0.9))


def _styles(feminine: bool, light: float, age: float) -> dict[str, float]:
    """Weights of hair styles."""
    tight = 0.05 + 0.3 * max(0.0, 0.5 - light)
    if feminine:
        return {
            "long": 0.38,
            "bob": 0.25,
            "bun": 0.17,
            "curly": 0.08 + tight,
            "afro": tight,
            "short": 0.08,
            "side": 0.04,
        }
    return {"short": 0.4, "side": 0.25, "buzz": 0.14, "bald": 0.05 + 0.15 * age, "curly": 0.05 + tight, "afro": tight}


def _hair_colour(rng: np.random.Generator, light: float) -> str:
    names = list(HAIR_COLOURS)
    dark = np.array([0.72, 0.24, 0.04, 0, 0, 0, 0])
    pale = np.array([0.08, 0.25, 0.29, 0.07, 0.05, 0.17, 0.09])
    return str(rng.choice(names, p=dark * (1 - light) + pale * light))


def _eyes(rng: np.random.Generator, light: float) -> str:
    dark = np.array([0.7, 0.28, 0.02, 0, 0, 0])
    pale = np.array([0.08, 0.34, 0.15, 0.11, 0.22, 0.10])
    return str(rng.choice(list(IRISES), p=dark * (1 - light) + pale * light))


def dress(data: MorphableData, look: Look) -> Dressed:
    """The textures and layers of a look on a model, which needs landmarks and texture coordinates (else UsageError)."""
    canvas = _canvas(data)
    albedo, gloss, rough, labels = (
        np.zeros((canvas.points.shape[0], *tail), np.float32) for tail in ((3,), (), (), ())
    )
    gloss += 1
    rough += 0.45
    paint = _Paint(albedo, gloss, rough, labels)
    outer = canvas.outer
    _paint_skin(paint, canvas, look)
    for name, chosen in canvas.parts.items():
        if not outer[chosen].any():
            _paint_inner(paint, canvas, name, chosen, look)
    shape = canvas.covered.shape
    head = head_of(data)
    return Dressed(
        albedo=_spread(canvas, paint.albedo.clip(0.002, 0.95)).reshape(*shape, 3),
        gloss=_spread(canvas, paint.gloss),
        roughness=_spread(canvas, paint.roughness),
        labels=_spread(canvas, paint.labels).to(torch.uint8),
        uv=canvas.uv,
        triangles_uv=canvas.triangles_uv,
        layers=tuple(_worn(head, look)),
    )


class _Paint(NamedTuple):
    """Values of the K covered texels, painted in place."""

    albedo: NDArray[np.float32]
    gloss: NDArray[np.float32]
    roughness: NDArray[np.float32]
    labels: NDArray[np.float32]

    def over(self, where: NDArray[Any], share: NDArray[Any], colour: Any) -> None:
        """A colour laid over the texels `where`, a mask (K,) or numbers, opaque where `share` is 1."""
        self.albedo[where] += share[:, None] * (np.asarray(colour, np.float32) - self.albedo[where])


@dataclass(frozen=True, slots=True, eq=False)
class _Canvas:
    """The texture of a model before paint: one square tile for each part, side by side.

    `covered` (H, W) texels hold surface, `index` (H, W) is the number of the covered texel nearest to each. For the K
    covered ones: `points` (K, 3) the resting place in the chart's head, `places` (K, 2) that on the chart in cm,
    `outer` (K,) whether it is skin and `ears` whether of an ear, `masks` the regions drawn by landmarks, `parts` the
    texels of each part.
    """

    covered: NDArray[np.bool_]
    index: NDArray[np.int64]
    points: NDArray[np.float32]
    places: NDArray[np.float32]
    outer: NDArray[np.bool_]
    ears: NDArray[np.bool_]
    masks: Mapping[str, NDArray[np.float32]]
    parts: Mapping[str, NDArray[np.int64]]
    uv: Tensor
    triangles_uv: Tensor


@lru_cache(maxsize=4)
def _canvas(data: MorphableData) -> _Canvas:
    if data.uv is None or data.triangles_uv is None:
        raise UsageError(f"the face model {data.name} has no texture coordinates; appearance needs them")
    head = head_of(data)
    present = [i for i in range(len(data.parts)) if (data.triangle_part == i).any()]
    tiles, (height, width) = _tiles([data.parts[i] for i in present])
    uv, corners = [], np.empty_like(data.triangles_uv)
    start = 0
    for i in present:
        mine = data.triangle_part == i
        used, local = np.unique(data.triangles_uv[mine], return_inverse=True)
        x, y, size = tiles[data.parts[i]]
        inset = (data.uv[used].clip(0, 1) * (size - 2) + 1) * [1, -1] + [x, y + size]
        uv.append(np.stack([inset[:, 0] / width, 1 - inset[:, 1] / height], -1))
        corners[mine] = local.reshape(-1, 3) + start
        start += len(used)
    points = np.concatenate(uv).astype(np.float32)
    flat = np.stack([points[:, 0] * width - 0.5, (1 - points[:, 1]) * height - 0.5], -1)
    screen = Projected(torch.from_numpy(flat)[None].float(), torch.zeros(1, len(flat)), perspective=False)
    seen = rasterise(screen, Topology.of(torch.from_numpy(corners)), height, width)
    bodies = torch.from_numpy(np.c_[head.points, head.places].astype(np.float32))
    found = seen.interpolate(bodies, torch.from_numpy(data.triangles)).numpy()
    part = data.triangle_part[seen.triangle.numpy()]
    covered = np.zeros(height * width, bool)
    covered[seen.pixel.numpy()] = True
    outer = np.isin(part, [data.parts.index(p) for p in ("face", "head") if p in data.parts])
    texels = _nearest_texel(covered.reshape(height, width))
    places = found[:, 3:]
    return _Canvas(
        covered=covered.reshape(height, width),
        index=texels,
        points=found[:, :3],
        places=places,
        outer=outer,
        ears=outer & head.is_ear(found[:, :3].astype(np.float64)),
        masks=_masks(places, found[:, :3]),
        parts={data.parts[i]: np.flatnonzero(part == i) for i in present},
        uv=torch.from_numpy(points),
        triangles_uv=torch.from_numpy(corners),
    )


def _tiles(names: list[str]) -> tuple[dict[str, tuple[int, int, int]], tuple[int, int]]:
    """x, y and side of each part's tile, and the texture's height and width."""
    sizes = {"face": _FACE, "head": _HEAD}
    tiles, x, column = {}, 0, 0
    for name in sorted(names, key=lambda n: -sizes.get(n, _SMALL)):
        size = sizes.get(name, _SMALL)
        if size != _SMALL:
            tiles[name] = (x, 0, size)
            x += size
        else:
            tiles[name] = (x + column // 4 * _SMALL, column % 4 * _SMALL, size)
            column += 1
    return tiles, (_FACE, x + -(-column // 4) * _SMALL)


def _nearest_texel(covered: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(H, W) the number of the covered texel nearest to each, so that borders continue."""
    _, zones = cv2.distanceTransformWithLabels(
        (~covered).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    number = np.zeros(zones.max() + 1, np.int64)
    number[zones[covered]] = np.arange(covered.sum())
    return np.asarray(number[zones])


def _spread(canvas: _Canvas, values: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values[canvas.index]))


@lru_cache(maxsize=1)
def _regions() -> dict[str, NDArray[np.float32]]:
    """Soft masks over the chart of what landmarks bound: lips, brows, nose, eyes; `brows` for hair that thins out."""
    points = statistics().landmarks
    at = chart_cm(chart_of(points, points, points))
    lower_brow = [
        at[a] + d
        for a, d in ((21, (0.15, -0.35)), (20, (0, -0.42)), (19, (0, -0.4)), (18, (0, -0.3)), (17, (0, -0.08)))
    ]
    upper_brow = [
        at[a] + d for a, d in ((17, (0, 0.08)), (18, (0, 0.12)), (19, (0, 0.22)), (20, (0, 0.3)), (21, (0.15, 0.3)))
    ]
    right = np.array(upper_brow + lower_brow)
    wings = [(0.7, 4.2), (0.75, 2.6), (1.3, 1.0), (1.95, 0.2), (1.95, -0.7), (1.2, -1.3), (0.0, -1.45)]
    nose = np.array(wings + [(-x, y) for x, y in wings[-2::-1]])
    polygons = {
        "r_brow": right,
        "l_brow": right * [-1, 1],
        "u_lip": at[[*range(48, 55), 64, 63, 62, 61, 60]],
        "l_lip": at[[48, 60, 67, 66, 65, 64, *range(54, 60)]],
        "nose": nose,
        "r_eye": at[36:42],
        "l_eye": at[42:48],
    }
    drawn = {name: _drawn(polygon, 0.05) for name, polygon in polygons.items()}
    drawn["brows"] = np.maximum(*(_drawn(polygons[name], 0.14) for name in ("l_brow", "r_brow")))
    return drawn


def _drawn(polygon: NDArray[np.float32], soft: float) -> NDArray[np.float32]:
    """A polygon in cm as a mask over the chart, 1 inside, blurred at its edge with a deviation of `soft` cm."""
    scale = _SHEET * CHART.height / (CHART.top - CHART.bottom)
    size = (_SHEET * CHART.height, _SHEET * CHART.width)
    pixels = chart_uv(polygon) * size[::-1]
    mask = np.zeros(size, np.uint8)
    cv2.fillPoly(mask, [np.round(pixels * 16).astype(np.int32)], 255, lineType=cv2.LINE_AA, shift=4)
    return np.asarray(cv2.GaussianBlur(mask.astype(np.float32) / 255, (0, 0), soft * scale), np.float32)


def _masks(places: NDArray[np.float32], points: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """Each region's mask at texels; nothing at the back of the head."""
    uv = chart_uv(places)
    ahead = (points[:, 2] > CHART.axis_z).astype(np.float32)
    return {name: sample_chart(mask[..., None], uv)[:, 0] * ahead for name, mask in _regions().items()}


def _paint_skin(paint: _Paint, canvas: _Canvas, look: Look) -> None:
    """Skin with all that grows on it, is put on it, and its labels."""
    outer = canvas.outer
    points, places = canvas.points[outer], canvas.places[outer]
    masks = {name: mask[outer] for name, mask in canvas.masks.items()}
    uv = chart_uv(places)
    tone = skin_colour(look.tone)
    change = sample_chart(skin_map(look.skin, look.age), uv) + pores(points, look.age, look.seed)
    ahead = smoothstep(0.5, 3.0, points[:, 2])
    change += (wrinkles(places, points, look.age, look.seed) * ahead)[:, None]
    if look.freckles:
        change += freckles(places, points, look.freckles, look.seed + 5) * ahead[:, None]
    ears = canvas.ears[outer]
    change += ears[:, None] * np.array([0.0, -0.10, -0.08], np.float32)
    paint.albedo[outer] = tone * np.exp(change)
    _paint_lips(paint, outer, masks, points, look)
    _make_up(paint, outer, masks, places, ahead, look)
    _paint_brows(paint, outer, masks, places, look)
    _paint_beard(paint, outer, masks, places, points, ears, look)
    scalp = scalp_share(points.astype(np.float64), look.hair, look.receding, look.seed) * ~ears
    paint.over(outer, scalp, hair_colour(look) * (1 + 0.25 * noise(points, 0.12, look.seed + 9))[:, None])
    paint.gloss[outer] *= 1 - 0.7 * scalp
    _label(paint, outer, masks, points, ears, scalp)
    depth = below_collar(points.astype(np.float64), look.collar)
    shirt, hem = smoothstep(-0.03, 0.03, depth), smoothstep(0.25, 0.4, depth)
    weave = (0.8 + 0.2 * hem) * (1 + 0.08 * noise(points, 0.12, look.seed + 61) + 0.1 * noise(points, 2.5, 11))
    paint.over(outer, shirt, np.array(look.cloth_colour, np.float32) * weave[:, None])
    paint.gloss[outer] *= 1 - 0.85 * shirt
    paint.labels[np.flatnonzero(outer)[shirt > 0.5]] = CELEBAMASK_19.index("cloth")


def hair_colour(look: Look) -> NDArray[np.float32]:
    """(3,) linear colour of a look's hair with its grey."""
    own = np.array(look.hair_colour, np.float32)
    return np.asarray(own + look.grey * (np.array(GREY, np.float32) - own), np.float32)


def _paint_lips(
    paint: _Paint,
    outer: NDArray[np.bool_],
    masks: Mapping[str, NDArray[np.float32]],
    points: NDArray[np.float32],
    look: Look,
) -> None:
    lips = np.maximum(masks["u_lip"], masks["l_lip"])
    lines = 1 + 0.12 * noise(points * np.array([4.0, 0.6, 1.0], np.float32), 0.35, look.seed + 21)
    bare = paint.albedo[outer] * np.array([0.92, 0.62, 0.66], np.float32)
    paint.over(outer, lips * (0.35 + 0.5 * look.lips), bare * lines[:, None])
    if look.lipstick:
        paint.over(outer, lips * look.lipstick * 0.9, np.array(look.lipstick_colour) * lines[:, None])
    paint.gloss[outer] += lips * (0.5 + 1.2 * look.lipstick)
    paint.roughness[outer] -= 0.12 * lips


def _make_up(
    paint: _Paint,
    outer: NDArray[np.bool_],
    masks: Mapping[str, NDArray[np.float32]],
    places: NDArray[np.float32],
    ahead: NDArray[np.float32],
    look: Look,
) -> None:
    """Lash lines, always; eye shadow and blush."""
    x, y = np.abs(places[:, 0]), places[:, 1]
    eyes = statistics().landmarks[36:42]
    middle, wide = 3.0, float(np.ptp(eyes[:, 0])) / 2
    upper = smoothstep(0.85, 0.0, np.abs((x - middle) / (wide * 1.5))) * ahead
    lash = np.exp(-(((y - 3.5 - 0.42 * (1 - ((x - middle) / wide) ** 2)) / 0.11) ** 2)) * smoothstep(
        1.2, 0.9, np.abs(x - middle) / wide
    )
    paint.over(outer, lash * ahead * (0.35 + 0.5 * look.eye_shadow), (0.015, 0.012, 0.01))
    if look.eye_shadow:
        lid = upper * smoothstep(3.4, 3.8, y) * smoothstep(5.2, 4.2, y)
        paint.over(outer, 0.75 * look.eye_shadow * lid, look.eye_shadow_colour)
    if look.blush:
        cheeks = np.exp(-(((x - 4.6) / 1.5) ** 2) - ((y + 0.2) / 1.1) ** 2) * ahead
        paint.over(outer, 0.45 * look.blush * cheeks, paint.albedo[outer] * np.array([1.05, 0.6, 0.68]))


def _paint_brows(
    paint: _Paint,
    outer: NDArray[np.bool_],
    masks: Mapping[str, NDArray[np.float32]],
    places: NDArray[np.float32],
    look: Look,
) -> None:
    here = masks["brows"] > 0.01
    texels = np.flatnonzero(outer)[here]
    grown = brows(places[here], masks["brows"][here], look.brows, look.seed + 31)
    dark = np.minimum(hair_colour(look), 0.12) * 0.9 if look.grey < 0.6 else hair_colour(look) * 0.5
    paint.over(texels, grown.cover, dark * grown.shade[:, None])
    paint.gloss[texels] *= 1 - 0.6 * grown.cover


def _paint_beard(
    paint: _Paint,
    outer: NDArray[np.bool_],
    masks: Mapping[str, NDArray[np.float32]],
    places: NDArray[np.float32],
    points: NDArray[np.float32],
    ears: NDArray[np.bool_],
    look: Look,
) -> None:
    if look.beard == "none":
        return
    bare = np.maximum.reduce([masks["u_lip"], masks["l_lip"], masks["nose"]])
    here = may_have_beard(places, points) & ~ears & (bare < 1)
    texels, places, points = np.flatnonzero(outer)[here], places[here], points[here]
    share = beard_share(places, points, look.beard, look.seed + 41) * (1 - bare[here])
    grown = beard(places, points, share, look.beard, look.beard_density, look.seed + 41)
    own = np.array(look.hair_colour, np.float32)
    greyed = smoothstep(-0.8, 0.8, grown.grey + 1.4 * (2 * look.grey - 1))[:, None]
    colour = own + greyed * (np.array(GREY, np.float32) - own)
    paint.over(texels, grown.cover, colour * grown.shade[:, None])
    paint.gloss[texels] *= 1 - 0.7 * grown.cover


def _label(
    paint: _Paint,
    outer: NDArray[np.bool_],
    masks: Mapping[str, NDArray[np.float32]],
    points: NDArray[np.float32],
    ears: NDArray[np.bool_],
    scalp: NDArray[np.float32],
) -> None:
    labels = np.full(len(points), CELEBAMASK_19.index("skin"), np.float32)
    labels[below_jaw(points) > 0.5] = CELEBAMASK_19.index("neck")
    left = points[:, 0] > 0
    for name, where in (("l_ear", ears & left), ("r_ear", ears & ~left), ("hair", scalp > 0.5)):
        labels[where] = CELEBAMASK_19.index(name)
    for name in ("nose", "l_brow", "r_brow", "u_lip", "l_lip"):
        labels[masks[name] > 0.5] = CELEBAMASK_19.index(name)
    paint.labels[outer] = labels


def _paint_inner(paint: _Paint, canvas: _Canvas, name: str, chosen: NDArray[np.int64], look: Look) -> None:
    """Eyeballs, teeth and the inside of the mouth."""
    points = canvas.points[chosen]
    if name.startswith(("eyeball", "iris")):
        paint.albedo[chosen] = _eyeball(points, look)
        paint.gloss[chosen], paint.roughness[chosen] = 2.0, 0.12
        paint.labels[chosen] = CELEBAMASK_19.index("l_eye" if points[:, 0].mean() > 0 else "r_eye")
        return
    if name.startswith("eye_socket"):
        paint.albedo[chosen] = skin_colour(look.tone) * np.array([0.8, 0.55, 0.55])
        paint.labels[chosen] = CELEBAMASK_19.index("skin")
        return
    grain = 1 + 0.08 * noise(points, 0.4, look.seed + 51)[:, None]
    depth = smoothstep(6.5, 10.5, points[:, 2])[:, None]
    colour, gloss = (np.array([0.42, 0.13, 0.12]), 1.0)
    if name.startswith("teeth"):
        colour, gloss = np.array([0.62, 0.55, 0.42]) * (1.12 - 0.35 * look.age), 2.0
    paint.albedo[chosen] = colour * grain * (0.12 + 0.88 * depth)
    paint.gloss[chosen], paint.roughness[chosen] = gloss, 0.3
    paint.labels[chosen] = CELEBAMASK_19.index("mouth")


def _eyeball(points: NDArray[np.float32], look: Look) -> NDArray[np.float32]:
    """(K, 3) white, iris, pupil by the distance from the axis, which runs forwards through the ball's middle."""
    offset = points - (points.max(0) + points.min(0)) / 2
    away = np.hypot(offset[:, 0], offset[:, 1])
    away = np.where(offset[:, 2] > 0, away, 9.0)
    turn = np.arctan2(offset[:, 1], offset[:, 0])
    fibres = np.random.default_rng(look.seed).uniform(-1, 1, 96).astype(np.float32)
    streaks = np.interp(turn, np.linspace(-np.pi, np.pi, 97), np.r_[fibres, fibres[0]])
    white = (
        np.array([0.66, 0.60, 0.56])
        - np.array([0.02, 0.10, 0.11]) * smoothstep(0.8, 1.5, away.astype(np.float32))[:, None]
    )
    iris = np.array(look.iris) * (1 + 0.35 * streaks + 0.5 * smoothstep(0.52, 0.28, away))[:, None]
    iris *= (1 - 0.75 * smoothstep(0.46, 0.6, away))[:, None]
    colour = white + smoothstep(0.63, 0.56, away)[:, None] * (iris - white)
    return np.asarray(colour + smoothstep(0.24, 0.2, away)[:, None] * (0.004 - colour), np.float32)


def _worn(head: Head, look: Look) -> list[Layer]:
    """Everything that is not painted, in no order of depth; nothing for the neck where there is none."""
    tone = tuple(float(c) for c in skin_colour(look.tone))
    tint = hair_colour(look)
    layers = accessories.cloth(head, look.cloth_colour) if head.has_neck else []
    layers += wear_hair(
        head,
        look.hair,
        (float(tint[0]), float(tint[1]), float(tint[2])),
        length=look.hair_length,
        receding=look.receding,
        fringe=look.fringe,
        hat=look.hat,
        seed=look.seed,
    )
    if look.hat != "none":
        layers += accessories.hat(head, look.hat, look.hat_colour)
    if look.glasses != "none":
        layers += accessories.glasses(head, look.glasses, look.glasses_colour, look.glasses_tint)
    if look.earrings != "none":
        layers += accessories.earrings(head, look.earrings, look.metal)
    if look.necklace and head.has_neck:
        layers += accessories.necklace(head, look.metal)
    if look.occluder != "none":
        side, height = look.occluder_at
        layers += accessories.occluder(
            head, look.occluder, side, height, (tone[0], tone[1], tone[2]), look.occluder_colour
        )
    return layers
