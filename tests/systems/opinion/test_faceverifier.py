"""FaceVerifier: what it learns, that a crowd gets the answers of single faces, and what its crops are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from facewright.data.finds import FoundCrops
from facewright.errors import UsageError
from facewright.systems.opinion.faceverifier.network import BATCH, SIZE, FaceVerifier, FaceVerifierConfig
from facewright.systems.opinion.faceverifier.training import FaceVerifierTraining

if TYPE_CHECKING:
    from pathlib import Path
    from types import SimpleNamespace

TINY = FaceVerifierConfig(width=4)


@pytest.fixture
def model() -> FaceVerifier:
    torch.manual_seed(0)
    return FaceVerifier(TINY).eval()


def test_compact_is_below_a_megabyte_in_half_precision() -> None:
    assert 2 * sum(p.numel() for p in FaceVerifier(FaceVerifierConfig.compact()).parameters()) < 1e6


def test_a_crowd_gets_the_answers_of_single_faces(model: FaceVerifier, fakes: SimpleNamespace) -> None:
    picture = fakes.textured(120, 160)
    faces = [fakes.face_at((30 + 2 * n, 40 + n), 14) for n in range(BATCH + 3)]
    together = model.verify(picture, faces)
    assert together.shape == (len(faces),)
    for number in (0, BATCH - 1, BATCH, BATCH + 2):
        assert together[number] == pytest.approx(model.verify(picture, [faces[number]])[0], abs=1e-4)
    assert model.verify(picture, []).shape == (0,)


def test_mirror_images_get_the_same_answer(model: FaceVerifier) -> None:
    crops = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8)
    mirrored = np.ascontiguousarray(crops[:, :, ::-1])
    assert model.verify_crops(crops) == pytest.approx(model.verify_crops(mirrored), abs=1e-4)


@pytest.fixture
def finds(tmp_path: Path) -> str:
    """Bright crops as faces, dark ones as other things; a corner of every face is red."""
    crops = np.zeros((600, SIZE, SIZE, 3), np.uint8)
    faces = np.arange(600) % 2 == 0
    crops[faces] = 200
    crops[faces, :20, :20] = (255, 0, 0)
    np.savez(tmp_path / "finds.npz", crop=crops, face=faces)
    return str(tmp_path / "finds.npz")


def test_crops_are_a_function_of_their_number(finds: str) -> None:
    first, second = (FoundCrops([finds], seed=3) for _ in range(2))
    for number in (0, 1, 500):
        assert torch.equal(first[number]["image"], second[number]["image"])
        assert first[number]["image"].shape == (SIZE, SIZE, 3)
    assert not torch.equal(first[0]["image"], FoundCrops([finds], seed=4)[0]["image"])


def test_half_are_faces_and_turned_faces_are_none(finds: str) -> None:
    crops = FoundCrops([finds], "val", turned=0.5)
    items = [crops[number] for number in range(400)]
    assert np.mean([float(item["face"]) for item in items]) == pytest.approx(0.5, abs=0.08)
    for item in items:
        upright = bool((item["image"][5, 5] == torch.tensor([255, 0, 0])).all())
        assert upright == (item["face"] == 1)
    turned = [item for item in items if item["face"] == 0 and item["image"].max() > 0]
    assert len(turned) == pytest.approx(100, abs=30)


def test_validation_is_apart_from_training(finds: str) -> None:
    train, val = FoundCrops([finds]), FoundCrops([finds], "val")
    assert (len(train.faces[0]), len(val.faces[0])) == (275, 25)


def test_files_that_teach_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"reproductions\.second_opinion\.finds"):
        FoundCrops([str(tmp_path / "none.npz")])
    np.savez(tmp_path / "faces.npz", crop=np.zeros((60, SIZE, SIZE, 3), np.uint8), face=np.ones(60, bool))
    with pytest.raises(UsageError, match="faces and other things"):
        FoundCrops([str(tmp_path / "faces.npz")])


def test_it_learns_to_tell_them_apart(finds: str) -> None:
    torch.manual_seed(0)
    model = FaceVerifier(TINY)
    training = FaceVerifierTraining(model, lr=3e-3)
    optimiser = training.optimisers()["model"]

    def update(_: str, loss: torch.Tensor) -> None:
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    crops = FoundCrops([finds], turned=0.0)
    batch = {key: torch.stack([crops[n][key] for n in range(64)]) for key in ("image", "face")}
    losses = [float(training.step(batch, update, 0.0)["loss"]) for _ in range(60)]
    assert losses[-1] < 0.5 * losses[0]
    model.eval()
    found = training.validate(batch)
    assert found["accuracy"] > 0.9
    assert found["left"] < 0.1
    assert "left" not in training.validate({"image": batch["image"], "face": torch.ones(64)})


def test_the_embedded_network_knows_a_face_from_gravel(astronaut: np.ndarray, fakes: SimpleNamespace) -> None:
    from facewright.loading import load_detector

    face = max(load_detector("cpu").detect(astronaut), key=lambda found: found.score)
    verifier = FaceVerifier.from_pretrained()
    assert verifier.verify(astronaut, [face])[0] > 2
    assert verifier.verify(np.ascontiguousarray(astronaut[::-1]), [face])[0] < 0
