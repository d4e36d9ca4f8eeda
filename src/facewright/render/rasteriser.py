"""A differentiable z-buffer rasteriser in plain PyTorch: the same code on CPU and CUDA, no loop over triangles.

Visibility is found without gradients by scan conversion: triangles become rows, rows become spans, spans become
fragments, and one scatter of packed (distance, triangle) keys keeps the nearest fragment of every pixel. Barycentric
coordinates, depth and attributes are then computed, with gradients, for visible pixels only. `antialias` adds what
visibility lacks, the gradient of silhouettes, by blending the pixels on both sides of a silhouette edge according to
where the edge passes between them (the idea of Laine et al., Modular Primitives for High-Performance Differentiable
Rendering, 2020, section 3.6; here the edges look for their pixels instead of the pixels for their edges, so that
triangles smaller than a pixel are covered as well).

Pixels have their centres at integer positions, x to the right and y down.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from ..errors import UsageError
from ..nn.sampling import sample

BACKGROUND = -1
_FARTHEST = 2**31 - 1  # above the bits of every finite float32


class Projected(NamedTuple):
    """Vertices on the picture: `xy` (N, V, 2) pixels, `depth` (N, V) distance along the viewing axis in model units.

    Where `perspective` is false (weak perspective), depth may have any sign and attributes are linear on the picture.
    """

    xy: Tensor
    depth: Tensor
    perspective: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Topology:
    """Triangles and their neighbourhood: `triangles` (F, 3); `edges` (E, 2) vertices; `edge_triangles` (E, 2), the
    second −1 at a border; `edge_opposite` (E, 2), the vertex of each of those triangles that is not on the edge."""

    triangles: Tensor
    edges: Tensor
    edge_triangles: Tensor
    edge_opposite: Tensor

    @classmethod
    def of(cls, triangles: Tensor) -> Self:
        """Neighbourhood of (F, 3) triangles; of an edge with more than two triangles the first two are kept."""
        if triangles.ndim != 2 or triangles.shape[1] != 3 or triangles.shape[0] == 0:
            raise UsageError(
                f"triangles must be a non-empty (F, 3) array of vertex indices, not {tuple(triangles.shape)}"
            )
        corners = triangles.detach().cpu().numpy().astype(np.int64)
        sides = np.sort(np.concatenate([corners[:, [1, 2]], corners[:, [2, 0]], corners[:, [0, 1]]]), axis=1)
        owner = np.tile(np.arange(len(corners)), 3)
        opposite = np.concatenate([corners[:, 0], corners[:, 1], corners[:, 2]])
        order = np.lexsort((owner, sides[:, 1], sides[:, 0]))
        sides, owner, opposite = sides[order], owner[order], opposite[order]
        first = np.flatnonzero(np.r_[True, (sides[1:] != sides[:-1]).any(1)])
        shared = np.diff(np.r_[first, len(sides)]) > 1
        second = np.where(shared, first + 1, first)
        pair = np.stack([owner[first], np.where(shared, owner[second], BACKGROUND)], 1)
        arrays = (sides[first], pair, np.stack([opposite[first], opposite[second]], 1))
        return cls(triangles.long(), *(torch.from_numpy(a).to(triangles.device) for a in arrays))


@dataclass(frozen=True, slots=True, eq=False)
class Fragments:
    """The visible surface of N pictures of H×W pixels, stored for the P covered pixels only, in picture order.

    `pixel` (P,) is the index into the flattened (N, H, W) pictures, `triangle` (P,) the triangle seen there,
    `barycentric` (P, 3) its perspective-correct coordinates, `depth` (P,) the distance in model units. `culled` tells
    that triangles seen from behind were left out.
    """

    shape: tuple[int, int, int]
    topology: Topology
    pixel: Tensor
    triangle: Tensor
    barycentric: Tensor
    depth: Tensor
    culled: bool

    @property
    def picture(self) -> Tensor:
        """(P,) which picture of the batch a fragment belongs to."""
        return self.pixel // (self.shape[1] * self.shape[2])

    def triangle_map(self) -> Tensor:
        """(N, H, W) index of the triangle seen, −1 where there is none."""
        return self._filled(self.triangle, BACKGROUND)

    def depth_map(self) -> Tensor:
        """(N, H, W) distance in model units, infinite where nothing is seen; with gradients."""
        return self._filled(self.depth, float("inf"))

    def mask(self) -> Tensor:
        """(N, H, W) bool, true where something is seen."""
        return self.triangle_map() != BACKGROUND

    def interpolate(self, attributes: Tensor, triangles: Tensor | None = None) -> Tensor:
        """(P, C) values of vertex attributes (V, C) or (N, V, C) at the visible points.

        `triangles` (F, 3) indexes the attributes where they have their own corners, as texture coordinates do.
        """
        corners = (self.topology.triangles if triangles is None else triangles)[self.triangle]
        if attributes.ndim == 3:
            corners = corners + self.picture[:, None] * attributes.shape[1]
        values = attributes.flatten(0, -2)[corners]
        return (values * self.barycentric[..., None].to(values.dtype)).sum(1)

    def image(self, values: Tensor, background: float | Tensor = 0.0) -> Tensor:
        """(N, C, H, W) pictures of the fragments' (P, C) values; `background` is a number or (N, C, H, W) pictures."""
        n, h, w = self.shape
        if isinstance(background, Tensor):
            canvas = background.permute(0, 2, 3, 1).to(values.dtype).reshape(n * h * w, -1)
        else:
            canvas = values.new_full((n * h * w, values.shape[1]), background)
        return canvas.index_copy(0, self.pixel, values).view(n, h, w, -1).permute(0, 3, 1, 2)

    def _filled(self, values: Tensor, empty: float) -> Tensor:
        n, h, w = self.shape
        return values.new_full((n * h * w,), empty).index_copy(0, self.pixel, values).view(n, h, w)


