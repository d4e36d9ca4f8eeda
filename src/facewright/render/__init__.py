"""The 3-D face world: morphable models, cameras, a differentiable rasteriser and light, in plain PyTorch.

model = MorphableModel(coarse_face())
vertices = place(model.vertices(gaze=torch.tensor([[10.0, 0.0]])), rotation_from_pose(torch.tensor([[20.0, 0.0, 0.0]])))
screen = Camera.from_fov(256, 25, distance=70).project(vertices)
seen = rasterise(screen, model.topology, 256, 256, cull=True)
picture = antialias(seen.image(seen.interpolate(model.albedo())), seen, screen)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .action_units import ACTION_UNITS, action_units_of, expression_of
    from .appearance import Dressed, Look, dress, sample_look
    from .backgrounds import Backgrounds
    from .bfm import load_bfm, split_coefficients
    from .camera import Camera, WeakPerspective, place, pose_of_rotation, rotation_from_deep3d, rotation_from_pose
    from .clips import make_clip
    from .coarse import coarse_face
    from .flame import Flame, load_flame
    from .ict import load_ict
    from .lighting import (
        Gloss,
        Lights,
        deep3d_shading,
        directional,
        radiance_from_deep3d,
        sh_basis,
        sh_irradiance,
        sh_of_light,
        shadows,
    )
    from .morphable import MorphableData, MorphableModel, five_points, vertex_normals
    from .rasteriser import Fragments, Projected, Topology, antialias, rasterise, sample_texture
    from .renderer import Rendered, Renderer
    from .scene import Scene, SceneSampler
    from .visemes import speak

_HOMES = {
    "sample_look": "appearance",
    "dress": "appearance",
    "Look": "appearance",
    "Dressed": "appearance",
    "ACTION_UNITS": "action_units",
    "Backgrounds": "backgrounds",
    "Camera": "camera",
    "Flame": "flame",
    "Fragments": "rasteriser",
    "Gloss": "lighting",
    "Lights": "lighting",
    "MorphableData": "morphable",
    "MorphableModel": "morphable",
    "Projected": "rasteriser",
    "Rendered": "renderer",
    "Renderer": "renderer",
    "Scene": "scene",
    "SceneSampler": "scene",
    "Topology": "rasteriser",
    "WeakPerspective": "camera",
    "action_units_of": "action_units",
    "antialias": "rasteriser",
    "coarse_face": "coarse",
    "deep3d_shading": "lighting",
    "directional": "lighting",
    "expression_of": "action_units",
    "five_points": "morphable",
    "load_bfm": "bfm",
    "load_flame": "flame",
    "load_ict": "ict",
    "make_clip": "clips",
    "place": "camera",
    "pose_of_rotation": "camera",
    "radiance_from_deep3d": "lighting",
    "rasterise": "rasteriser",
    "rotation_from_deep3d": "camera",
    "rotation_from_pose": "camera",
    "sample_texture": "rasteriser",
    "sh_basis": "lighting",
    "sh_irradiance": "lighting",
    "sh_of_light": "lighting",
    "shadows": "lighting",
    "speak": "visemes",
    "split_coefficients": "bfm",
    "vertex_normals": "morphable",
}

__all__ = [
    "ACTION_UNITS",
    "Backgrounds",
    "Camera",
    "Dressed",
    "Flame",
    "Fragments",
    "Gloss",
    "Lights",
    "Look",
    "MorphableData",
    "MorphableModel",
    "Projected",
    "Rendered",
    "Renderer",
    "Scene",
    "SceneSampler",
    "Topology",
    "WeakPerspective",
    "action_units_of",
    "antialias",
    "coarse_face",
    "deep3d_shading",
    "directional",
    "dress",
    "expression_of",
    "five_points",
    "load_bfm",
    "load_flame",
    "load_ict",
    "make_clip",
    "place",
    "pose_of_rotation",
    "radiance_from_deep3d",
    "rasterise",
    "rotation_from_deep3d",
    "rotation_from_pose",
    "sample_look",
    "sample_texture",
    "sh_basis",
    "sh_irradiance",
    "sh_of_light",
    "shadows",
    "speak",
    "split_coefficients",
    "vertex_normals",
]


def __getattr__(name: str) -> Any:
    """Import a name when it is first used, so that the command line starts without PyTorch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
