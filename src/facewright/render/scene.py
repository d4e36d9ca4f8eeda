"""Scenes: everything a rendered picture shows, drawn from a seed, kept as a line of JSON, rendered with its truth.

sampler = SceneSampler(coarse_face(), seed=1)
scene = sampler.scene(0)                       # equal seeds and indices give equal scenes, in any process
picture = Renderer(coarse_face()).render(scene)
again = Scene.from_json(scene.to_json())       # renders to the same bytes

What is drawn, and from what:

| what | distribution |
| --- | --- |
| yaw | 70 % normal, σ 20°; 30 % uniform in ±90°; cut at ±90° |
| pitch, roll | normal, σ 12° and 8°, cut at ±45° |
| identity | normal, σ 0.8 of the model's, cut at ±2.5; the first 40 modes |
| expression | 25 % neutral, 50 % one of six emotions at 30 to 100 %, 25 % up to 6 random shapes; and small noise |
| gaze | normal, σ 13° sideways and 8° up and down, cut at ±35° and ±25°; the eyes converge at 0.3 to 5 m |
| lids | 5 % closed, 5 % half-way; else open; they follow the gaze |
| distance | 0.35 to 2 m, logarithmic; brow to chin takes 30 to 55 % of the picture's height |
| light | ambient of 20 to 80 % with a gradient, and one key light from the front half, warm to cool |
| camera | 70 % of the pictures: defocus or motion blur, noise, JPEG (`CAMERA_EFFECTS`); the others are clean |

Lengths of the truth are metres, angles degrees; light and albedo are linear. The emotions are the action units of
EMFACS (Friesen and Ekman 1983) that have blend shapes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from tarfile import TarError, TarFile
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..degrade import Degradation, MotionRange, Preset, apply, sample
from ..errors import ImageReadError, UsageError
from ..face import Pose
from ..io.image import read
from .action_units import action_units_of, expression_of
from .appearance import Look, dress, sample_look
from .camera import Camera, place, rotation_from_pose
from .lighting import Gloss, Lights, directional, highlight, sh_irradiance, sh_of_light, shadows
from .morphable import MorphableData, MorphableModel, vertex_normals
from .rasteriser import Fragments, Projected, Topology, antialias, rasterise, sample_texture
from .skin import linear_of_srgb
from .truth import (
    CELEBAMASK_19,
    EASYPORTRAIT_9,
    LABELS,
    LAPA_11,
    TOLERANCE,
    Points,
    class_table,
    eye_openings,
    five,
    label_of_part,
    landmarks98,
    mouth_opening,
    pupil_vertices,
    seen,
    visible98,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from .accessories import Layer

VERSION = 1
ROUGHNESS_STEPS = 20  # highlights are computed for roughness in steps of 0.05
PIVOT_DEPTH = 0.06  # metres from the face's surface to the middle of the head, about which it turns
IDENTITY_MODES, IDENTITY_SIGMA, IDENTITY_LIMIT = 40, 0.8, 2.5
FARTHEST_YAW, FARTHEST_TILT = 90.0, 45.0
EYE_RANGE = (35.0, 25.0)
EYE_SPACING = 0.063  # metres between the eyes
CLOSED = 0.5  # weight of eyeBlink from which an eye counts as closed
_WORN_TODAY = (
    *("hat", "hat_colour", "glasses", "glasses_colour", "glasses_tint", "collar", "cloth_colour"),
    *("occluder", "occluder_at", "occluder_colour"),
)
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
EMOTIONS: Mapping[str, Mapping[str, float]] = {
    "happiness": {"AU6": 4, "AU12": 5},
    "sadness": {"AU1": 4, "AU4": 3, "AU15": 4, "AU17": 2},
    "surprise": {"AU1": 4, "AU2": 4, "AU5": 4, "AU26": 5},
    "fear": {"AU1": 4, "AU2": 3, "AU4": 3, "AU5": 5, "AU20": 4, "AU26": 3},
    "anger": {"AU4": 5, "AU5": 3, "AU7": 4, "AU24": 3},
    "disgust": {"AU9": 5, "AU15": 3, "AU16": 2},
}
CAMERA_EFFECTS = Preset(
    "camera",
    sigma=(0.1, 4.0),
    down=(1.0, 2.0),
    noise=(0.0, 8.0),
    jpeg=(60.0, 100.0),
    motion=MotionRange(share=0.25, length=(3.0, 20.0)),
    p_down=0.3,
    p_jpeg=0.7,
)


@dataclass(frozen=True, slots=True)
class Backdrop:
    """What is behind the head: the picture `name` of a collection, the square `box` (x, y, side) of it as shares of its
    shorter side, or colours made from `seed` where there is no name."""

    seed: int
    name: str = ""
    box: tuple[float, float, float] = (0.0, 0.0, 1.0)


@dataclass(frozen=True, slots=True)
class Light:
    """`radiance` (3, 9) of the surroundings, RGB in spherical harmonics, and one key light: its direction in camera
    space and its irradiance, RGB on a surface that faces it. A white surface under radiance 1 everywhere is white."""

    radiance: tuple[tuple[float, ...], ...]
    direction: tuple[float, float, float]
    irradiance: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Scene:
    """All that is needed to make one picture. Equal scenes give equal bytes on the same machine.

    `identity` in standard deviations; `expression` weights 0..1 by name; `gaze` yaw and pitch of both eyes relative to
    the head, the picture's left eye first; `pose` yaw, pitch, roll as in `Pose`, all in degrees; `camera` in units of
    the model; `look` as plain data; `effects` is what the camera did to the picture.
    """

    model: str
    index: int
    person: int
    identity: tuple[float, ...]
    expression: dict[str, float]
    gaze: tuple[tuple[float, float], tuple[float, float]]
    pose: tuple[float, float, float]
    camera: Camera
    light: Light
    look: dict[str, Any]
    backdrop: Backdrop
    effects: Degradation
    version: int = VERSION

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Self:
        """The inverse of `to_json`. Raises UsageError if the line is no scene, or one of another version."""
        try:
            data = json.loads(line)
        except json.JSONDecodeError as error:
            raise UsageError(f"a scene must be one line of JSON, as 'facewright render' writes it ({error})") from error
        return cls.from_dict(data)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """A scene from plain data. Raises UsageError where something is missing, unknown or of another version."""
        if not isinstance(data, Mapping) or data.get("version") != VERSION:
            raise UsageError(f"not a scene of version {VERSION}: written by another version of facewright?")
        try:
            values = dict(data)
            camera, light, backdrop = (dict(values[key]) for key in ("camera", "light", "backdrop"))
            values["camera"] = Camera(**{**camera, "centre": tuple(camera["centre"])})
            values["light"] = Light(
                tuple(tuple(map(float, row)) for row in light["radiance"]),
                _three(light["direction"]),
                _three(light["irradiance"]),
            )
            values["backdrop"] = Backdrop(**{**backdrop, "box": _three(backdrop["box"])})
            values["identity"] = tuple(map(float, values["identity"]))
            values["gaze"] = tuple(_pair(eye) for eye in values["gaze"])
            values["pose"] = _three(values["pose"])
            values["expression"] = {str(k): float(v) for k, v in values["expression"].items()}
            values["effects"] = Degradation.from_dict(values["effects"])
            return cls(**values)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UsageError(f"not a scene as 'facewright render' writes it: {error!r}") from error


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    a, b, c = (float(v) for v in values)
    return a, b, c


def _pair(values: Sequence[float]) -> tuple[float, float]:
    a, b = (float(v) for v in values)
    return a, b


class SceneSampler:
    """Draws scenes for a face model; scene number i depends on the seed and i alone.

    `size` is one side or (width, height) in pixels. With `people` the faces are those of that many persons, else every
    scene shows a person of their own; hats, glasses, clothes and what is held before the face change from scene to
    scene. `rates` are those of `sample_look`. `effects` leaves the camera's blur, noise and JPEG out where it is false.
    """

    def __init__(
        self,
        data: MorphableData,
        seed: int,
        *,
        size: int | tuple[int, int] = 256,
        backgrounds: Backgrounds | None = None,
        people: int | None = None,
        rates: Mapping[str, float] | None = None,
        effects: bool = True,
    ) -> None:
        if seed < 0 or (people is not None and people < 1):
            raise UsageError(f"a seed of 0 or more and at least one person are needed, not {seed} and {people}")
        self.data, self.seed, self.people, self.effects = data, seed, people, effects
        self.size = (size, size) if isinstance(size, int) else size
        self.backgrounds, self.rates = backgrounds, rates

    def scene(self, index: int) -> Scene:
        """The scene of that number, 0 or more."""
        if index < 0:
            raise UsageError(f"scenes are numbered from 0, not {index}")
        rng = np.random.default_rng([self.seed, 0, index])
        person = index if self.people is None else int(rng.integers(self.people))
        traits = np.random.default_rng([self.seed, 1, person])
        modes = min(IDENTITY_MODES, len(self.data.identity))
        identity = _normal(traits, IDENTITY_SIGMA, IDENTITY_LIMIT, modes)
        pose = _draw_pose(rng)
        gaze = _draw_gaze(rng)
        return Scene(
            model=self.data.name,
            index=index,
            person=person,
            identity=identity,
            expression=_draw_expression(rng, gaze, self.data.expression_names),
            gaze=gaze,
            pose=pose,
            camera=draw_camera(rng, self.data, self.size),
            light=_draw_light(rng),
            look=self._dress_for_the_day(sample_look(traits, rates=self.rates), rng).to_json(),
            backdrop=self._draw_backdrop(rng),
            effects=_draw_effects(rng, self.size) if self.effects else sample("clean", 0, self.size[::-1]),
        )

    def _dress_for_the_day(self, person: Look, rng: np.random.Generator) -> Look:
        """The person with other things on."""
        today = sample_look(rng, rates=self.rates)
        worn = {name: getattr(today, name) for name in _WORN_TODAY}
        if person.hair in ("afro", "bun"):
            worn["hat"] = "none"
        return replace(person, **worn)

    def _draw_backdrop(self, rng: np.random.Generator) -> Backdrop:
        seed = int(rng.integers(2**31))
        if self.backgrounds is None:
            return Backdrop(seed)
        name = self.backgrounds.names[int(rng.integers(len(self.backgrounds.names)))]
        side = float(rng.uniform(0.5, 1.0))
        return Backdrop(seed, name, (float(rng.uniform(0, 1)), float(rng.uniform(0, 1)), side))


def _normal(rng: np.random.Generator, sigma: float, limit: float, count: int) -> tuple[float, ...]:
    return tuple(float(v) for v in np.clip(rng.normal(0, sigma, count), -limit, limit))


def _draw_pose(rng: np.random.Generator) -> tuple[float, float, float]:
    yaw = rng.uniform(-FARTHEST_YAW, FARTHEST_YAW) if rng.random() < 0.3 else rng.normal(0, 20)
    yaw = float(np.clip(yaw, -FARTHEST_YAW, FARTHEST_YAW))
    return yaw, *_pair(_normal(rng, 12, FARTHEST_TILT, 1) + _normal(rng, 8, FARTHEST_TILT, 1))


def _draw_gaze(rng: np.random.Generator) -> tuple[tuple[float, float], tuple[float, float]]:
    yaw, pitch = _normal(rng, 13, EYE_RANGE[0], 1)[0], _normal(rng, 8, EYE_RANGE[1], 1)[0]
    return converging(yaw, pitch, float(np.exp(rng.uniform(math.log(0.3), math.log(5)))))


def converging(yaw: float, pitch: float, distance: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """Gaze of both eyes that look at one point in direction (yaw, pitch) degrees, `distance` metres away."""
    inward = math.degrees(math.atan(EYE_SPACING / 2 / distance)) * math.cos(math.radians(yaw))
    return (yaw + inward, pitch), (yaw - inward, pitch)


def _draw_expression(
    rng: np.random.Generator, gaze: tuple[tuple[float, float], tuple[float, float]], names: tuple[str, ...]
) -> dict[str, float]:
    kind = rng.choice(["neutral", "emotion", "random"], p=[0.25, 0.5, 0.25])
    weights: dict[str, float] = {}
    if kind == "emotion":
        emotion, strength = str(rng.choice(list(EMOTIONS))), float(rng.uniform(0.3, 1))
        weights = emotion_weights(emotion, strength)
    elif kind == "random":
        free = [n for n in names if not n.startswith(("eyeBlink", "eyeLook", "Pupil"))]
        chosen = rng.choice(free, size=min(len(free), int(rng.integers(1, 7))), replace=False)
        weights = {str(n): float(rng.beta(1.2, 2.5)) for n in chosen}
    for name in names:
        if name.startswith(("brow", "mouthSmile", "mouthPress", "jawOpen", "cheek")):
            weights[name] = min(1.0, weights.get(name, 0.0) + float(abs(rng.normal(0, 0.04))))
    fate = rng.random()
    blink = 1.0 if fate < 0.05 else float(rng.uniform(0.3, 0.7)) if fate < 0.1 else 0.0
    weights |= lids(gaze[0][1], blink)
    return {name: value for name, value in sorted(weights.items()) if name in names and value > 0}


def emotion_weights(emotion: str, strength: float) -> dict[str, float]:
    """Blend shapes of one of `EMOTIONS` at 0..1. Raises UsageError for a name that is not there."""
    if emotion not in EMOTIONS:
        raise UsageError(f"unknown emotion {emotion!r}; there are {', '.join(EMOTIONS)}")
    return expression_of({unit: intensity * strength for unit, intensity in EMOTIONS[emotion].items()})


def lids(pitch: float, blink: float) -> dict[str, float]:
    """Weights of the lids for eyes turned up by `pitch` degrees and closed by 0..1."""
    share = min(1.0, abs(pitch) / EYE_RANGE[1]) * (1 - blink)
    follow = "eyeLookUp" if pitch > 0 else "eyeLookDown"
    return {f"{name}_{side}": value for side in "LR" for name, value in (("eyeBlink", blink), (follow, share))}


def draw_camera(rng: np.random.Generator, data: MorphableData, size: tuple[int, int]) -> Camera:
    """A camera before the head, which fills a drawn part of the picture; see the module's table."""
    width, height = size
    distance = math.exp(rng.uniform(math.log(0.35), math.log(2.0))) / data.unit
    focal = rng.uniform(0.3, 0.55) * height * distance / _face_height(data)
    x, y = ((side - 1) / 2 + rng.normal(0, 0.04) * height for side in size)
    return Camera(width, height, float(focal), (float(x), float(y)), float(distance), near=0.05 / data.unit)