def rasterise(
    screen: Projected, topology: Topology, height: int, width: int, *, near: float = 1e-4, cull: bool = False
) -> Fragments:
    """The nearest triangle of every pixel.

    Perspective triangles with a corner nearer than `near` are left out as a whole, as are those without area. `cull`
    leaves out triangles seen from behind (clockwise as seen by the viewer). Of surfaces at the same depth the lowest
    triangle index wins. Raises UsageError for an empty picture or positions that are not finite.
    """
    if height < 1 or width < 1:
        raise UsageError(f"cannot rasterise a picture of {width}×{height} pixels")
    if not (torch.isfinite(screen.xy).all() and torch.isfinite(screen.depth).all()):
        raise UsageError("vertex positions on the picture must be finite; check coefficients and camera")
    with torch.no_grad():
        triangle, pixel, nearness = _scan(screen, topology, height, width, near, cull)
        winner = _nearest(pixel, nearness, triangle, screen.xy.shape[0] * height * width)
        covered = torch.nonzero(winner != BACKGROUND).squeeze(1)
        seen = winner[covered]
    barycentric, depth = _barycentric(screen, topology, covered, seen, height, width)
    shape = (screen.xy.shape[0], height, width)
    return Fragments(shape, topology, covered, seen, barycentric, depth, cull)


def sample_texture(texture: Tensor, uv: Tensor, fragments: Fragments) -> Tensor:
    """(P, C) bilinear samples of textures (N or 1, C, H, W) at the fragments' (P, 2) coordinates.

    u runs to the right and v up, both 0..1 from edge to edge of the texture; beyond, the border continues. Gradients
    reach texture and coordinates.
    """
    n = fragments.shape[0]
    if texture.shape[0] not in (1, n):
        raise UsageError(f"{texture.shape[0]} textures do not fit {n} pictures; give one, or one for each")
    grid = torch.stack([uv[:, 0] * 2 - 1, 1 - uv[:, 1] * 2], -1)
    counts = [len(uv)] if texture.shape[0] == 1 else torch.bincount(fragments.picture, minlength=n).tolist()
    sampled = [
        sample(one[None], points[None, None], padding_mode="border", align_corners=False)
        for one, points in zip(texture, torch.split(grid, counts))
    ]
    return torch.cat([s[0, :, 0].T for s in sampled])


