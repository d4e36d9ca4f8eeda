"""What is drawn of a dressed person, and what each visible point of it is made of."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from .appearance import dress
from .conventions import CELEBAMASK_19, LABELS, label_of_part
from .rasteriser import Topology, sample_texture

if TYPE_CHECKING:
    from torch import Tensor

    from .appearance import Look
    from .morphable import MorphableData
    from .rasteriser import Fragments

_LABEL_OF_TEXTURE = [LABELS.index(name) for name in CELEBAMASK_19]


class Material(NamedTuple):
    """Of P points: linear `albedo` (P, 3), `labels` (P,) into `LABELS`, `gloss` and `roughness` (P,)."""

    albedo: Tensor
    labels: Tensor
    gloss: Tensor
    roughness: Tensor


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

    def shading_normals(self, face: Tensor, vertices: Tensor, normals: Tensor) -> Tensor:
        """(1, V + K, 3) the unit normals that light sees, of all vertices with their unit `normals`."""
        counts = [face.shape[1], *(len(layer.colour) for layer in self._solid)]
        own, *worn = torch.split(normals, counts, 1)
        _, *places = torch.split(vertices, counts, 1)
        bent = (
            layer.shading_normals(face, at, n) if layer.rounding else n
            for layer, at, n in zip(self._solid, places, worn)
        )
        return torch.cat([own, *bent], 1)

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


@lru_cache(maxsize=2)
def dressed(data: MorphableData, look: Look) -> Body:
    """What is drawn of a person with that look; the last two are remembered, for clips."""
    return Body(data, look)
