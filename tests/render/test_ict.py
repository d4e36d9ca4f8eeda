"""ICT-FaceKit from its folder and from arrays; the real model where it is there."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from facewright.errors import UsageError, WeightsError
from facewright.render import Camera, MorphableModel, load_ict, rasterise
from facewright.render.ict import OPAQUE, PARTS, POLYGONS, VERTICES

if TYPE_CHECKING:
    from pathlib import Path

EXPRESSIONS = ("browDown_L", "jawOpen")


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    """Random numbers in the layout of the model; displacements are multiples of 2⁻¹⁰, exact in text."""
    rng = np.random.default_rng(0)
    polygons = (rng.integers(1, 500, (POLYGONS, 4)).cumsum(1) + np.arange(POLYGONS)[:, None]) % VERTICES
    polygons[::50, 3] = -1
    uv = (rng.integers(0, 1000, (500, 2)) / 1024 + [2, 0]).astype(np.float32)
    corners = rng.integers(0, 500, polygons.shape)
    corners[polygons < 0] = -1
    landmarks = rng.choice(np.unique(polygons[:5000, :3]), 68, replace=False)
    listed = {"idx_to_landmark_verts": landmarks.tolist(), "expressions": list(EXPRESSIONS)}
    return {
        "vertices": (rng.integers(-9000, 9000, (VERTICES, 3)) / 1024).astype(np.float32),
        "uv": uv,
        "faces": polygons.astype(np.int32),
        "faces_uv": corners.astype(np.int32),
        "identity_q": rng.integers(-900, 900, (2, VERTICES, 3)).astype(np.int16),
        "identity_scale": np.full(2, 2.0**-10, np.float32),
        "expression_q": rng.integers(-900, 900, (2, VERTICES, 3)).astype(np.int16),
        "expression_scale": np.full(2, 2.0**-10, np.float32),
        "expression_names": np.array(EXPRESSIONS),
        "vertex_indices_json": np.array(json.dumps(listed)),
    }


@pytest.fixture(scope="module")
def archive(arrays, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("ict") / "ict.npz"
    np.savez(path, **arrays)
    return path


@pytest.fixture(scope="module")
def folder(arrays, tmp_path_factory) -> Path:
    """The same model as the published folder has it: a full mesh for each shape."""
    path = tmp_path_factory.mktemp("FaceXModel")
    corners = zip(arrays["faces"] + 1, arrays["faces_uv"] + 1)
    polygons = ["f " + " ".join(f"{v}/{t}/1" for v, t in zip(*pair) if v > 0) for pair in corners]
    texture = [f"vt {u:.10f} {v:.10f} 0.0" for u, v in arrays["uv"].tolist()]

    def write(name: str, vertices: np.ndarray) -> None:
        lines = [f"v {x:.10f} {y:.10f} {z:.10f}" for x, y, z in vertices.tolist()]
        rest = [*texture, "vn 0 0 1", "usemtl M_Face", *polygons] if name == "generic_neutral_mesh" else []
        (path / f"{name}.obj").write_text("\n".join(["# comment", *lines, *rest]) + "\n")

    write("generic_neutral_mesh", arrays["vertices"])
    for k in range(2):
        write(f"identity{k:03d}", arrays["vertices"] + arrays["identity_q"][k] / 1024)
        write(EXPRESSIONS[k], arrays["vertices"] + arrays["expression_q"][k] / 1024)
    (path / "vertex_indices.json").write_text(str(arrays["vertex_indices_json"]))
    return path


def test_the_folder_equals_the_arrays(folder, archive):
    for parts in (None, OPAQUE):
        a, b = load_ict(folder, parts=parts), load_ict(archive, parts=parts)
        for key in ("mean", "identity", "expression", "uv"):
            assert np.allclose(getattr(a, key), getattr(b, key), atol=2e-6), key
        for key in ("triangles", "triangles_uv", "landmarks68", "vertex_part", "triangle_part"):
            assert np.array_equal(getattr(a, key), getattr(b, key)), key
        assert a.expression_names == b.expression_names == EXPRESSIONS


def test_polygons_become_triangles_of_their_parts(arrays, archive):
    data = load_ict(archive, parts=None)
    quads = int((arrays["faces"][:, 3] >= 0).sum())
    assert len(data.triangles) == POLYGONS + quads
    assert data.triangles[0].tolist() == arrays["faces"][0, :3].tolist()
    assert data.uv.min() >= 0
    assert data.uv.max() < 1
    counts = dict(zip(PARTS, np.bincount(data.vertex_part)))
    assert (counts["face"], counts["head"], counts["teeth_upper"], counts["teeth_lower"]) == (9409, 1839, 2208, 2204)
    assert (counts["eyeball_L"], counts["iris_L"], counts["eyeball_R"], counts["iris_R"]) == (770, 800, 770, 800)


def test_missing_and_partial_sources(folder, archive, arrays, tmp_path):
    with pytest.raises(WeightsError, match="does not exist"):
        load_ict(tmp_path / "nowhere")
    with pytest.raises(WeightsError, match="lacks generic_neutral_mesh"):
        load_ict(tmp_path)
    (tmp_path / "noise.npz").write_bytes(b"noise")
    with pytest.raises(WeightsError, match="not a file of ICT"):
        load_ict(tmp_path / "noise.npz")
    copy = tmp_path / "FaceXModel"
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).symlink_to(file)
    (copy / "jawOpen.obj").unlink()
    with pytest.raises(WeightsError, match="no file for jawOpen"):
        load_ict(copy)
    (copy / "jawOpen.obj").write_text("v 0 0 0\nv 1 0 0\n")
    with pytest.raises(WeightsError, match="2 vertices instead of 26719"):
        load_ict(copy)
    (copy / "jawOpen.obj").write_text("v 0 0 zero\n")
    with pytest.raises(WeightsError, match="not a readable"):
        load_ict(copy)
    (copy / "identity000.obj").unlink()
    with pytest.raises(WeightsError, match="identity000"):
        load_ict(copy)
    np.savez(tmp_path / "short.npz", **(arrays | {"faces": arrays["faces"][:-1], "faces_uv": arrays["faces_uv"][:-1]}))
    with pytest.raises(WeightsError, match="26384 polygons"):
        load_ict(tmp_path / "short.npz")


@pytest.fixture(scope="module")
def real(shared_dir) -> MorphableModel:
    path = shared_dir / "data" / "ict_facekit.npz"
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    return MorphableModel(load_ict(path))


@pytest.mark.shared
def test_the_published_model_is_where_it_should_be(real):
    marks = real.landmarks(real.vertices())[0]
    assert marks[30].tolist() == pytest.approx([0, 0.406, 13.069], abs=2e-3)
    assert marks[8].tolist() == pytest.approx([0, -7.567, 10.432], abs=2e-3)
    assert marks[0, 0] < 0 < marks[16, 0]
    assert (marks[45] - marks[36]).norm().item() == pytest.approx(8.918, abs=2e-3)
    centres = real.eye_centres(real.vertices())[0]
    assert centres[0].tolist() == pytest.approx([-3.12, 3.60, 7.98], abs=0.05)
    assert centres[1].tolist() == pytest.approx([3.12, 3.60, 7.98], abs=0.05)


@pytest.mark.shared
def test_the_published_jaw_moves_only_the_lower_teeth(real):
    change = (real.vertices(expression=real.expression_weights({"jawOpen": 1})) - real.mean)[0].norm(dim=-1)
    assert change[real.data.vertices_of(["teeth_upper"])].max() == 0
    assert change[real.data.vertices_of(["teeth_lower"])].min() > 1.5
    assert change[real.data.vertices_of(["eyeball_L", "eyeball_R"])].max() == 0
    with pytest.raises(UsageError, match="'eyeBlink_L'"):
        real.expression_weights({"eyeBlinkL": 1})


@pytest.mark.shared
@torch.inference_mode()
def test_a_decimated_model_looks_the_same(real):
    small = MorphableModel(real.data.decimated(1))
    assert len(small.mean) < 0.3 * len(real.mean)
    assert len(small.triangles) < 0.3 * len(real.triangles)
    camera = Camera.from_fov(128, 20, distance=70)
    identity = torch.randn(1, 100, generator=torch.Generator().manual_seed(0)) * 0.7
    depths = []
    for model in (real, small):
        vertices = model.vertices(identity, model.expression_weights({"jawOpen": 0.4, "mouthSmile_L": 0.7}))
        depths.append(rasterise(camera.project(vertices), model.topology, 128, 128, cull=True).depth_map())
    both = depths[0].isfinite() & depths[1].isfinite()
    assert both.sum() / (depths[0].isfinite() | depths[1].isfinite()).sum() > 0.99
    difference = (depths[0] - depths[1])[both].abs()
    assert difference.median() < 0.02  # cm
    assert difference.quantile(0.95) < 0.3
