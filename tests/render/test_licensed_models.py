"""The Basel model and FLAME, from files made here in their layouts: the real ones are licensed to each user."""

from __future__ import annotations

import pickle
import sys
import types
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import scipy.io
import scipy.sparse
import torch

from facewright.errors import UnsafeWeightsError, UsageError, WeightsError
from facewright.render import Flame, MorphableModel, load_bfm, load_flame, rotation_from_pose, split_coefficients
from facewright.render import flame as flame_module

if TYPE_CHECKING:
    from pathlib import Path

POINTS = 60


@pytest.fixture
def basel() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "meanshape": rng.normal(size=(1, 3 * POINTS)),
        "meantex": rng.uniform(50, 200, (1, 3 * POINTS)),
        "idBase": rng.normal(size=(3 * POINTS, 80)),
        "exBase": rng.normal(size=(3 * POINTS, 64)),
        "texBase": rng.normal(size=(3 * POINTS, 80)),
        "tri": np.stack([rng.permutation(POINTS)[:3] + 1 for _ in range(90)]),
        "keypoints": rng.integers(1, POINTS + 1, (1, 68)),
        "skinmask": (np.arange(POINTS) < 40).astype(np.uint8)[None],
    }


def test_basel_model_in_the_layout_of_deep3d(basel, tmp_path):
    path = tmp_path / "BFM_model_front.mat"
    scipy.io.savemat(path, basel)
    model = MorphableModel(load_bfm(path, vertices=POINTS))
    parts = split_coefficients(torch.randn(2, 257))
    flat = (
        basel["meanshape"] + parts.identity.numpy() @ basel["idBase"].T + parts.expression.numpy() @ basel["exBase"].T
    )
    expected = flat.reshape(2, POINTS, 3) - basel["meanshape"].reshape(POINTS, 3).mean(0)
    vertices = model.vertices(parts.identity, parts.expression)
    assert np.allclose(vertices, expected, atol=1e-4)
    assert np.array_equal(model.landmarks(vertices), vertices[:, basel["keypoints"][0] - 1])
    texture = (basel["meantex"] + parts.albedo.numpy() @ basel["texBase"].T).reshape(2, POINTS, 3) / 255
    assert np.allclose(model.albedo(parts.albedo), texture, atol=1e-5)
    assert set(map(frozenset, model.triangles.tolist())) == set(map(frozenset, (basel["tri"] - 1).tolist()))
    assert model.data.vertices_of(["skin"]).tolist() == list(range(40))


def test_coefficients_are_split_in_the_published_order():
    parts = split_coefficients(torch.arange(257.0)[None])
    assert [float(p.flatten()[0]) for p in parts] == [0, 80, 144, 224, 227, 254]
    assert parts.lighting.shape == (1, 3, 9)
    assert parts.lighting[0, 1, 0] == 236
    with pytest.raises(UsageError, match="257"):
        split_coefficients(torch.zeros(1, 256))


def test_other_files_are_not_taken_for_the_basel_model(basel, tmp_path):
    path = tmp_path / "model.mat"
    with pytest.raises(WeightsError, match="does not exist"):
        load_bfm(path)
    path.write_bytes(b"noise" * 100)
    with pytest.raises(WeightsError, match="not a readable"):
        load_bfm(path)
    scipy.io.savemat(path, basel)
    with pytest.raises(WeightsError, match="35709 vertices, this one 60"):
        load_bfm(path)
    scipy.io.savemat(path, basel | {"idBase": basel["idBase"][:-3]})
    with pytest.raises(WeightsError, match="idBase"):
        load_bfm(path, vertices=POINTS)
    del basel["exBase"]
    scipy.io.savemat(path, basel)
    with pytest.raises(WeightsError, match="lacks exBase"):
        load_bfm(path)


class Ch:
    """As chumpy pickles its arrays: an object whose attribute x is the array."""

    __module__ = "chumpy.ch"

    def __init__(self, x: np.ndarray) -> None:
        self.x = x


