"""Visibility against a plain loop, interpolation against closed forms, gradients against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from facewright.errors import UsageError
from facewright.render import Camera, Projected, Topology, antialias, rasterise, sample_texture, vertex_normals

SIZE = 48


def flat(points: list[list[float]], depth: float = 1.0) -> Projected:
    xy = torch.tensor([points], dtype=torch.float64)
    return Projected(xy, torch.full(xy.shape[:2], depth, dtype=torch.float64))


def looped(xy: np.ndarray, depth: np.ndarray, triangles: np.ndarray, *, cull: bool) -> tuple[np.ndarray, np.ndarray]:
    """Nearest triangle (H, W) by a loop over triangles, and how sure that is: the distance to edges and to ties."""
    nearest, seen = np.zeros((SIZE, SIZE)), np.full((SIZE, SIZE), -1)
    margin = np.full((SIZE, SIZE), np.inf)
    y, x = np.mgrid[:SIZE, :SIZE].astype(float)
    for number, corners in enumerate(triangles):
        (ax, ay), (bx, by), (cx, cy) = xy[corners]
        area = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
        if area == 0 or (cull and area > 0):
            continue
        weights = [((x - bx) * (cy - by) - (y - by) * (cx - bx)) / -area]
        weights += [((x - cx) * (ay - cy) - (y - cy) * (ax - cx)) / -area]
        weights += [1 - weights[0] - weights[1]]
        inside = np.min(weights, 0)
        here = sum(w / depth[c] for w, c in zip(weights, corners))
        margin = np.minimum(margin, np.abs(inside))
        margin = np.where(inside >= 0, np.minimum(margin, np.abs(here - nearest)), margin)
        wins = (inside >= 0) & (here > nearest)
        nearest, seen = np.where(wins, here, nearest), np.where(wins, number, seen)
    return seen, margin


@pytest.mark.parametrize("cull", [False, True])
def test_visibility_equals_a_loop_over_triangles(cull):
    rng = np.random.default_rng(0)
    xy, depth = rng.uniform(-12, SIZE + 12, (2, 90, 2)), rng.uniform(1, 3, (2, 90))
    triangles = rng.permutation(90).reshape(30, 3)
    screen = Projected(torch.from_numpy(xy), torch.from_numpy(depth))
    seen = rasterise(screen, Topology.of(torch.from_numpy(triangles)), SIZE, SIZE, cull=cull).triangle_map().numpy()
    for k in range(2):
        expected, margin = looped(xy[k], depth[k], triangles, cull=cull)
        sure = margin > 1e-5
        assert sure.mean() > 0.99
        assert np.array_equal(seen[k][sure], expected[sure])


def test_a_mesh_has_no_gaps_between_its_triangles():
    rng = np.random.default_rng(1)
    y, x = np.mgrid[0:13, 0:13] * 4.0 - 0.5
    points = np.stack([x, y], -1)
    points[1:-1, 1:-1] += rng.uniform(-1.9, 1.9, (11, 11, 2))
    points[3, 3], points[5, 5] = (10.0, 11.0), (20.0, 20.0)  # right on pixel centres
    corner = np.arange(169).reshape(13, 13)
    quads = np.stack([corner[:-1, :-1], corner[1:, :-1], corner[1:, 1:], corner[:-1, 1:]], -1).reshape(-1, 4)
    triangles = torch.from_numpy(np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]))
    screen = Projected(torch.from_numpy(points.reshape(1, -1, 2)).float(), torch.ones(1, 169))
    assert rasterise(screen, Topology.of(triangles), SIZE, SIZE).mask().all()


def test_interpolation_on_a_tilted_plane_is_perspective_correct():
    camera = Camera.from_fov(SIZE, 40, distance=3)
    corners = torch.tensor([[-2.0, -1.5, 1.2], [1.5, -1.5, -1.5], [0.3, 2.0, 0.5]], dtype=torch.float64)
    screen = camera.project(corners[None])
    seen = rasterise(screen, Topology.of(torch.tensor([[0, 1, 2]])), SIZE, SIZE)
    pixels = torch.stack([seen.pixel % SIZE, seen.pixel // SIZE], -1).double()
    ray = camera.unproject(pixels, torch.ones(len(pixels), dtype=torch.float64))
    eye = torch.tensor([0.0, 0.0, 3.0], dtype=torch.float64)
    normal = torch.linalg.cross(corners[1] - corners[0], corners[2] - corners[0])
    distance = ((corners[0] - eye) @ normal) / ((ray - eye) @ normal)
    expected = eye + distance[:, None] * (ray - eye)
    assert len(expected) > 300
    assert torch.allclose(seen.interpolate(corners), expected, atol=1e-10)
    assert torch.allclose(seen.depth, 3 - expected[:, 2], atol=1e-10)
    assert (seen.barycentric.sum(1) - 1).abs().max() < 1e-12


def test_weak_perspective_interpolates_linearly_and_takes_any_depth():
    screen = Projected(
        torch.tensor([[[0.0, 0], [40, 0], [0, 40]]]), torch.tensor([[-5.0, 3.0, -1.0]]), perspective=False
    )
    seen = rasterise(screen, Topology.of(torch.tensor([[0, 2, 1]])), SIZE, SIZE, cull=True)
    x, y = seen.pixel % SIZE, seen.pixel // SIZE
    assert len(x) == 41 * 42 / 2
    assert torch.allclose(seen.depth, -5 + x * 0.2 + y * 0.1, atol=1e-5)


def test_a_batch_equals_its_pictures(sphere):
    vertices, triangles = sphere(8, 10)
    topology, camera = Topology.of(triangles), Camera.from_fov(SIZE, 40, distance=4)
    both = torch.stack([vertices, vertices * 0.7 + 0.2])
    batch = rasterise(camera.project(both), topology, SIZE, SIZE)
    image = antialias(batch.image(batch.interpolate(both)), batch, camera.project(both))
    for k in range(2):
        screen = camera.project(both[k : k + 1])
        one = rasterise(screen, topology, SIZE, SIZE)
        assert torch.equal(one.depth_map()[0], batch.depth_map()[k])
        assert torch.equal(antialias(one.image(one.interpolate(both[k])), one, screen)[0], image[k])


def test_normals_agree_with_the_slope_of_the_depth_map(sphere):
    vertices, triangles = sphere(60, 80)
    camera = Camera.from_fov(128, 30, distance=5)
    seen = rasterise(camera.project(vertices[None]), Topology.of(triangles), 128, 128, cull=True)
    normals = F.normalize(seen.interpolate(vertex_normals(vertices[None], triangles)), dim=-1)
    assert (normals * F.normalize(seen.interpolate(vertices), dim=-1)).sum(-1).min() > 0.999
    y, x = torch.meshgrid(torch.arange(128.0), torch.arange(128.0), indexing="ij")
    points = camera.unproject(torch.stack([x, y], -1).double(), seen.depth_map()[0])
    slope = torch.linalg.cross(points[1:-1, 2:] - points[1:-1, :-2], points[:-2, 1:-1] - points[2:, 1:-1])
    slope = F.pad(F.normalize(slope, dim=-1), (0, 0, 1, 1, 1, 1)).flatten(0, 1)[seen.pixel]
    facing = slope.isfinite().all(-1) & (normals[:, 2] > 0.5)
    angle = torch.rad2deg(torch.acos((normals * slope).sum(-1)[facing].clamp(-1, 1)))
    assert facing.sum() > 3000
    assert angle.mean() < 1.0
    assert angle.quantile(0.99) < 4.0


def test_gradients_of_interpolation_equal_finite_differences():
    generator = torch.Generator().manual_seed(0)
    xy = torch.tensor([[[2.3, 3.1], [20.7, 5.2], [8.4, 22.9], [25.3, 24.6]]], dtype=torch.float64, requires_grad=True)
    depth = torch.tensor([[1.0, 1.7, 1.3, 2.0]], dtype=torch.float64, requires_grad=True)
    colours = torch.rand(4, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    topology = Topology.of(torch.tensor([[0, 1, 2], [1, 3, 2]]))

    def picture(xy, depth, colours):
        seen = rasterise(Projected(xy, depth), topology, 32, 32)
        return torch.cat([seen.interpolate(colours).flatten(), seen.depth])

    assert torch.autograd.gradcheck(picture, (xy, depth, colours), eps=1e-7, atol=1e-5)


def test_gradients_of_antialiasing_equal_finite_differences():
    xy = torch.tensor(
        [[[2.31, 3.17], [20.73, 5.26], [8.44, 22.91], [5.37, 9.43], [26.2, 12.4], [11.3, 27.8]]],
        dtype=torch.float64,
        requires_grad=True,
    )
    depth = torch.tensor([[2.0, 2.0, 2.0, 1.0, 1.2, 1.5]], dtype=torch.float64)
    colours = torch.rand(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    topology = Topology.of(torch.tensor([[0, 1, 2], [3, 4, 5]]))

    def picture(xy, colours):
        screen = Projected(xy, depth)
        seen = rasterise(screen, topology, 32, 32)
        return antialias(seen.image(seen.interpolate(colours), 0.3), seen, screen)

    assert torch.autograd.gradcheck(picture, (xy, colours), eps=1e-7, atol=1e-5)


def test_an_edge_covers_its_pixel_in_proportion():
    for edge in (10.3, 10.8, 9.6):
        screen = flat([[-5.0, -100], [edge, -100], [edge, 150], [-5, 150]])
        seen = rasterise(screen, Topology.of(torch.tensor([[0, 1, 2], [0, 2, 3]])), SIZE, SIZE)
        row = antialias(seen.image(torch.ones(len(seen.pixel), 1).double()), seen, screen)[0, 0, 20]
        coverage = (edge + 0.5 - torch.arange(SIZE)).clamp(0, 1)
        assert torch.allclose(row, coverage.double(), atol=1e-9)


@pytest.mark.parametrize(("rows", "columns"), [(6, 7), (40, 120)], ids=["large triangles", "smaller than a pixel"])
def test_silhouette_gradients_equal_the_change_of_area(sphere, rows, columns):
    vertices, triangles = sphere(rows, columns)
    topology, camera = Topology.of(triangles), Camera.from_fov(SIZE, 40, distance=4)
    backdrop = torch.full((1, 1, SIZE, SIZE), 0.25, dtype=torch.float64)
    change = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    flat_screen = camera.project(vertices[None])
    middle = torch.tensor(camera.centre, dtype=torch.float64)
    xy = (flat_screen.xy - middle) * (1 + change[2]) + middle + change[:2] + 0.137
    screen = flat_screen._replace(xy=xy)
    seen = rasterise(screen, topology, SIZE, SIZE)
    image = antialias(seen.image(torch.ones(len(seen.pixel), 1).double(), backdrop), seen, screen)[0, 0]
    ramp = torch.arange(SIZE, dtype=torch.float64) - SIZE / 2
    area = float((image.detach() - 0.25).sum())  # three quarters of the pixels covered
    (along_x,) = torch.autograd.grad((image * ramp).sum(), change, retain_graph=True)
    (along_y,) = torch.autograd.grad((image * ramp[:, None]).sum(), change, retain_graph=True)
    (growth,) = torch.autograd.grad(image.sum(), change)
    assert float(along_x[0]) == pytest.approx(area, rel=0.03)
    assert float(along_y[1]) == pytest.approx(area, rel=0.03)
    assert float(growth[2]) == pytest.approx(2 * area, rel=0.03)
    assert abs(float(growth[0])) < 0.03 * area


def test_silhouette_gradient_equals_a_supersampled_difference(sphere):
    vertices, triangles = sphere(6, 7)
    topology = Topology.of(triangles)

    def coverage(shift: float, size: int) -> torch.Tensor:
        camera = Camera.from_fov(size, 40, distance=4)
        seen = rasterise(camera.project(vertices[None] + torch.tensor([shift, 0.0, 0.0])), topology, size, size)
        return F.avg_pool2d(seen.mask().double()[:, None], size // SIZE)[0, 0]

    weights = torch.rand(SIZE, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    weights = F.avg_pool2d(weights[None, None], 9, 1, 4)[0, 0]
    expected = ((coverage(0.04, 20 * SIZE) - coverage(-0.04, 20 * SIZE)) * weights).sum() / 0.08
    shift = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    camera, total = Camera.from_fov(SIZE, 40, distance=4), 0.0
    offsets = torch.linspace(-0.04, 0.04, 9)
    for offset in offsets:
        screen = camera.project(vertices[None] + F.pad(shift + float(offset), (0, 2)))
        seen = rasterise(screen, topology, SIZE, SIZE)
        image = antialias(seen.image(torch.ones(len(seen.pixel), 1).double()), seen, screen)
        total = total + (image[0, 0] * weights).sum() / len(offsets)  # type: ignore[assignment]
    (gradient,) = torch.autograd.grad(total, shift)  # type: ignore[call-overload]
    assert float(gradient) == pytest.approx(float(expected), rel=0.05, abs=0.3)


def test_empty_triangles_and_those_behind_the_camera_leave_no_trace():
    camera = Camera.from_fov(SIZE, 40, distance=3)
    points = torch.tensor(
        [[0.0, 0, 0], [1, 0, 0], [0.5, 0, 0], [-1, -1, 4], [1, -1, 4], [0, 1, 4], [-1, -1, 3], [1, -1, 2], [0, 1, 0]],
        requires_grad=True,
    )
    topology = Topology.of(torch.tensor([[0, 1, 2], [0, 0, 1], [3, 4, 5], [6, 7, 8]]))
    screen = camera.project(points[None])
    seen = rasterise(screen, topology, SIZE, SIZE)
    assert len(seen.pixel) == 0
    image = antialias(seen.image(seen.interpolate(points), 0.5), seen, screen)
    image.sum().backward()
    assert torch.equal(image, torch.full((1, 3, SIZE, SIZE), 0.5))
    assert points.grad is None or points.grad.isfinite().all()


def test_equal_depths_go_to_the_first_triangle():
    screen = flat([[0, 0], [0, 40], [40, 0]])
    seen = rasterise(screen, Topology.of(torch.tensor([[0, 1, 2], [2, 0, 1]])), SIZE, SIZE)
    assert (seen.triangle == 0).all()


def test_textures_are_read_with_v_upwards_and_receive_gradients():
    screen = flat([[-0.5, -0.5], [-0.5, 7.5], [7.5, 7.5], [7.5, -0.5]])
    seen = rasterise(screen, Topology.of(torch.tensor([[0, 1, 2], [0, 2, 3]])), 8, 8)
    uv = seen.interpolate(torch.tensor([[0.0, 1], [0, 0], [1, 0], [1, 1]], dtype=torch.float64))
    texture = torch.rand(1, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    sampled = seen.image(sample_texture(texture, uv, seen))
    assert torch.allclose(sampled, texture, atol=1e-12)
    (gradient,) = torch.autograd.grad(sampled.pow(2).sum(), texture)
    assert torch.allclose(gradient, 2 * texture, atol=1e-9)
    small = torch.rand(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    inner = (uv * 0.9 + 0.037).detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda t, p: sample_texture(t, p, seen), (small, inner), eps=1e-7, atol=1e-5)


def test_each_picture_reads_its_own_texture():
    screen = flat([[-0.5, -0.5], [-0.5, 7.5], [7.5, 7.5], [7.5, -0.5]])
    screen = Projected(torch.cat([screen.xy, screen.xy * 0.6]), screen.depth.expand(2, -1))
    seen = rasterise(screen, Topology.of(torch.tensor([[0, 1, 2], [0, 2, 3]])), 8, 8)
    textures = torch.tensor([0.25, 0.75]).view(2, 1, 1, 1).expand(2, 1, 4, 4)
    values = sample_texture(textures, torch.rand(len(seen.pixel), 2), seen)[:, 0]
    assert torch.allclose(values, torch.tensor([0.25, 0.75])[seen.picture])
    with pytest.raises(UsageError, match="3 textures"):
        sample_texture(textures[:1].expand(3, -1, -1, -1), torch.rand(len(seen.pixel), 2), seen)


def test_topology_knows_neighbours_and_borders():
    topology = Topology.of(torch.tensor([[0, 1, 2], [2, 1, 3]]))
    shared = (topology.edges == torch.tensor([1, 2])).all(1)
    assert topology.edge_triangles[shared].tolist() == [[0, 1]]
    assert topology.edge_opposite[shared].tolist() == [[0, 3]]
    assert (topology.edge_triangles[~shared][:, 1] == -1).all()
    assert len(topology.edges) == 5


def test_mistakes_are_named():
    topology = Topology.of(torch.tensor([[0, 1, 2]]))
    with pytest.raises(UsageError, match="finite"):
        rasterise(flat([[0, 0], [float("nan"), 1], [1, 0]]), topology, 8, 8)
    with pytest.raises(UsageError, match="0×8"):
        rasterise(flat([[0, 0], [0, 1], [1, 0]]), topology, 8, 0)
    with pytest.raises(UsageError, match="non-empty"):
        Topology.of(torch.zeros(0, 3, dtype=torch.long))
    seen = rasterise(flat([[0, 0], [0, 7], [7, 0]]), topology, 8, 8)
    with pytest.raises(UsageError, match="do not belong"):
        antialias(torch.zeros(1, 1, 9, 8), seen, flat([[0, 0], [0, 7], [7, 0]]))
