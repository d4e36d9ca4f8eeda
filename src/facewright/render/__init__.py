"""The 3-D face world: morphable models, cameras, a differentiable rasteriser and light, in plain PyTorch.

model = MorphableModel(coarse_face())
vertices = place(model.vertices(gaze=torch.tensor([[10.0, 0.0]])), rotation_from_pose(torch.tensor([[20.0, 0.0, 0.0]])))
screen = Camera.from_fov(256, 25, distance=70).project(vertices)
seen = rasterise(screen, model.topology, 256, 256, cull=True)
picture = antialias(seen.image(seen.interpolate(model.albedo())), seen, screen)
"""

from .action_units import ACTION_UNITS, action_units_of, expression_of
from .bfm import load_bfm, split_coefficients
from .camera import (
    Camera,
    WeakPerspective,
    place,
    pose_of_rotation,
    rotation_from_deep3d,
    rotation_from_pose,
)
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
from .rasterise import Fragments, Projected, Topology, antialias, rasterise, sample_texture

__all__ = [
    "ACTION_UNITS",
    "Camera",
    "Flame",
    "Fragments",
    "Gloss",
    "Lights",
    "MorphableData",
    "MorphableModel",
    "Projected",
    "Topology",
    "WeakPerspective",
    "action_units_of",
    "antialias",
    "coarse_face",
    "deep3d_shading",
    "directional",
    "expression_of",
    "five_points",
    "load_bfm",
    "load_flame",
    "load_ict",
    "place",
    "pose_of_rotation",
    "radiance_from_deep3d",
    "rasterise",
    "rotation_from_deep3d",
    "rotation_from_pose",
    "sample_texture",
    "sh_basis",
    "sh_irradiance",
    "sh_of_light",
    "shadows",
    "split_coefficients",
    "vertex_normals",
]
