"""FLAME (Li et al., Learning a Model of Facial Shape and Expression from 4D Scans, SIGGRAPH Asia 2017).

5,023 vertices in metres. Shape and expression modes as in other models, and a skeleton of five joints (global, neck,
jaw, left and right eye) with linear blend skinning and corrective pose shapes. The model is licensed to each user by
the Max Planck Institute and is not part of this package. Its files are pickles; they are read without running any code
in them.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UnsafeWeightsError, UsageError, WeightsError
from .camera import rotation_from_pose
from .morphable import MorphableData, MorphableModel

if TYPE_CHECKING:
    from numpy.typing import NDArray

VERTICES, SHAPE_MODES = 5023, 300
UNIT = 1.0  # metres
JOINTS = ("global", "neck", "jaw", "eye_L", "eye_R")
PARENTS = (-1, 0, 1, 1, 1)
PARTS = ("head", "eyeball_R", "eyeball_L")
MOST_YAW = 39  # degrees; contour landmarks are tabulated for −39..39
_KEYS = ("v_template", "shapedirs", "posedirs", "J_regressor", "weights", "f")


@dataclass(frozen=True, slots=True, eq=False)
class FlameData:
    """FLAME's arrays.

    `linear` holds the mean and the modes; `joint_mean` (5, 3) and `joint_basis` (I + E, 5, 3) the joints' places;
    `pose_basis` (36, V, 3) displacements for the entries of R − 1 of all joints but the first; `skinning` (V, 5) how
    much each joint moves a vertex; `landmarks` is None without their file.
    """

    linear: MorphableData
    joint_mean: NDArray[np.float32]
    joint_basis: NDArray[np.float32]
    pose_basis: NDArray[np.float32]
    skinning: NDArray[np.float32]
    landmarks: FlameLandmarks | None = None


@dataclass(frozen=True, slots=True, eq=False)
class FlameLandmarks:
    """Landmarks as triangles and barycentric weights: 51 inner ones, and 17 of the contour for each of 79 angles.

    `inner_triangles` (51,) and `inner_weights` (51, 3); `contour_triangles` (79, 17) and `contour_weights` (79, 17, 3).
    """

    inner_triangles: NDArray[np.int64]
    inner_weights: NDArray[np.float32]
    contour_triangles: NDArray[np.int64]
    contour_weights: NDArray[np.float32]


class Flame(MorphableModel):
    """FLAME with its skeleton. Gaze turns the eye joints; `vertices` also takes the rotation of every joint."""

    joint_mean: Tensor
    joint_basis: Tensor
    pose_basis: Tensor
    skinning: Tensor

    def __init__(self, data: FlameData) -> None:
        super().__init__(data.linear)
        for key in ("joint_mean", "joint_basis", "pose_basis", "skinning"):
            self._keep(key, torch.from_numpy(getattr(data, key)))
        self.embedding = data.landmarks

    def vertices(
        self,
        identity: Tensor | None = None,
        expression: Tensor | None = None,
        gaze: Tensor | None = None,
        *,
        joints: Tensor | None = None,
    ) -> Tensor:
        """(N, V, 3) vertices; `joints` (N, 5, 3) are axis–angle rotations in radians in the order of `JOINTS`.

        Gaze is as in `MorphableModel.vertices`, the picture's left eye first, and takes the place of the eye joints.
        """
        batch = self._batch(identity, expression, gaze, joints)
        shaped = super().vertices(identity, expression).expand(batch, -1, -1)
        angles = self.mean.new_zeros(batch, len(JOINTS), 3) if joints is None else joints
        if angles.shape[1:] != (len(JOINTS), 3) or not torch.isfinite(angles).all():
            raise UsageError(
                f"joints must be finite (N, {len(JOINTS)}, 3) axis–angle rotations, not {tuple(angles.shape)}"
            )
        rotations = rotation_from_axis_angle(angles).expand(batch, -1, -1, -1)
        if gaze is not None:
            rotations = torch.cat([rotations[:, :3], self._eye_rotations(gaze).expand(batch, -1, -1, -1)], 1)
        identities = torch.eye(3, dtype=shaped.dtype, device=shaped.device)
        bends = (rotations[:, 1:] - identities).flatten(1)
        corrected = shaped + (bends @ self.pose_basis.flatten(1)).view(batch, -1, 3)
        return self._skinned(corrected, rotations, self._joints(identity, expression))

    def landmarks(self, vertices: Tensor, *, yaw: Tensor | None = None) -> Tensor:
        """(N, 68, 3) landmarks; the contour is the one visible at `yaw` (N,) degrees as in `Pose` (0 when None)."""
        table = self.embedding
        if table is None:
            raise UsageError("FLAME was loaded without landmarks; give load_flame its landmark_embedding.npy as well")
        turned = vertices.new_zeros(len(vertices)) if yaw is None else yaw
        row = contour_row(turned).expand(len(vertices)).cpu().numpy()
        inner = np.broadcast_to(table.inner_triangles, (len(row), 51))
        inner_weights = np.broadcast_to(table.inner_weights, (len(row), 51, 3))
        triangle = np.concatenate([table.contour_triangles[row], inner], 1)
        weights = np.concatenate([table.contour_weights[row], inner_weights], 1)
        corners = self.triangles[torch.from_numpy(triangle).to(vertices.device)]
        picture = torch.arange(len(vertices), device=vertices.device)[:, None, None]
        blend = torch.from_numpy(weights).to(vertices)
        return (vertices[picture, corners] * blend[..., None]).sum(2)

    def _eye_rotations(self, gaze: Tensor) -> Tensor:
        """(N, 2, 3, 3) for the joints eye_L and eye_R; gaze lists the picture's left eye, eye_R, first."""
        if gaze.shape[1:] not in ((2,), (2, 2)) or not torch.isfinite(gaze).all():
            raise UsageError(f"gaze must be finite (N, 2) or (N, 2, 2), not {tuple(gaze.shape)}")
        each = gaze[:, None].expand(-1, 2, -1) if gaze.ndim == 2 else gaze.flip(1)
        return rotation_from_pose(F.pad(each, (0, 1)).reshape(-1, 3)).view(-1, 2, 3, 3)

    def _joints(self, identity: Tensor | None, expression: Tensor | None) -> Tensor:
        joints = self.joint_mean[None]
        for values, first in ((identity, 0), (expression, len(self.identity))):
            if values is not None:
                basis = self.joint_basis[first : first + values.shape[1]]
                joints = joints + (values.to(basis.dtype) @ basis.flatten(1)).view(-1, len(JOINTS), 3)
        return joints

    def _skinned(self, vertices: Tensor, rotations: Tensor, joints: Tensor) -> Tensor:
        """Linear blend skinning: each vertex moves with the weighted mean of the joints' motions."""
        joints = joints.expand(len(vertices), -1, -1)
        turns, offsets = [rotations[:, 0]], [joints[:, 0]]
        for joint, parent in list(enumerate(PARENTS))[1:]:
            bone = (joints[:, joint] - joints[:, parent])[:, :, None]
            turns.append(turns[parent] @ rotations[:, joint])
            offsets.append(offsets[parent] + (turns[parent] @ bone)[..., 0])
        turn, offset = torch.stack(turns, 1), torch.stack(offsets, 1)
        shift = offset - (turn @ joints[..., None])[..., 0]
        blended = torch.einsum("vj,njab->nvab", self.skinning, turn)
        return (blended @ vertices[..., None])[..., 0] + torch.einsum("vj,nja->nva", self.skinning, shift)