def _face_height(data: MorphableData) -> float:
    if data.landmarks68 is None:
        raise UsageError(f"the face model {data.name} has no landmarks; scenes need them")
    return float(np.ptp(data.mean[data.landmarks68, 1]))


def _draw_light(rng: np.random.Generator) -> Light:
    """Ambient and key light that together give a white surface before the camera a radiance of 0.7 to 1.2."""
    exposure, share = rng.uniform(0.7, 1.2), rng.uniform(0.2, 0.8)
    gradient = torch.from_numpy(rng.normal(0, 1, 3)).double()
    gradient /= gradient.norm()
    sky, key = (torch.from_numpy(_tint(rng)) for _ in range(2))
    radiance = sky[:, None] * torch.eye(9, dtype=torch.float64)[:1] * math.sqrt(4 * math.pi) * share * exposure
    radiance += sh_of_light(gradient, sky * rng.uniform(0, 1.2) * share * exposure) * (torch.arange(9) > 0)
    azimuth, height = math.radians(rng.normal(0, 45)), math.radians(rng.uniform(-10, 65))
    direction = (math.sin(azimuth) * math.cos(height), math.sin(height), math.cos(azimuth) * math.cos(height))
    irradiance = key * math.pi * (1 - share) * exposure / max(0.4, direction[2])
    return Light(tuple(map(tuple, radiance.tolist())), _three(direction), _three(irradiance.tolist()))


