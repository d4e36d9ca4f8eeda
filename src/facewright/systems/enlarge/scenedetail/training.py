"""How SceneDetail is trained: as FaceDetail, no place counting more than another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...restore.facedetail.training import FaceDetailTraining

if TYPE_CHECKING:
    from pathlib import Path

    from .network import SceneDetail


class SceneDetailTraining(FaceDetailTraining):
    """The losses of `FaceDetailTraining`, whose options these are, without its weights for parts of the face."""

    def __init__(self, model: SceneDetail, **options: Any) -> None:
        super().__init__(model, region_weight=0.0, **options)


def start(folder: str | Path, faces: str | Path) -> Path:
    """Write a compact SceneDetail with what fits of a trained FaceDetail, from which its training goes on."""
    from ...restore.facedetail.network import FaceDetail
    from .network import SceneDetail, SceneDetailConfig

    trained = FaceDetail.from_pretrained(faces)
    model = SceneDetail(SceneDetailConfig.compact())
    own = model.state_dict()
    fitting = {k: v for k, v in trained.state_dict().items() if k in own and v.shape == own[k].shape}
    model.load_state_dict(own | fitting)
    return model.save_pretrained(folder)