def rotation_from_axis_angle(vectors: Tensor) -> Tensor:
    """(..., 3, 3) rotations of axis–angle vectors (..., 3) in radians (Rodrigues)."""
    zero = torch.zeros_like(vectors[..., 0])
    x, y, z = vectors.unbind(-1)
    skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).view(*vectors.shape, 3)
    rotation: Tensor = torch.linalg.matrix_exp(skew)
    return rotation


def contour_row(yaw: Tensor) -> Tensor:
    """(N,) row of the table of contours: 0..39 for a nose turned to the picture's left, 40..78 to its right."""
    left = (-yaw).clamp(-MOST_YAW, MOST_YAW).round().long()
    return torch.where(left < 0, MOST_YAW - left, left)


def load_flame(model: str | Path, landmarks: str | Path | None = None) -> FlameData:
    """FLAME from its pickle (`generic_model.pkl`) and, for landmarks, DECA's `landmark_embedding.npy`.

    Raises WeightsError for a missing, damaged or different file, UnsafeWeightsError for one with code in it.
    """
    path = Path(model)
    arrays = _read_pickle(path)
    missing = [key for key in _KEYS if key not in arrays]
    if missing:
        raise WeightsError(f"{path} is not a FLAME model: it lacks {', '.join(missing)}")
    try:
        mean, modes, bends, regressor, skinning, triangles = (_array(arrays[key]) for key in _KEYS)
        pose_basis = np.moveaxis(bends.reshape(len(mean), 3, -1), 2, 0)
        modes = np.moveaxis(modes.reshape(len(mean), 3, -1), 2, 0)
        joint_mean, joint_basis = regressor @ mean, np.einsum("jv,kva->kja", regressor, modes)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise WeightsError(f"{path}: its arrays are not FLAME's ({error})") from error
    if len(mean) != VERTICES or len(pose_basis) != 9 * (len(JOINTS) - 1) or skinning.shape != (VERTICES, len(JOINTS)):
        raise WeightsError(
            f"{path}: FLAME has {VERTICES} vertices and {len(JOINTS)} joints, this model {len(mean)} vertices"
        )
    linear = _linear(mean, modes, triangles, skinning)
    table = None if landmarks is None else _read_landmarks(Path(landmarks))
    joint_mean, joint_basis, pose_basis, skinning = (
        np.ascontiguousarray(a, np.float32) for a in (joint_mean, joint_basis, pose_basis, skinning)
    )
    return FlameData(linear, joint_mean, joint_basis, pose_basis, skinning, table)