def _tint(rng: np.random.Generator) -> NDArray[np.float64]:
    """Linear RGB of white light between warm and cool, of mean 1."""
    warmth = rng.normal(0, 0.15)
    tint = np.array([1 + warmth, 1.0, 1 - warmth]).clip(0.3)
    return np.asarray(tint / tint.mean())


def _draw_effects(rng: np.random.Generator, size: tuple[int, int]) -> Degradation:
    preset: str | Preset = CAMERA_EFFECTS if rng.random() < 0.7 else "clean"
    return sample(preset, rng, size[::-1], scaled=True)


class Backgrounds:
    """The pictures of a folder (with its folders) or an uncompressed tar, by name in sorted order.

    Raises ImageReadError where there are none.
    """

    def __init__(self, source: str | Path) -> None:
        self.source = Path(source)
        self.names = tuple(sorted(n for n in self._list() if n.lower().endswith(PICTURE_SUFFIXES)))
        if not self.names:
            raise ImageReadError(f"{self.source} holds no pictures for backgrounds; give a folder or a .tar of them")

    def _list(self) -> list[str]:
        if self.source.is_dir():
            return [p.relative_to(self.source).as_posix() for p in self.source.rglob("*") if p.is_file()]
        return list(self._members)

    @cached_property
    def _members(self) -> dict[str, tuple[int, int]]:
        """Where in the tar the bytes of each file are."""
        try:
            with TarFile.open(self.source, "r:") as tar:
                return {m.name: (m.offset_data, m.size) for m in tar if m.isfile()}
        except (OSError, TarError) as error:
            raise ImageReadError(
                f"{self.source} cannot be read as backgrounds; give a folder or a .tar ({error})"
            ) from error

    def picture(self, name: str) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB. Raises UsageError for a name that is not there."""
        if name not in self.names:
            raise UsageError(f"the scene's background {name!r} is not in {self.source}; give the one it was made with")
        if self.source.is_dir():
            return read(self.source / name).rgb()
        offset, size = self._members[name]
        with self.source.open("rb") as file:
            file.seek(offset)
            return read(file.read(size)).rgb()


def procedural_background(seed: int, size: tuple[int, int]) -> NDArray[np.float32]:
    """(H, W, 3) linear RGB: a gradient and coloured clouds of several sizes, in or out of focus."""
    width, height = size
    rng = np.random.default_rng(seed)
    base, other = rng.uniform(0.02, 0.8, (2, 3))
    y, x = np.mgrid[0:height, 0:width] / max(size)
    angle = rng.uniform(0, 2 * np.pi)
    slope = 0.5 + (x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle)
    picture = base + np.clip(slope, 0, 1)[..., None] * (other - base)
    for cells in (3, 7, 17):
        coarse = rng.normal(0, rng.uniform(0, 0.25), (cells, cells, 3)).astype(np.float32)
        picture += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(np.clip(picture, 0, 1), np.float32)


def _backdrop(record: Backdrop, size: tuple[int, int], backgrounds: Backgrounds | None) -> NDArray[np.float32]:
    """(H, W, 3) linear RGB. Raises UsageError where the scene wants pictures that were not given."""
    if not record.name:
        return procedural_background(record.seed, size)
    if backgrounds is None:
        raise UsageError(f"the scene's background {record.name!r} is a picture; give the collection with --backgrounds")
    picture = backgrounds.picture(record.name)
    width, height = size
    side = record.box[2] * min(picture.shape[1] / width, picture.shape[0] / height)
    wide, high = max(1, int(side * width)), max(1, int(side * height))
    x, y = (
        int(record.box[i] * (room - taken)) for i, (room, taken) in enumerate(zip(picture.shape[1::-1], (wide, high)))
    )
    shrinks = wide > width
    cut = cv2.resize(
        picture[y : y + high, x : x + wide], size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
    return linear_of_srgb(np.asarray(cut, np.float32) / np.float32(255))


def srgb_from_linear(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """sRGB-coded values 0..1 of linear light, which is cut to 0..1 (IEC 61966-2-1)."""
    light = np.clip(values, 0, 1)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055).astype(np.float32)


class Body:
    """What is drawn of a person: the face and all opaque layers as one surface, and the transparent layers."""

    def __init__(self, data: MorphableData, look: Look) -> None:
        self._dressed = worn = dress(data, look)
        solid = [layer for layer in worn.layers if layer.alpha >= 1]
        self.sheer = [layer for layer in worn.layers if layer.alpha < 1]
        self._solid = solid
        faces = len(data.triangles)
        starts = np.cumsum([len(data.mean), *(len(layer.colour) for layer in solid)])
        triangles = [torch.from_numpy(data.triangles), *(la.triangles + int(k) for la, k in zip(solid, starts))]
        self.topology = Topology.of(torch.cat(triangles))
        counts = [faces, *(len(layer.triangles) for layer in solid)]
        self._layer = torch.repeat_interleave(torch.arange(len(counts)) - 1, torch.tensor(counts))
        self._uv_corners = F.pad(worn.triangles_uv, (0, 0, 0, len(self._layer) - faces))
        self._colour = torch.cat([torch.zeros(len(data.mean), 3), *(layer.colour for layer in solid)]).float()
        teeth = [data.parts.index(part) for part in data.parts if part.startswith("teeth")]
        self._teeth = F.pad(torch.from_numpy(np.isin(data.triangle_part, teeth)), (0, len(self._layer) - faces))

    def vertices(self, face: Tensor) -> Tensor:
        """(1, V + K, 3) the face's vertices and those of the opaque layers."""
        return torch.cat([face, *(layer.vertices_of(face) for layer in self._solid)], 1)

    def surface(self, fragments: Fragments) -> Material:
        """Colour, label and gloss of the visible points."""
        layer = self._layer[fragments.triangle]
        on_face = layer < 0
        uv = fragments.interpolate(self._dressed.uv, self._uv_corners)
        texel = self._texel(uv)
        painted = sample_texture(self._dressed.albedo.permute(2, 0, 1)[None], uv, fragments)
        labels = torch.tensor(_LABEL_OF_TEXTURE)[self._dressed.labels[texel].long()]
        labels = torch.where(self._teeth[fragments.triangle], LABELS.index("teeth"), labels)
        own = torch.tensor([label_of_part(la.part) for la in self._solid] + [0])
        gloss, roughness = (
            torch.tensor([*(getattr(la, name) for la in self._solid), 0.0])[layer] for name in ("gloss", "roughness")
        )
        return Material(
            albedo=torch.where(on_face[:, None], painted, fragments.interpolate(self._colour)),
            labels=torch.where(on_face, labels, own[layer]),
            gloss=torch.where(on_face, self._dressed.gloss[texel], gloss),
            roughness=torch.where(on_face, self._dressed.roughness[texel], roughness),
        )

    def _texel(self, uv: Tensor) -> tuple[Tensor, Tensor]:
        height, width = self._dressed.labels.shape
        row = ((1 - uv[:, 1]) * height).long().clamp(0, height - 1)
        return row, (uv[:, 0] * width).long().clamp(0, width - 1)


