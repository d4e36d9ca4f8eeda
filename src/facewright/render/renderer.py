"""Pictures of scenes, each with everything known about it.

picture = Renderer(coarse_face()).render(SceneSampler(coarse_face(), seed=1).scene(0))
picture.rgb, picture.labels, picture.landmarks68      # see `Rendered`

Lengths of the truth are metres, angles degrees; light and albedo are linear.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..degrade import apply
from ..errors import UsageError
from ..face import Pose
from .action_units import action_units_of
from .appearance import Look
from .backgrounds import Backgrounds, drawn_backdrop
from .body import Material, dressed
from .camera import Camera, place, rotation_from_pose
from .conventions import CELEBAMASK_19, EASYPORTRAIT_9, LABELS, LAPA_11, class_table, label_of_part, visible98
from .lighting import Gloss, Lights, directional, highlight, sh_irradiance, sh_of_light, shadows
from .morphable import MorphableData, MorphableModel, vertex_normals
from .rasteriser import Fragments, Projected, Topology, antialias, rasterise
from .skin import srgb_from_linear
from .truth import (
    TOLERANCE,
    Points,
    eye_openings,
    five,
    landmarks98,
    mouth_opening,
    pupil_vertices,
    seen,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from .accessories import Layer
    from .scene import Light, Scene

ROUGHNESS_STEPS = 20  # highlights are computed for roughness in steps of 0.05
PIVOT_DEPTH = 0.06  # metres from the face's surface to the middle of the head, about which it turns
CLOSED = 0.5  # weight of eyeBlink from which an eye counts as closed


@dataclass(frozen=True, slots=True, eq=False)
class Rendered:
    """A picture and everything known about it.

    `rgb` is what the camera delivers and `clean` the same without its effects, (H, W, 3) uint8. Maps (H, W, ...):
    `depth` in metres, infinite where nothing is; unit `normals` in camera space (x right, y up, z to the camera) and
    linear `albedo` 0..1, both 0 there; `labels` index `LABELS`. `vertices` (V, 3) of the face model in camera space,
    metres; `rotation` (3, 3) turns the model's axes to them. Landmarks are of iBUG (68), WFLW (98) and `Face` (5);
    `light` (3, 9) is all light, the directional ones too, as radiance in spherical harmonics. `action_units` have
    intensities 0..5; `gaze` is (2, 2) yaw and pitch relative to the head, `looking` (2, 3) the same as unit vectors in
    camera space; `blink` and `eye_opening` are (left, right) of the picture.
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
    """Makes pictures of scenes; those with pictures behind them need `backgrounds`. `cast` draws shadows."""

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
        vertices = body.vertices(face)
        solid = _seen(
            scene.camera, vertices, body.topology, lambda normals: body.shading_normals(face, vertices, normals)
        )
        stuff = body.surface(solid.fragments)
        unit = np.float32(self.model.data.unit)
        albedo, labels = (_map(solid.fragments, v) for v in (stuff.albedo, stuff.labels[:, None].float()))
        light = self._lit(scene, solid, stuff, _shadows(scene, solid, body.topology) if self.cast else None)
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
            light=(torch.tensor(scene.light.radiance) + _directional_light(scene.light)).numpy(),
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
        """(P, 3) linear light towards the camera; `visible` (P, L) is the share of each light that arrives."""
        ambient = sh_irradiance(view.shading, torch.tensor(scene.light.radiance)).clamp_min(0) * stuff.albedo / math.pi
        lights, picture = _lights(scene.light), view.fragments.picture
        total = ambient + directional(stuff.albedo, view.shading, view.towards, lights, picture, visible=visible)
        directions, irradiances = lights.at(picture)
        for k in range(directions.shape[1]):
            received = (directions[:, k] * view.shading).sum(-1).clamp_min(0)
            shine = _shine(view, stuff, directions[:, k]) * received
            total = total + (shine if visible is None else shine * visible[:, k])[:, None] * irradiances[:, k]
        return total

    def _behind(self, scene: Scene) -> Tensor:
        size = (scene.camera.width, scene.camera.height)
        return torch.from_numpy(drawn_backdrop(scene.backdrop, size, self.backgrounds)).permute(2, 0, 1)[None]

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
    """A surface as the camera sees it: vertices (1, V, 3), and of the P visible points the unit normals, those that
    light sees, both turned to the camera, and the directions `towards` it."""

    vertices: Tensor
    screen: Projected
    fragments: Fragments
    normals: Tensor
    shading: Tensor
    towards: Tensor