def antialias(image: Tensor, fragments: Fragments, screen: Projected) -> Tensor:
    """Pictures (N, C, H, W) of the fragments with smooth silhouettes; `screen` is what was rasterised.

    Each silhouette edge blends across itself, once per pixel row if it is steep and once per column if it is flat: at
    distance a from the pixel centre inside to the one outside, the outer pixel takes a − ½ of the inner colour, or
    the inner pixel ½ − a of the outer one. The sum of both changes by the colour difference times the edge's movement,
    which is the derivative of the area covered; it reaches the vertices through a.
    """
    n, channels, height, width = image.shape
    if (n, height, width) != fragments.shape:
        raise UsageError(f"pictures of shape {tuple(image.shape)} do not belong to fragments of {fragments.shape}")
    crossings = _silhouette_crossings(fragments, screen)
    colours = image.permute(0, 2, 3, 1).reshape(-1, channels)
    weight = (crossings.distance - 0.5).abs().to(colours.dtype)
    outward = crossings.distance > 0.5
    target = torch.where(outward, crossings.outside, crossings.inside)
    source = torch.where(outward, crossings.inside, crossings.outside)
    change = weight[:, None] * (colours[source] - colours[target])
    total = torch.zeros_like(colours[:, 0]).index_add(0, target, weight)
    blended = torch.zeros_like(colours).index_add(0, target, change) / total.clamp_min(1)[:, None]
    return (colours + blended).view(n, height, width, channels).permute(0, 3, 1, 2)


def signed_areas(screen: Projected, triangles: Tensor) -> Tensor:
    """(N, F) twice the area in square pixels, positive where the viewer sees the front (counter-clockwise corners)."""
    a, b, c = screen.xy[:, triangles].unbind(2)
    return _cross(c - a, b - a)


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _nearness(screen: Projected) -> Tensor:
    """(N, V) float32: positive, larger when nearer, and linear on the picture. Values behind a camera mean nothing."""
    depth = screen.depth.detach()
    return (1 / depth if screen.perspective else depth.max() - depth + 1).float()


def _nearest(place: Tensor, nearness: Tensor, identity: Tensor, size: int) -> Tensor:
    """(size,) the identity of the nearest entry at each place, the lowest of equals, −1 where there is none.

    Bits of positive floats are ordered like the floats, so distance and identity fit one integer.
    """
    key = ((_FARTHEST - nearness.view(torch.int32).long()) << 32) | identity
    nearest = torch.full((size,), torch.iinfo(torch.int64).max, device=place.device)
    nearest.scatter_reduce_(0, place, key, "amin")
    empty = nearest == torch.iinfo(torch.int64).max
    return torch.where(empty, BACKGROUND, nearest & (2**32 - 1))


def _expand(counts: Tensor) -> tuple[Tensor, Tensor]:
    """For counts (K,): the owner and the running number 0..count−1 of each of the counts' sum of entries."""
    total = int(counts.sum())
    owner = torch.repeat_interleave(counts, output_size=total)
    start = counts.cumsum(0) - counts
    return owner, torch.arange(total, device=counts.device) - start[owner]