class Material(NamedTuple):
    """Of P points: linear `albedo` (P, 3), `labels` (P,) into `LABELS`, `gloss` and `roughness` (P,)."""

    albedo: Tensor
    labels: Tensor
    gloss: Tensor
    roughness: Tensor


_LABEL_OF_TEXTURE = [LABELS.index(name) for name in CELEBAMASK_19]


@lru_cache(maxsize=2)
def dressed(data: MorphableData, look: Look) -> Body:
    """What is drawn of a person with that look; the last two are remembered, for clips."""
    return Body(data, look)


@dataclass(frozen=True, slots=True, eq=False)
class Rendered:
    """A picture and everything known about it.

    `rgb` is what the camera delivers and `clean` the same without its effects, (H, W, 3) uint8. Maps (H, W, ...):
    `depth` in metres, infinite where nothing is; unit `normals` in camera space (x right, y up, z to the camera) and
    linear `albedo` 0..1, both 0 there; `labels` index `LABELS`. `vertices` (V, 3) of the face model in camera space,
    metres; `rotation` (3, 3) turns the model's axes to them. Landmarks are of iBUG (68), WFLW (98) and `Face` (5);
    `light` (3, 9) is all light, with the key light, as radiance in spherical harmonics. `action_units` have intensities
    0..5; `gaze` is (2, 2) yaw and pitch relative to the head, `looking` (2, 3) the same as unit vectors in camera
    space; `blink` and `eye_opening` are (left, right) of the picture.
    """

    scene: Scene
    rgb: NDArray[np.uint8]
    clean: NDArray[np.uint8]
    depth: NDArray[np.float32]
    normals: NDArray[np.float32]
    albedo: NDArray[np.float32]
    labels: NDArray[np.uint8]
    vertices: NDArray[np.float32]
    rotation: NDArray[np.float32]
    landmarks68: Points
    landmarks98: Points
    points5: Points
    light: NDArray[np.float32]
    looking: NDArray[np.float32]
    action_units: dict[str, float]
    eye_opening: tuple[float, float]
    mouth_opening: float

    @property
    def pose(self) -> Pose:
        return Pose(*self.scene.pose)

    @property
    def camera(self) -> Camera:
        return self.scene.camera

    @property
    def gaze(self) -> NDArray[np.float32]:
        return np.asarray(self.scene.gaze, np.float32)

    @property
    def identity(self) -> int:
        """The number of the person."""
        return self.scene.person

    @property
    def age(self) -> float:
        """0 (12 years) to 1 (90 years)."""
        return float(self.scene.look["age"])

    @property
    def blink(self) -> tuple[float, float]:
        """How far the eyes are closed, 0..1."""
        weights = self.scene.expression
        return weights.get("eyeBlink_R", 0.0), weights.get("eyeBlink_L", 0.0)

    @property
    def parsing19(self) -> NDArray[np.uint8]:
        """(H, W) index into `CELEBAMASK_19`."""
        return np.asarray(class_table(CELEBAMASK_19)[self.labels])

    @property
    def easyportrait9(self) -> NDArray[np.uint8]:
        """(H, W) index into `EASYPORTRAIT_9`."""
        return np.asarray(class_table(EASYPORTRAIT_9)[self.labels])

    @property
    def lapa11(self) -> NDArray[np.uint8]:
        """(H, W) index into `LAPA_11`."""
        return np.asarray(class_table(LAPA_11)[self.labels])

    @property
    def attributes(self) -> dict[str, bool]:
        """What a face attribute classifier could be asked."""
        shown = set(np.unique(self.labels).tolist())
        smile = min(self.scene.expression.get(f"mouthSmile_{side}", 0.0) for side in "LR")
        look = self.scene.look
        return {
            "eyes_closed": min(self.blink) >= CLOSED,
            "mouth_open": self.mouth_opening > 0.1,
            "smiling": smile > 0.3,
            "beard": look["beard"] not in ("none", "stubble"),
            "sunglasses": look["glasses"] != "none" and look["glasses_tint"] > 0.5,
            **{name: LABELS.index(label) in shown for name, label in _WORN.items()},
        }

    def truth(self) -> dict[str, Any]:
        """All but the maps and vertices as plain data, ready for JSON; rounded, except the scene."""
        return {
            "scene": asdict(self.scene),
            "person": self.identity,
            "age": self.age,
            "pose": asdict(self.pose),
            "landmarks68": _listed(self.landmarks68),
            "landmarks98": _listed(self.landmarks98),
            "points5": _listed(self.points5),
            "gaze": _rounded(self.gaze),
            "looking": _rounded(self.looking),
            "expression": dict(self.scene.expression),
            "action_units": {k: round(v, 3) for k, v in self.action_units.items()},
            "light": _rounded(self.light),
            "attributes": self.attributes,
            "blink": list(self.blink),
            "eye_opening": [round(v, 4) for v in self.eye_opening],
            "mouth_opening": round(self.mouth_opening, 4),
        }