@pytest.fixture
def flame_arrays(monkeypatch) -> dict[str, Any]:
    """A FLAME of fewer vertices: 40 of the head, 10 of each eyeball."""
    monkeypatch.setattr(flame_module, "VERTICES", POINTS)
    monkeypatch.setattr(flame_module, "SHAPE_MODES", 5)
    rng = np.random.default_rng(1)
    mean = rng.normal(size=(POINTS, 3))
    skinning = np.zeros((POINTS, 5))
    skinning[:20, 1], skinning[20:40, 2], skinning[40:50, 3], skinning[50:, 4] = 1, 1, 1, 1
    regressor = np.zeros((5, POINTS))
    regressor[0, :20], regressor[1, :10], regressor[2, 20:30], regressor[3, 40:50], regressor[4, 50:] = 1, 1, 1, 1, 1
    regressor /= regressor.sum(1, keepdims=True)
    return {
        "v_template": mean,
        "shapedirs": rng.normal(size=(POINTS, 3, 8)) * 0.1,
        "posedirs": np.zeros((POINTS, 3, 36)),
        "J_regressor": regressor,
        "weights": skinning,
        "f": np.stack([rng.permutation(POINTS)[:3] for _ in range(90)]).astype(np.uint32),
        "kintree_table": np.array([[2**32 - 1, 0, 1, 1, 1], range(5)], np.uint32),
    }


def pickled(arrays: dict[str, Any], path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int = 2) -> Path:
    """The file as published: chumpy objects, a sparse matrix, plain arrays."""
    module = types.ModuleType("chumpy.ch")
    module.Ch = Ch  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "chumpy", types.ModuleType("chumpy"))
    monkeypatch.setitem(sys.modules, "chumpy.ch", module)
    wrapped = {"shapedirs": Ch(arrays["shapedirs"]), "J_regressor": scipy.sparse.csc_matrix(arrays["J_regressor"])}
    path.write_bytes(pickle.dumps(arrays | wrapped, protocol=protocol))
    for name in ("chumpy", "chumpy.ch"):
        monkeypatch.delitem(sys.modules, name)
    return path


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_flame_is_read_from_its_pickle_without_chumpy(flame_arrays, tmp_path, monkeypatch, protocol):
    model = Flame(load_flame(pickled(flame_arrays, tmp_path / "flame.pkl", monkeypatch, protocol)))
    identity, expression = torch.randn(2, 5), torch.randn(2, 3)
    modes = np.concatenate([identity, expression], 1)
    expected = flame_arrays["v_template"] + np.einsum("vak,nk->nva", flame_arrays["shapedirs"], modes)
    assert np.allclose(model.vertices(identity, expression), expected, atol=1e-4)
    assert np.array_equal(model.triangles, flame_arrays["f"].astype(int))


def test_flame_skinning(flame_arrays, tmp_path, monkeypatch):
    model = Flame(load_flame(pickled(flame_arrays, tmp_path / "flame.pkl", monkeypatch)))
    identity = torch.randn(1, 5)
    still = model.vertices(identity)
    regressor = torch.from_numpy(flame_arrays["J_regressor"]).float()
    joints = regressor @ still[0]
    pose = torch.zeros(1, 5, 3)
    pose[0, 2] = torch.tensor([0.4, 0, 0])
    opened = model.vertices(identity, joints=pose)
    turn = rotation_from_pose(torch.tensor([[0.0, -np.degrees(0.4), 0.0]]))[0].float()
    assert torch.allclose(opened[0, :20], still[0, :20], atol=1e-5)
    assert torch.allclose(opened[0, 20:40], (still[0, 20:40] - joints[2]) @ turn.T + joints[2], atol=1e-5)
    pose[0, 0] = torch.tensor([0, 0.5, 0])
    both = model.vertices(identity, joints=pose)
    whole = rotation_from_pose(torch.tensor([[np.degrees(0.5), 0.0, 0.0]]))[0].float()
    assert torch.allclose(both[0], (opened[0] - joints[0]) @ whole.T + joints[0], atol=1e-5)


def test_flame_gaze_turns_the_eye_joints(flame_arrays, tmp_path, monkeypatch):
    model = Flame(load_flame(pickled(flame_arrays, tmp_path / "flame.pkl", monkeypatch)))
    still, looking = model.vertices(), model.vertices(gaze=torch.tensor([[[0.0, 0.0], [30.0, 0.0]]]))
    assert torch.allclose(looking[0, :40], still[0, :40], atol=1e-5)
    assert torch.allclose(looking[0, 50:], still[0, 50:], atol=1e-5)  # eye_R, the picture's left
    joint = torch.from_numpy(flame_arrays["J_regressor"] @ flame_arrays["v_template"])[3].float()
    turn = rotation_from_pose(torch.tensor([[30.0, 0, 0]]))[0]
    assert torch.allclose(looking[0, 40:50], (still[0, 40:50] - joint) @ turn.T + joint, atol=1e-5)
    with pytest.raises(UsageError, match="joints must be"):
        model.vertices(joints=torch.zeros(1, 4, 3))


