"""Scenes: everything a rendered picture shows, drawn from a seed and kept as a line of JSON.

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

Angles are degrees; light is linear. The emotions are the action units of EMFACS (Friesen and Ekman 1983) that have
blend shapes. Pictures of scenes, with their truth, are made by `renderer.Renderer`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from ..degrade import Degradation, MotionRange, Preset, sample
from ..errors import UsageError
from .action_units import expression_of
from .appearance import Look, sample_look
from .backgrounds import Backdrop
from .camera import Camera
from .lighting import sh_of_light

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from .backgrounds import Backgrounds
    from .morphable import MorphableData

VERSION = 1
IDENTITY_MODES, IDENTITY_SIGMA, IDENTITY_LIMIT = 40, 0.8, 2.5
FARTHEST_YAW, FARTHEST_TILT = 90.0, 45.0
EYE_RANGE = (35.0, 25.0)
EYE_SPACING = 0.063  # metres between the eyes
_WORN_TODAY = (
    *("hat", "hat_colour", "glasses", "glasses_colour", "glasses_tint", "collar", "cloth_colour"),
    *("occluder", "occluder_at", "occluder_colour"),
)
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
class Light:
    """`radiance` (3, 9) of the surroundings, RGB in spherical harmonics, and one key light: its direction in camera
    space and its irradiance, RGB on a surface that faces it. A white surface under radiance 1 everywhere is white.
    `others` are up to two further lights (direction, irradiance); the sampler draws none. Raises UsageError for values
    that are not finite."""

    radiance: tuple[tuple[float, ...], ...]
    direction: tuple[float, float, float]
    irradiance: tuple[float, float, float]
    others: tuple[tuple[tuple[float, float, float], tuple[float, float, float]], ...] = ()

    def __post_init__(self) -> None:
        triples = (
            *self.radiance,
            self.direction,
            self.irradiance,
            *(values for pair in self.others for values in pair),
        )
        if not all(math.isfinite(value) for values in triples for value in values):
            raise UsageError("the light of a scene must be finite, but some of its values are NaN or infinite")


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
        """The inverse of `to_json`. Raises UsageError if the line is not a scene, or one of another version."""
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
                tuple((_three(direction), _three(irradiance)) for direction, irradiance in light.get("others", ())),
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
        raise UsageError(f"unknown emotion {emotion!r}; choose from {', '.join(EMOTIONS)}")
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