_WORN = {
    "hair": "hair",
    "glasses": "eye_g",
    "hat": "hat",
    "earrings": "ear_r",
    "necklace": "neck_l",
    "occluded": "occluder",
}


def _rounded(values: NDArray[np.float32]) -> Any:
    return np.round(values.astype(np.float64), 4).tolist()


def _listed(points: Points) -> dict[str, Any]:
    return {"xy": np.round(points.xy.astype(np.float64), 3).tolist(), "visible": points.visible.tolist()}


class Renderer:
    """Makes pictures of scenes. Scenes with pictures behind them need `backgrounds`; `cast` draws the key's shadows."""

    def __init__(self, data: MorphableData, *, backgrounds: Backgrounds | None = None, cast: bool = True) -> None:
        self.model = MorphableModel(data)
        self.backgrounds, self.cast = backgrounds, cast
        self._pupils = torch.from_numpy(pupil_vertices(data))
        self._pivot = torch.from_numpy(_pivot(data))

    @torch.inference_mode()
    def render(self, scene: Scene) -> Rendered:
        """Raises UsageError for a scene of another model, with unknown expressions or backgrounds not at hand."""
        if scene.model != self.model.data.name:
            raise UsageError(f"the scene shows the model {scene.model!r}, not {self.model.data.name!r}; give that one")
        face, rotation = self._placed(scene)
        body = dressed(self.model.data, Look.from_json(scene.look))
        solid = _seen(scene.camera, body.vertices(face), body.topology)
        stuff = body.surface(solid.fragments)
        unit = np.float32(self.model.data.unit)
        albedo, labels = (_map(solid.fragments, v) for v in (stuff.albedo, stuff.labels[:, None].float()))
        light = self._lit(scene, solid, stuff, _key_shadows(scene, solid, body.topology) if self.cast else None)
        picture = antialias(solid.fragments.image(light, self._behind(scene)), solid.fragments, solid.screen)
        covers = [(solid.screen, body.topology.triangles)]
        for layer in body.sheer:
            pane = _seen(scene.camera, layer.vertices_of(face), Topology.of(layer.triangles))
            picture = self._behind_glass(scene, picture, solid, pane, layer)
            labels[_in_front(pane, solid)] = label_of_part(layer.part)
            if layer.alpha >= 0.5:
                covers.append((pane.screen, layer.triangles))
        clean = np.rint(srgb_from_linear(picture[0].permute(1, 2, 0).numpy()) * 255).astype(np.uint8)
        return Rendered(
            scene=scene,
            rgb=apply(clean, scene.effects),
            clean=clean,
            depth=solid.fragments.depth_map()[0].numpy() * unit,
            normals=_map(solid.fragments, solid.normals),
            albedo=albedo,
            labels=labels[..., 0].astype(np.uint8),
            vertices=face[0].numpy() * unit,
            rotation=rotation[0].numpy(),
            **self._points(scene, face, covers),
            light=(torch.tensor(scene.light.radiance) + _key_light(scene.light)).numpy(),
            looking=_looking(scene, rotation).numpy(),
            action_units=action_units_of(scene.expression),
        )

    def _placed(self, scene: Scene) -> tuple[Tensor, Tensor]:
        """The face's vertices (1, V, 3) in camera space, in the model's units, and the head's rotation (1, 3, 3)."""
        weights = self.model.expression_weights(scene.expression)
        identity = torch.tensor([scene.identity], dtype=torch.float32)
        vertices = self.model.vertices(identity, weights, torch.tensor([scene.gaze]))
        rotation = rotation_from_pose(torch.tensor([scene.pose]))
        return place(vertices - self._pivot, rotation), rotation

    def _lit(self, scene: Scene, view: _View, stuff: Material, visible: Tensor | None) -> Tensor:
        """(P, 3) linear light towards the camera; `visible` (P, 1) is the key light's share that arrives."""
        ambient = sh_irradiance(view.normals, torch.tensor(scene.light.radiance)).clamp_min(0) * stuff.albedo / math.pi
        lights, picture = _lights(scene), view.fragments.picture
        total = ambient + directional(stuff.albedo, view.normals, view.towards, lights, picture, visible=visible)
        direction, irradiance = (value[:, 0] for value in lights.at(picture))
        received = (direction * view.normals).sum(-1).clamp_min(0) * (1.0 if visible is None else visible[:, 0])
        shine = torch.zeros(len(received))
        for roughness in torch.unique(stuff.roughness.mul(ROUGHNESS_STEPS).round()).tolist():
            mine = stuff.roughness.mul(ROUGHNESS_STEPS).round() == roughness
            gloss = Gloss(roughness=max(1.0, roughness) / ROUGHNESS_STEPS)
            shine[mine] = highlight(view.normals[mine], view.towards[mine], direction[mine], gloss)
        return total + (shine * stuff.gloss * received)[:, None] * irradiance

    def _behind(self, scene: Scene) -> Tensor:
        size = (scene.camera.width, scene.camera.height)
        return torch.from_numpy(_backdrop(scene.backdrop, size, self.backgrounds)).permute(2, 0, 1)[None]

    def _behind_glass(self, scene: Scene, picture: Tensor, solid: _View, pane: _View, layer: Layer) -> Tensor:
        """The picture (1, 3, H, W) with a transparent layer before it."""
        fragments = pane.fragments
        count = len(fragments.pixel)
        stuff = Material(
            albedo=fragments.interpolate(layer.colour.float()) * layer.alpha,
            labels=torch.zeros(count, dtype=torch.long),
            gloss=torch.full((count,), layer.gloss),
            roughness=torch.full((count,), layer.roughness),
        )
        flat = picture.permute(0, 2, 3, 1).reshape(-1, 3)
        through = flat[fragments.pixel] * (1 - layer.alpha) + self._lit(scene, pane, stuff, None)
        shown = fragments.image(torch.where(_nearer(pane, solid)[:, None], through, flat[fragments.pixel]), picture)
        return antialias(shown, fragments, pane.screen)

    def _points(self, scene: Scene, face: Tensor, covers: list[tuple[Projected, Tensor]]) -> dict[str, Any]:
        """The fields of `Rendered` that landmarks give; `covers` are the surfaces that hide them."""
        landmarks = self.model.landmarks(face)
        pupils = face[:, self._pupils]
        projected = scene.camera.project(torch.cat([landmarks, pupils], 1))
        size, tolerance = (scene.camera.width, scene.camera.height), TOLERANCE / self.model.data.unit
        visible = torch.stack([seen(projected, *cover, size, tolerance) for cover in covers]).all(0).numpy()
        points68 = Points(projected.xy[0, :68].numpy(), visible[:68])
        dense = scene.camera.project(landmarks98(landmarks, pupils)).xy[0].numpy()
        return {
            "landmarks68": points68,
            "landmarks98": Points(dense, np.concatenate([visible98(visible[:68]), visible[68:]])),
            "points5": five(points68),
            "eye_opening": eye_openings(landmarks[0]),
            "mouth_opening": mouth_opening(landmarks[0]),
        }