def _scan(
    screen: Projected, topology: Topology, height: int, width: int, near: float, cull: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Triangle, pixel and nearness of every fragment, visible or not."""
    screen = Projected(screen.xy.detach().float(), screen.depth.detach(), screen.perspective)
    picture, triangle, first, last = _candidates(screen, topology, height, width, near, cull)
    corner = topology.triangles[triangle] + (picture * screen.xy.shape[1])[:, None]
    points = torch.cat([screen.xy, _nearness(screen)[..., None]], -1).flatten(0, 1)[corner]
    gradient = _plane_gradient(points)
    points = points.gather(1, points[..., 1].argsort(1)[..., None].expand(-1, -1, 3))

    owner, step = _expand((last - first + 1).long())
    row = first[owner] + step
    start, end = _row_ends(points, row, owner)
    start, end = start.ceil().clamp_min(0), end.floor().clamp_max(width - 1)
    origin, across, down = points[owner, 0], gradient[owner, 0], gradient[owner, 1]
    nearness = origin[:, 2] + across * (start - origin[:, 0]) + down * (row - origin[:, 1])
    place = (picture[owner] * height + row.long()) * width + start.long()

    span, step = _expand((end - start + 1).clamp_min(0).long())
    nearness = nearness[span] + across[span] * step
    return triangle[owner][span], place[span] + step, nearness.clamp_min(torch.finfo(torch.float32).tiny)


def _candidates(
    screen: Projected, topology: Topology, height: int, width: int, near: float, cull: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Picture, triangle, first and last row of all triangles whose bounding box holds a pixel centre."""
    x, y = (screen.xy[..., i][:, topology.triangles] for i in (0, 1))
    first, last = y.amin(-1).ceil().clamp_min(0), y.amax(-1).floor().clamp_max(height - 1)
    left, right = x.amin(-1).ceil().clamp_min(0), x.amax(-1).floor().clamp_max(width - 1)
    area = signed_areas(screen, topology.triangles)
    drawn = (last >= first) & (right >= left) & ((area > 0) if cull else (area != 0))
    if screen.perspective:
        drawn &= (screen.depth > near)[:, topology.triangles].all(-1)
    picture, triangle = torch.nonzero(drawn, as_tuple=True)
    return picture, triangle, first[picture, triangle], last[picture, triangle]


def _row_ends(points: Tensor, row: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
    """(R,) where rows enter and leave their triangles; corners of `points` (K, 3, 3) are sorted by y.

    Both triangles at an edge compute its crossing in the same way, so they leave no gap and no doubt between them.
    """
    x, y = points[..., 0], points[..., 1]
    slopes = _slopes(x, y)[owner]
    x, y = x[owner], y[owner]
    long_edge = x[:, 0] + (row - y[:, 0]) * slopes[:, 0]
    upper_edge = x[:, 0] + (row - y[:, 0]) * slopes[:, 1]
    lower_edge = x[:, 1] + (row - y[:, 1]) * slopes[:, 2]
    short_edge = torch.where(row >= y[:, 1], lower_edge, upper_edge)
    return torch.minimum(long_edge, short_edge), torch.maximum(long_edge, short_edge)


def _plane_gradient(points: Tensor) -> Tensor:
    """(K, 2) change of the third coordinate of triangles (K, 3, 3) along the first two."""
    a, b = points[:, 1] - points[:, 0], points[:, 2] - points[:, 0]
    area = _cross(a, b)
    along_x = (a[:, 2] * b[:, 1] - b[:, 2] * a[:, 1]) / area
    along_y = (b[:, 2] * a[:, 0] - a[:, 2] * b[:, 0]) / area
    return torch.stack([along_x, along_y], -1)


def _slopes(x: Tensor, y: Tensor) -> Tensor:
    """(K, 3) dx/dy of the edges 0–2, 0–1 and 1–2 of triangles whose corners are sorted by y; 0 for flat edges."""
    dx = torch.stack([x[:, 2] - x[:, 0], x[:, 1] - x[:, 0], x[:, 2] - x[:, 1]], -1)
    dy = torch.stack([y[:, 2] - y[:, 0], y[:, 1] - y[:, 0], y[:, 2] - y[:, 1]], -1)
    return torch.where(dy > 0, dx / dy, 0.0)


def _barycentric(
    screen: Projected, topology: Topology, pixel: Tensor, triangle: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor]:
    """Perspective-correct coordinates (P, 3) and depth (P,), with gradients to the projected vertices."""
    picture = pixel // (height * width)
    corner = topology.triangles[triangle] + (picture * screen.xy.shape[1])[:, None]
    points = torch.cat([screen.xy, screen.depth[..., None]], -1).flatten(0, 1)[corner]
    centre = torch.stack([pixel % width, pixel // width % height], -1).to(points.dtype)
    a, b, c = (points[..., :2] - centre[:, None]).unbind(1)
    weights = torch.stack([_cross(b, c), _cross(c, a), _cross(a, b)], -1)
    depth = points[..., 2]
    if not screen.perspective:
        weights = weights / weights.sum(-1, keepdim=True)
        return weights, (weights * depth).sum(-1)
    area = weights.sum(-1)
    weights = weights / depth
    total = weights.sum(-1)
    return weights / total[:, None], area / total


class _Crossings(NamedTuple):
    """Where silhouettes pass between two neighbouring pixels: their indices (K,) and the distance (K,) in 0..1 from
    the centre of the inner one."""

    inside: Tensor
    outside: Tensor
    distance: Tensor


def _silhouette_crossings(fragments: Fragments, screen: Projected) -> _Crossings:
    with torch.no_grad():
        picture, ends, opposite = _silhouettes(fragments, screen)
        depth = fragments.depth_map().flatten().detach()
        seen = fragments.triangle_map().flatten()
        nearness = _nearness(screen).flatten()
    points = screen.xy.flatten(0, 1)
    edge, third = points[ends], points[opposite].detach()
    direction = (edge[:, 1] - edge[:, 0]).detach().abs()
    steep = direction[:, 1] >= direction[:, 0]
    parts, keys = [], []
    for axis, chosen in ((1, steep), (0, ~steep)):
        crossings, near = _cross_lines(
            edge[chosen], third[chosen], nearness[ends[chosen]], picture[chosen], fragments.shape, axis
        )
        edge_depth = 1 / near if screen.perspective else screen.depth.detach().max() + 1 - near
        inside, outside, _ = crossings
        front = (seen[inside] != seen[outside]) & (depth[inside] < depth[outside]) & (edge_depth < depth[outside])
        parts.append(_Crossings(*(values[front] for values in crossings)))
        keys.append((torch.minimum(inside, outside)[front] * 2 + axis, near[front]))
    place, near = (torch.cat(values) for values in zip(*keys))
    found = _Crossings(*(torch.cat(values) for values in zip(*parts)))
    number = torch.arange(len(place), device=place.device)
    kept = _nearest(place, near, number, 2 * seen.numel())[place] == number
    return _Crossings(*(values[kept] for values in found))


def _silhouettes(fragments: Fragments, screen: Projected) -> tuple[Tensor, Tensor, Tensor]:
    """Picture (K,), end vertices (K, 2) and inner vertex (K,) of the edges at which the surface ends or folds over."""
    topology, vertices = fragments.topology, screen.xy.shape[1]
    side = signed_areas(screen, topology.triangles).sign()
    first, second = (side[:, topology.edge_triangles[:, i]] for i in (0, 1))
    second = torch.where(topology.edge_triangles[:, 1] == BACKGROUND, 0.0, second)
    drawn_first, drawn_second = (first > 0, second > 0) if fragments.culled else (first != 0, second != 0)
    picture, edge = torch.nonzero((first * second <= 0) & (drawn_first | drawn_second), as_tuple=True)
    inner = torch.where(drawn_first[picture, edge], topology.edge_opposite[edge, 0], topology.edge_opposite[edge, 1])
    offset = picture * vertices
    in_front = torch.ones_like(picture, dtype=torch.bool)
    ends = topology.edges[edge] + offset[:, None]
    if screen.perspective:
        in_front = (screen.depth.flatten()[ends] > 0).all(1)
    return picture[in_front], ends[in_front], (inner + offset)[in_front]


def _cross_lines(
    edge: Tensor, third: Tensor, nearness: Tensor, picture: Tensor, shape: tuple[int, int, int], axis: int
) -> tuple[_Crossings, Tensor]:
    """Crossings of edges (K, 2, 2) with the pixel rows (axis 1) or columns (axis 0), and the edges' nearness there."""
    _, height, width = shape
    lines, cells = (height, width) if axis == 1 else (width, height)
    along, across = edge[..., axis], edge[..., 1 - axis]
    with torch.no_grad():
        low = along.amin(1).ceil().clamp_min(0)
        counts = (along.amax(1).ceil().clamp_max(lines) - low).clamp_min(0).long()
        owner, step = _expand(counts)
        line = low[owner] + step
        slope = (across[:, 1] - across[:, 0]) / (along[:, 1] - along[:, 0]).where(counts > 0, 1.0)
        beyond = third[:, 1 - axis] > across[:, 0] + (third[:, axis] - along[:, 0]) * slope
    along, across, near = along[owner], across[owner], nearness[owner]
    share = (line - along[:, 0]) / (along[:, 1] - along[:, 0])
    position = across[:, 0] + share * (across[:, 1] - across[:, 0])
    with torch.no_grad():
        cell = position.floor()
        near = near[:, 0] + share.float() * (near[:, 1] - near[:, 0])
        valid = (cell >= 0) & (cell < cells - 1)
    owner, line, cell, position, near = (v[valid] for v in (owner, line.long(), cell.long(), position, near))
    start = picture[owner] * height * width
    low_pixel = start + (line * width + cell if axis == 1 else cell * width + line)
    high_pixel = low_pixel + (1 if axis == 1 else width)
    high_inside = beyond[owner]
    distance = torch.where(high_inside, cell + 1 - position, position - cell)
    inside = torch.where(high_inside, high_pixel, low_pixel)
    outside = torch.where(high_inside, low_pixel, high_pixel)
    return _Crossings(inside, outside, distance), near