def test_flame_pose_shapes_follow_the_joints_rotations(flame_arrays, tmp_path, monkeypatch):
    flame_arrays["posedirs"] = np.random.default_rng(2).normal(size=(POINTS, 3, 36))
    model = Flame(load_flame(pickled(flame_arrays, tmp_path / "flame.pkl", monkeypatch)))
    assert np.allclose(model.vertices()[0], flame_arrays["v_template"], atol=1e-5)
    pose = torch.zeros(1, 5, 3)
    pose[0, 3] = torch.tensor([0.0, 0.0, np.pi / 2])  # bends nothing of the first 40, but displaces them
    bend = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]]) - np.eye(3)
    shift = flame_arrays["posedirs"][:, :, 18:27] @ bend.ravel()
    moved = model.vertices(joints=pose)[0].numpy() - flame_arrays["v_template"]
    assert np.allclose(moved[:40], shift[:40], atol=1e-4)


def test_flame_contour_follows_the_yaw(flame_arrays, tmp_path, monkeypatch):
    rows = flame_module.contour_row(torch.tensor([0.0, -20.4, -39, -70, 1, 20, 39, 80]))
    assert rows.tolist() == [0, 20, 39, 39, 40, 59, 78, 78]
    rng = np.random.default_rng(3)
    corner = np.eye(3)[rng.integers(0, 3, (79, 17))]
    table = {
        "static_lmk_faces_idx": np.arange(51),
        "static_lmk_bary_coords": np.full((51, 3), 1 / 3),
        "dynamic_lmk_faces_idx": rng.integers(0, 90, (79, 17)),
        "dynamic_lmk_bary_coords": corner,
    }
    np.save(tmp_path / "landmarks.npy", np.array(table, dtype=object), allow_pickle=True)
    path = pickled(flame_arrays, tmp_path / "flame.pkl", monkeypatch)
    model = Flame(load_flame(path, tmp_path / "landmarks.npy"))
    vertices = model.vertices(torch.randn(2, 5))
    marks = model.landmarks(vertices, yaw=torch.tensor([0.0, 20.0]))
    for k, row in enumerate((0, 59)):
        chosen = flame_arrays["f"][table["dynamic_lmk_faces_idx"][row], corner[row].argmax(-1)]
        assert torch.allclose(marks[k, :17], vertices[k, chosen.astype(int)], atol=1e-5)
        assert torch.allclose(marks[k, 17], vertices[k, flame_arrays["f"][0].astype(int)].mean(0), atol=1e-5)
    with pytest.raises(UsageError, match="without landmarks"):
        Flame(load_flame(path)).landmarks(vertices)


class Exploit:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("import sys; sys.exploited = True",))


@pytest.mark.parametrize("suffix", ["pkl", "npy"])
def test_code_in_a_pickle_is_not_run(flame_arrays, tmp_path, monkeypatch, suffix):
    good = pickled(flame_arrays, tmp_path / "flame.pkl", monkeypatch)
    bad = tmp_path / f"bad.{suffix}"
    if suffix == "pkl":
        bad.write_bytes(pickle.dumps(flame_arrays | {"extra": Exploit()}))
    else:
        np.save(bad, np.array({"extra": Exploit()}, dtype=object), allow_pickle=True)
    with pytest.raises(UnsafeWeightsError, match="exec"):
        load_flame(bad) if suffix == "pkl" else load_flame(good, bad)
    assert not hasattr(sys, "exploited")


def test_other_files_are_not_taken_for_flame(flame_arrays, tmp_path, monkeypatch):
    path = tmp_path / "flame.pkl"
    with pytest.raises(WeightsError, match="cannot be read"):
        load_flame(path)
    path.write_bytes(b"noise")
    with pytest.raises(WeightsError, match="not a readable pickle"):
        load_flame(path)
    path.write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(WeightsError, match="dictionary"):
        load_flame(path)
    path.write_bytes(pickle.dumps({k: v for k, v in flame_arrays.items() if k != "posedirs"}))
    with pytest.raises(WeightsError, match="lacks posedirs"):
        load_flame(path)
    monkeypatch.setattr(flame_module, "VERTICES", POINTS + 1)
    with pytest.raises(WeightsError, match="has 61 vertices"):
        load_flame(pickled(flame_arrays, path, monkeypatch))