@dataclass(frozen=True, slots=True, eq=False)
class _View:
    """A surface as the camera sees it: vertices (1, V, 3), and of the P visible points the unit normals, turned to the
    camera, and the directions `towards` it."""

    vertices: Tensor
    screen: Projected
    fragments: Fragments
    normals: Tensor
    towards: Tensor


def _seen(camera: Camera, vertices: Tensor, topology: Topology) -> _View:
    screen = camera.project(vertices)
    fragments = rasterise(screen, topology, camera.height, camera.width, near=camera.near)
    normals = F.normalize(fragments.interpolate(vertex_normals(vertices, topology.triangles)), dim=-1)
    towards = camera.view(fragments.interpolate(vertices))
    away = (normals * towards).sum(-1, keepdim=True) < 0
    return _View(vertices, screen, fragments, torch.where(away, -normals, normals), towards)


def _nearer(pane: _View, solid: _View) -> Tensor:
    """(P,) which points of a pane are before the solid surface."""
    return pane.fragments.depth < solid.fragments.depth_map().flatten()[pane.fragments.pixel]


def _in_front(pane: _View, solid: _View) -> NDArray[np.bool_]:
    """(H, W) where a pane is before the solid surface."""
    return np.asarray(_map(pane.fragments, _nearer(pane, solid)[:, None].float())[..., 0] > 0)