def _seen(
    camera: Camera, vertices: Tensor, topology: Topology, bend: Callable[[Tensor], Tensor] | None = None
) -> _View:
    """`bend` makes of the vertices' normals those that light sees."""
    screen = camera.project(vertices)
    fragments = rasterise(screen, topology, camera.height, camera.width, near=camera.near)
    towards = camera.view(fragments.interpolate(vertices))
    own = vertex_normals(vertices, topology.triangles)
    normals = _facing(fragments.interpolate(own), towards)
    shading = normals if bend is None else _facing(fragments.interpolate(bend(own)), towards)
    return _View(vertices, screen, fragments, normals, shading, towards)


def _facing(normals: Tensor, towards: Tensor) -> Tensor:
    """(P, 3) the unit normals on the camera's side."""
    unit = F.normalize(normals, dim=-1)
    return torch.where((unit * towards).sum(-1, keepdim=True) < 0, -unit, unit)


def _nearer(pane: _View, solid: _View) -> Tensor:
    """(P,) which points of a pane are before the solid surface."""
    return pane.fragments.depth < solid.fragments.depth_map().flatten()[pane.fragments.pixel]


def _in_front(pane: _View, solid: _View) -> NDArray[np.bool_]:
    """(H, W) where a pane is before the solid surface."""
    return np.asarray(_map(pane.fragments, _nearer(pane, solid)[:, None].float())[..., 0] > 0)


def _shine(view: _View, stuff: Material, direction: Tensor) -> Tensor:
    """(P,) reflectance of the highlights of a light from (P, 3)."""
    shine = torch.zeros(len(direction))
    for roughness in torch.unique(stuff.roughness.mul(ROUGHNESS_STEPS).round()).tolist():
        mine = stuff.roughness.mul(ROUGHNESS_STEPS).round() == roughness
        gloss = Gloss(roughness=max(1.0, roughness) / ROUGHNESS_STEPS)
        shine[mine] = highlight(view.shading[mine], view.towards[mine], direction[mine], gloss)
    return shine * stuff.gloss


def _lights(light: Light) -> Lights:
    lights = [(light.direction, light.irradiance), *light.others]
    directions, irradiances = (torch.tensor([values]) for values in zip(*lights))
    return Lights(directions, irradiances)


def _shadows(scene: Scene, view: _View, topology: Topology) -> Tensor | None:
    """(P, L) share of each light that is not in shadow; None where nothing is seen."""
    fragments = view.fragments
    if not len(fragments.pixel):
        return None
    points = fragments.interpolate(view.vertices)
    return shadows(points, view.normals, fragments.picture, view.vertices, topology, _lights(scene.light))


def _pivot(data: MorphableData) -> NDArray[np.float32]:
    if data.landmarks68 is None:
        raise UsageError(f"the face model {data.name} has no landmarks; rendering needs them")
    middle = data.mean[data.landmarks68].mean(0)
    return np.asarray(middle - [0, 0, PIVOT_DEPTH / data.unit], np.float32)


def _map(fragments: Fragments, values: Tensor) -> NDArray[np.float32]:
    return np.asarray(fragments.image(values)[0].permute(1, 2, 0).contiguous().numpy())


def _directional_light(light: Light) -> Tensor:
    """(3, 9) all directional lights in spherical harmonics."""
    lights = _lights(light)
    return sh_of_light(F.normalize(lights.direction[0], dim=-1), lights.irradiance[0]).sum(0)


def _looking(scene: Scene, rotation: Tensor) -> Tensor:
    """(2, 3) unit vectors in camera space."""
    turns = rotation_from_pose(torch.tensor([[*eye, 0.0] for eye in scene.gaze]))
    return (rotation @ turns)[:, :, 2]