def _linear(mean: NDArray[Any], modes: NDArray[Any], triangles: NDArray[Any], skinning: NDArray[Any]) -> MorphableData:
    vertex_part = np.select([skinning[:, JOINTS.index(f"eye_{s}")] > 0.5 for s in "RL"], [1, 2], 0)
    corners = triangles.astype(np.int64)
    modes = np.ascontiguousarray(modes, np.float32)
    return MorphableData(
        name="flame",
        unit=UNIT,
        mean=mean.astype(np.float32),
        identity=modes[:SHAPE_MODES],
        expression=modes[SHAPE_MODES:],
        expression_names=tuple(f"expression{k:03d}" for k in range(len(modes) - SHAPE_MODES)),
        triangles=corners,
        parts=PARTS,
        vertex_part=vertex_part,
        triangle_part=vertex_part[corners].min(1),
    )


def _read_landmarks(path: Path) -> FlameLandmarks:
    table = _read_npy(path)
    try:
        return FlameLandmarks(
            np.asarray(table["static_lmk_faces_idx"], np.int64).reshape(51),
            np.asarray(table["static_lmk_bary_coords"], np.float32).reshape(51, 3),
            np.asarray(table["dynamic_lmk_faces_idx"], np.int64).reshape(2 * MOST_YAW + 1, 17),
            np.asarray(table["dynamic_lmk_bary_coords"], np.float32).reshape(2 * MOST_YAW + 1, 17, 3),
        )
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise WeightsError(f"{path} does not hold FLAME's 51 inner and 79×17 contour landmarks ({error!r})") from error


class _Leaf:
    """Stands for an object of a foreign class; it only keeps the state the file gives it."""


def _leaf(*_: Any) -> _Leaf:
    return _Leaf()


class _ArrayUnpickler(pickle.Unpickler):
    """Admits numpy arrays and scalars; objects of scipy.sparse and chumpy become inert leaves; refuses the rest."""

    _NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")

    def find_class(self, module: str, name: str) -> Any:
        if module in self._NUMPY and name in ("_reconstruct", "scalar"):
            example: Any = np.empty(0) if name == "_reconstruct" else np.float64(0)
            return example.__reduce__()[0]
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        if module.startswith("scipy.sparse") and name in ("csc_matrix", "csr_matrix", "csc_array", "csr_array"):
            return _Leaf
        if module in ("chumpy.ch", "chumpy") and name == "Ch":
            return _Leaf
        if module in ("copy_reg", "copyreg") and name == "_reconstructor":
            return _leaf
        if module in ("__builtin__", "builtins") and name == "object":
            return _Leaf
        if module == "_codecs" and name == "encode":
            return _encode
        raise UnsafeWeightsError(f"it asks for {module}.{name}, which is not an array")


def _encode(text: str, _encoding: str = "latin1") -> bytes:
    """Bytes as pickles of Python 2 arrays carry them in later protocols: text in Latin-1."""
    return text.encode("latin1")


def _read_pickle(path: Path) -> dict[str, Any]:
    return _dictionary(_unpickle(BytesIO(_read_bytes(path)), path), path)


def _read_npy(path: Path) -> dict[str, Any]:
    """The dictionary that `numpy.save` pickled into an array of one object."""
    stream = BytesIO(_read_bytes(path))
    try:
        version = np.lib.format.read_magic(stream)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        header(stream)
    except ValueError as error:
        raise WeightsError(f"{path} is not a .npy file ({error})") from error
    content = _unpickle(stream, path)
    return _dictionary(content.item() if isinstance(content, np.ndarray) and content.size == 1 else content, path)


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error}); give your licensed copy of FLAME") from error


def _unpickle(stream: BytesIO, path: Path) -> Any:
    try:
        return _ArrayUnpickler(stream, encoding="latin1").load()
    except UnsafeWeightsError as error:
        raise UnsafeWeightsError(f"{path} was not opened: {error}") from error
    except Exception as error:  # a damaged pickle can fail in any way
        raise WeightsError(f"{path} is not a readable pickle ({error!r})") from error


def _dictionary(content: Any, path: Path) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise WeightsError(f"{path} does not hold a dictionary of arrays")
    return content


def _array(value: Any) -> NDArray[Any]:
    """A numpy array of what the pickle held: an array, a chumpy leaf or a sparse leaf."""
    if isinstance(value, _Leaf):
        state = vars(value)
        if "indptr" in state:
            return np.asarray(_sparse(state).toarray())
        return _array(state["x"])
    return np.asarray(value)


def _sparse(state: dict[str, Any]) -> Any:
    """The sparse matrix of a leaf's state; row- and column-wise ones differ in which side the pointers count."""
    shape = state["_shape"] if "_shape" in state else state["shape"]
    column_wise = len(state["indptr"]) == shape[1] + 1
    kind = scipy.sparse.csc_matrix if column_wise else scipy.sparse.csr_matrix
    return kind((state["data"], state["indices"], state["indptr"]), shape=shape)