def _lights(scene: Scene) -> Lights:
    return Lights(torch.tensor([[scene.light.direction]]), torch.tensor([[scene.light.irradiance]]))


def _key_shadows(scene: Scene, view: _View, topology: Topology) -> Tensor | None:
    """(P, 1) share of the key light that is not in shadow; None where nothing is seen."""
    fragments = view.fragments
    if not len(fragments.pixel):
        return None
    points = fragments.interpolate(view.vertices)
    return shadows(points, view.normals, fragments.picture, view.vertices, topology, _lights(scene))


def _pivot(data: MorphableData) -> NDArray[np.float32]:
    if data.landmarks68 is None:
        raise UsageError(f"the face model {data.name} has no landmarks; rendering needs them")
    middle = data.mean[data.landmarks68].mean(0)
    return np.asarray(middle - [0, 0, PIVOT_DEPTH / data.unit], np.float32)


def _map(fragments: Fragments, values: Tensor) -> NDArray[np.float32]:
    return np.asarray(fragments.image(values)[0].permute(1, 2, 0).contiguous().numpy())


def _key_light(light: Light) -> Tensor:
    direction = F.normalize(torch.tensor(light.direction), dim=0)
    return sh_of_light(direction, torch.tensor(light.irradiance))


def _looking(scene: Scene, rotation: Tensor) -> Tensor:
    """(2, 3) unit vectors in camera space."""
    turns = rotation_from_pose(torch.tensor([[*eye, 0.0] for eye in scene.gaze]))
    return (rotation @ turns)[:, :, 2]
