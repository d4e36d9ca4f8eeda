"""FaceWarp: published layout, geometry of crops and patches, the warp and its gradient, confidences, the two turns."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from facewright.errors import UsageError
from facewright.face import Face, Landmarks
from facewright.geometry.similarity import transform_points
from facewright.systems.landmarks.facewarp import network as facewarp
from facewright.systems.landmarks.facewarp.convert import convert_published
from facewright.systems.landmarks.facewarp.network import (
    MIRROR_68,
    MIRROR_98,
    FaceWarp,
    FaceWarpConfig,
    Prediction,
    confidence,
    edges,
    mean_shape,
    mirrored,
    patch_boxes,
    read_patches,
    spline_flow,
    warp,
)
from facewright.systems.landmarks.facewarp.training import (
    FaceWarpTraining,
    LandmarkTraining,
    Turns,
    distances,
    spread_loss,
    stage_loss,
)

if TYPE_CHECKING:
    from types import SimpleNamespace


def rolled(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def compact() -> FaceWarp:
    torch.manual_seed(0)
    return FaceWarp(FaceWarpConfig.compact()).eval()


@pytest.fixture(scope="module")
def full() -> FaceWarp:
    torch.manual_seed(0)
    return FaceWarp().eval()


class TestNetwork:
    def test_sizes(self, full: FaceWarp, compact: FaceWarp) -> None:
        assert sum(p.numel() for p in full.parameters()) == 13_178_508  # the published one without its unused norm
        assert 700_000 < sum(p.numel() for p in compact.parameters()) < 1_000_000

    def test_published_names_fill_every_tensor(self, full: FaceWarp) -> None:
        ours = full.state_dict()
        names = {
            "extract.weight": "feature_extractor.weight",
            "relation.structure": "Transformer.structure_encoding",
            "relation.query": "Transformer.landmark_query",
            "relation.layers.5.linear1.weight": "Transformer.Transformer_block.layers.5.linear1.weight",
            "relation.norm.bias": "Transformer.Transformer_block.norm.bias",
            "place.weight": "out_layer.weight",
            "place.bias": "out_layer.bias",
            "backbone.stage4.0.fuse_layers.0.3.0.weight": "backbone.stage4.0.fuse_layers.0.3.0.weight",
            "backbone.stage3.0.fuse_layers.2.0.0.0.weight": "backbone.stage3.0.fuse_layers.2.0.0.0.weight",
            "backbone.transition1.0.0.weight": "backbone.transition1.0.0.weight",
            "backbone.transition3.3.0.0.weight": "backbone.transition3.3.0.0.weight",
            "backbone.head.3.weight": "backbone.head.3.weight",
        }
        shapes = {"feature_extractor.weight": (256, 256, 7, 7), "backbone.transition1.0.0.weight": (18, 256, 3, 3)}
        shapes |= {"backbone.stage4.0.fuse_layers.0.3.0.weight": (18, 144, 1, 1), "out_layer.weight": (2, 256)}  # type: ignore[dict-item]
        shapes |= {"backbone.head.3.weight": (256, 270, 1, 1), "Transformer.landmark_query": (1, 68, 256)}  # type: ignore[dict-item]
        published = {}
        for key, value in ours.items():
            name = names.get(key, key.replace("relation.", "Transformer.Transformer_block."))
            published[f"module.{name}"] = value.view(256, 256, 7, 7) if name == "feature_extractor.weight" else value
        for name, shape in shapes.items():
            assert published[f"module.{name}"].shape == shape
        published["module.feature_norm.weight"] = torch.ones(256)
        converted = convert_published({"warpA2B": published})
        assert set(converted) == set(ours)
        assert all(torch.equal(converted[key], ours[key]) for key in ours)

    def test_the_patch_filter_sees_rows_and_columns_as_published(self, full: FaceWarp) -> None:
        """A published 7×7 filter that looks at one place must read the features there."""
        features = rolled(1, 1, 256, 64, 64)
        low, high = patch_boxes(torch.full((1, 68, 2), 0.5), 3 / 63)
        read = read_patches(features, low, high).view(1, 68, 256, 7, 7)
        weight = torch.zeros(256, 256, 7, 7)
        weight[0, 4, 1, 5] = 1  # row 1, column 5
        value = read[0, 0].flatten() @ convert_published({"feature_extractor.weight": weight})["extract.weight"][0]
        corner = 0.5 * 63 - 3
        rows, columns = (features[0, 4, int(corner + 1) : int(corner + 1) + 2, int(corner + 5) : int(corner + 5) + 2],)[
            0
        ]
        assert float(value) == pytest.approx(float((rows.mean() + columns.mean()) / 2), rel=1e-4)

    def test_patches_stop_at_the_border(self) -> None:
        low, high = patch_boxes(torch.tensor([[[0.02, 0.5], [0.99, 0.4]]]), 0.1)
        torch.testing.assert_close(low, torch.tensor([[[0.0, 0.4], [0.89, 0.3]]]))
        torch.testing.assert_close(high, torch.tensor([[[0.12, 0.6], [1.0, 0.5]]]))

    def test_a_fresh_network_says_about_the_mean_shape(self, compact: FaceWarp) -> None:
        found = compact(rolled(2, 2, 3, 128, 128) * 2 - 1)
        assert found.points.shape == (2, 2, 2, 68, 2)
        assert float((found.last - compact.mean).detach().norm(dim=-1).mean()) < 0.03

    def test_later_stages_look_near_earlier_ones(self, full: FaceWarp) -> None:
        with torch.inference_mode():
            points = full(rolled(3, 1, 3, 256, 256) * 2 - 1).points
        assert points.shape == (1, 3, 6, 68, 2)
        for stage, half in ((1, 1 / 16), (2, 1 / 32)):
            assert float((points[:, stage, -1] - points[:, stage - 1, -1]).abs().max()) < 2 * half

    def test_wrong_input_is_named(self, compact: FaceWarp) -> None:
        with pytest.raises(UsageError, match=r"takes crops \(N, 3, 128, 128\)"):
            compact(torch.zeros(1, 3, 64, 64))
        with pytest.raises(UsageError, match="uint8 crops"):
            compact.landmarks(np.zeros((1, 128, 128, 3), np.float32))
        with pytest.raises(UsageError, match="need a network with wflw"):
            compact.landmarks98(np.zeros((1, 128, 128, 3), np.uint8))
        with pytest.raises(UsageError, match="known: hrnet, depthwise"):
            FaceWarp(FaceWarpConfig(backbone="resnet"))  # type: ignore[arg-type]


class TestMirror:
    def test_tables_are_their_own_inverse(self) -> None:
        for table in (MIRROR_68, MIRROR_98):
            np.testing.assert_array_equal(table[table], np.arange(len(table)))

    def test_the_mean_face_is_its_own_mirror_image(self) -> None:
        shape = mean_shape(FaceWarpConfig.compact())
        torch.testing.assert_close(mirrored(shape * 100, 101), shape * 100, atol=0.15, rtol=0)

    def test_98_points_mirror_as_the_68_they_come_from(self) -> None:
        from facewright.render.conventions import weights98

        weights = weights98()
        np.testing.assert_allclose(weights[MIRROR_98[:96]][:, MIRROR_68], weights, atol=1e-6)

    def test_mirror_averaging_makes_answers_symmetric(self, compact: FaceWarp) -> None:
        crops = np.random.default_rng(0).integers(0, 256, (3, 128, 128, 3), dtype=np.uint8)
        straight, flipped = compact.landmarks(crops), compact.landmarks(np.ascontiguousarray(crops[:, :, ::-1]))
        again = mirrored(torch.from_numpy(flipped.points), 128).numpy()
        np.testing.assert_allclose(straight.points, again, atol=0.02)
        np.testing.assert_allclose(straight.confidence, flipped.confidence[:, MIRROR_68], atol=1e-3)


class TestLocate:
    def test_one_face_as_many_and_no_face(self, compact: FaceWarp, fakes: SimpleNamespace) -> None:
        photo = fakes.textured(300, 400)
        faces = [fakes.face_at((80 + 9 * i, 120 + 4 * i), 50.0, angle=3.0 * i) for i in range(5)]
        together = compact.locate(photo, faces)
        alone = [compact.locate(photo, [face])[0] for face in faces]
        for a, b in zip(together, alone):
            np.testing.assert_allclose(a.points, b.points, atol=0.3)
        assert compact.locate(photo, []) == []

    def test_points_turn_and_scale_with_the_face(self, compact: FaceWarp, fakes: SimpleNamespace) -> None:
        """A fresh network says the mean shape, so its landmarks show where the crop was."""
        face = fakes.face_at((150, 140), 60.0, angle=25.0)
        points = compact.locate(fakes.textured(300, 300), [face])[0].points
        eyes = np.stack([points[36:42].mean(0), points[42:48].mean(0)])
        np.testing.assert_allclose(eyes, face.points5[:2], atol=6)
        lean = np.degrees(np.arctan2(*(eyes[1] - eyes[0])[::-1]))
        assert lean == pytest.approx(25, abs=4)

    def test_coinciding_points_fall_back_to_the_box(self, compact: FaceWarp) -> None:
        face = Face(np.array([20, 30, 60, 110], np.float32), 0.9, np.full((5, 2), 50, np.float32))
        matrix = compact.preprocess.crop.matrix(face)
        np.testing.assert_allclose(transform_points(matrix, np.array([[40.0, 70.0]])), [[64, 64]])
        assert matrix[0, 0] == pytest.approx(128 / (1.2 * 80))
        assert np.isfinite(compact.locate(np.zeros((200, 200, 3), np.uint8), [face])[0].points).all()

    def test_aligned_crops_hold_the_face(self, compact: FaceWarp, fakes: SimpleNamespace) -> None:
        face = fakes.face_at((500, 400), 123.0, angle=-40.0)
        eyes = transform_points(compact.preprocess.crop.matrix(face), face.points5[:2].astype(float))
        expected = mean_shape(compact.config).numpy() * 128
        np.testing.assert_allclose(eyes, [expected[36:42].mean(0), expected[42:48].mean(0)], atol=1.5)


class TestConfidence:
    def test_is_the_probability_of_the_laplace_law(self) -> None:
        scale = 0.02
        rng = np.random.default_rng(0)
        radius = rng.gamma(2, scale, 200_000)  # in the plane the distance of that law is gamma-distributed
        assert float(confidence(torch.tensor(scale))) == pytest.approx(float((radius <= 0.03).mean()), abs=4e-3)
        assert float(confidence(torch.tensor(1e-4))) == pytest.approx(1)
        assert float(confidence(torch.tensor(10.0))) < 1e-4

    def test_the_best_scale_is_half_the_mean_distance(self) -> None:
        truth = torch.full((1, 68, 2), 0.5)
        points = truth + torch.tensor([0.02, 0.0])
        candidates = torch.linspace(0.002, 0.04, 39)
        losses = [
            float(
                spread_loss(Prediction(truth, points[:, None, None], s.expand(1, 68), None), truth, torch.ones(1, 68))
            )
            for s in candidates
        ]
        assert float(candidates[int(np.argmin(losses))]) == pytest.approx(0.01)

    def test_the_full_network_is_unsure_where_its_answers_differ(self, full: FaceWarp) -> None:
        points = torch.full((1, 3, 6, 68, 2), 0.5)
        points[:, -1, :-1, 7] += 0.05
        scale = full._scale(points, torch.zeros(1, 68, 256))[0]
        assert float(scale[7]) > 100 * float(scale[8])


class TestWarp:
    def test_spline_passes_through_its_points_and_keeps_affine_maps(self) -> None:
        points = mean_shape(FaceWarpConfig()).expand(2, -1, -1) * 256
        values = rolled(2, 2, 68, 2) * 10 - 5
        assert float((spline_flow(points, values, points) - values).abs().max()) < 1e-3
        linear = torch.tensor([[1.1, 0.2], [-0.3, 0.8]])
        queries = rolled(3, 2, 50, 2) * 120 - 15
        torch.testing.assert_close(
            spline_flow(points, points @ linear + 7, queries), queries @ linear + 7, atol=2e-3, rtol=0
        )

    def test_agrees_with_scipy(self) -> None:
        from scipy.interpolate import RBFInterpolator

        points, values, queries = rolled(4, 1, 25, 2), rolled(5, 1, 25, 2), rolled(6, 1, 40, 2)
        expected = RBFInterpolator(points[0].double(), values[0].double(), kernel="thin_plate_spline")(
            queries[0].double()
        )
        np.testing.assert_allclose(spline_flow(points, values, queries)[0], expected, atol=1e-4)

    def test_coinciding_points_are_no_catastrophe(self) -> None:
        points = rolled(7, 1, 20, 2) * 50
        points[0, 1] = points[0, 0]
        assert torch.isfinite(spline_flow(points, torch.ones_like(points), points)).all()

    def test_no_change_of_landmarks_is_no_change_of_picture(self) -> None:
        image, points = rolled(1, 1, 3, 40, 50), rolled(2, 1, 20, 2) * 38
        torch.testing.assert_close(warp(image, points, points), image, atol=1e-4, rtol=0)

    def test_landmarks_end_where_they_are_wanted(self) -> None:
        image = torch.zeros(1, 1, 61, 61)
        points = torch.tensor([[[30.0, 25.0], [3, 3], [57, 3], [3, 57], [57, 57], [20, 40], [45, 41]]])
        image[0, 0, 25, 30] = 1
        wanted = points.clone()
        wanted[0, 0] += torch.tensor([5.0, -4.0])
        bent = warp(image, points, wanted)[0, 0]
        assert divmod(int(bent.argmax()), 61) == (21, 35)

    def test_gradient_of_the_edges_reaches_the_landmarks_unless_detached(self) -> None:
        y, x = torch.meshgrid(torch.arange(48.0), torch.arange(48.0), indexing="ij")
        image = torch.exp(-((x - 22) ** 2 + (y - 25) ** 2) / 90)[None, None].expand(1, 3, 48, 48).double()
        target = edges(image.roll(2, 3))
        points = (rolled(1, 1, 12, 2) * 40 + 4).double()

        def loss(wanted: torch.Tensor, **options: bool) -> torch.Tensor:
            return (edges(warp(image, points, wanted, **options)) - target).square().sum()

        wanted = (points + 0.3).requires_grad_()
        (gradient,) = torch.autograd.grad(loss(wanted), wanted)
        assert float(gradient.abs().max()) > 1e-3
        step = torch.zeros_like(points)
        step[0, 3, 0] = 1e-4
        with torch.no_grad():
            numeric = (loss(wanted + step) - loss(wanted - step)) / 2e-4
        assert float(gradient[0, 3, 0]) == pytest.approx(float(numeric), rel=2e-3, abs=1e-6)
        assert not loss(wanted, detached=True).requires_grad

    def test_edges_of_a_ramp_are_its_slope(self) -> None:
        ramp = (torch.arange(20.0) * 0.03).expand(1, 3, 16, 20)
        torch.testing.assert_close(edges(ramp)[0, 0, 2:-2, 2:-2], torch.full((12, 16), 0.03), atol=1e-3, rtol=0)


def batch(count: int = 2, size: int = 128) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = mean_shape(FaceWarpConfig.compact()) * size
    points = shape + torch.randn(count, 68, 2, generator=generator)
    pictures = [torch.randint(0, 256, (count, size, size, 3), generator=generator, dtype=torch.uint8) for _ in range(2)]
    return {
        "image": pictures[0],
        "styled": pictures[1],
        "points": points,
        "styled_points": points,
        "weights": torch.ones(count, 68),
        "length": torch.full((count,), 54.0),
        "yaw": torch.tensor([0.0, 70.0][:count]),
        "rendered": torch.tensor([0.0, 1.0][:count]),
    }


class TestTraining:
    def test_distances_and_stage_weights_by_hand(self) -> None:
        truth = torch.zeros(1, 68, 2)
        points = torch.zeros(1, 3, 2, 68, 2)
        for stage, error in enumerate((0.3, 0.2, 0.1)):
            points[:, stage, :, :, 0] = error
        found = Prediction(truth, points, torch.ones(1, 68), None)
        length, weights = torch.tensor([0.5]), torch.ones(1, 68)
        assert float(distances(points, truth, length)[0, 0].mean()) == pytest.approx(0.6)
        assert float(stage_loss(found, truth, weights, length)) == pytest.approx(0.2 * 0.6 + 0.3 * 0.4 + 0.5 * 0.2)
        assert float(stage_loss(found, truth, weights * 0, length)) == 0

    def test_validation_counts_faces_where_they_belong(self, compact: FaceWarp) -> None:
        with torch.no_grad():
            scores = LandmarkTraining(compact).validate(batch())
        assert scores["nme68"] > 0
        assert np.isnan(scores["nme_renders"])  # its yaw is beyond 60 degrees

    def test_learns_one_picture_by_heart(self) -> None:
        torch.manual_seed(0)
        training = LandmarkTraining(FaceWarp(FaceWarpConfig.compact()), lr=3e-4)
        optimiser = training.optimisers()["model"]
        data = {k: v[:1].repeat(2, *[1] * (v.dim() - 1)) for k, v in batch().items()}

        def update(_: str, loss: torch.Tensor) -> None:
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

        errors = [float(training.step(data, update, 0)["nme"]) for _ in range(24)]
        assert errors[-1] < 0.75 * errors[0]

    def test_turns_alternate_and_remember(self) -> None:
        model = torch.nn.Linear(1, 1)
        turns = Turns(model, 2)  # type: ignore[arg-type]
        seen = []
        for step in range(8):
            seen.append(turns.is_warpers())
            torch.nn.init.constant_(model.weight, step)
            turns.advance(model)  # type: ignore[arg-type]
        assert seen == [True, True, False, False] * 2
        assert float(turns.anchor.weight) == 5  # type: ignore[arg-type]  # as after the warper's last step

    def test_each_turn_uses_its_own_optimiser(self, compact: FaceWarp) -> None:
        training = FaceWarpTraining(copy.deepcopy(compact).train(), turn=1)
        names: list[str] = []
        data = batch()
        logs = [dict(training.step(data, lambda name, loss: names.append(name), 0)) for _ in range(2)]
        assert names == ["warper", "model"]
        assert set(logs[0]) == {"warp"}
        assert {"nme", "pseudo"} <= set(logs[1])

    def test_the_warpers_loss_teaches_the_landmarker_unless_published(self, compact: FaceWarp) -> None:
        data = batch(1)
        model = copy.deepcopy(compact).train()
        FaceWarpTraining(model).warp_loss(data).backward()
        assert float(model.place.weight.grad.abs().max()) > 0
        before = copy.deepcopy(model.state_dict())
        cut = FaceWarpTraining(model, published_code=True)
        cut.step(data, lambda name, loss: pytest.fail(f"{name} was updated"), 0)
        after = model.state_dict()
        assert all(torch.equal(before[k], after[k]) for k in before if "running" not in k and "num_batches" not in k)
        assert not torch.equal(before["backbone.stem.1.running_mean"], after["backbone.stem.1.running_mean"])


def test_98_points_begin_as_mixtures_of_the_68() -> None:
    torch.manual_seed(0)
    config = FaceWarpConfig(128, "depthwise", 32, 4, 1, 64, 0.0, (1 / 12, 1 / 24), wflw=True)
    model = FaceWarp(config).eval()
    torch.nn.init.zeros_(model.wflw.offset.weight)
    torch.nn.init.zeros_(model.wflw.offset.bias)
    found = model(rolled(1, 1, 3, 128, 128))
    torch.testing.assert_close(found.wflw[:, 72], found.last[:, 45])
    torch.testing.assert_close(found.wflw[:, 96], found.last[:, 36:42].mean(1))
    crops = np.zeros((1, 128, 128, 3), np.uint8)
    assert model.landmarks98(crops).shape == (1, 98, 2)


def test_mirroring_can_be_overruled_for_one_call(compact: FaceWarp, fakes: SimpleNamespace) -> None:
    picture, faces = fakes.textured(90, 90), [fakes.face_at((45, 45), 18.0)]
    both, one = (compact.locate(picture, faces, mirror=mirror)[0].points for mirror in (True, False))
    assert compact.mirror
    assert np.array_equal(both, compact.locate(picture, faces)[0].points)
    assert np.abs(both - one).max() > 0


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_a_turned_face_has_the_points_of_the_upright_one(turn: int, compact: FaceWarp, fakes: SimpleNamespace) -> None:
    from facewright.geometry.turns import turned_by, turned_face, turned_points

    picture, face = fakes.textured(90, 120), fakes.face_at((60, 45), 18.0)
    upright = compact.locate(picture, [face])[0].points
    turned = compact.locate(turned_by(picture, turn), [turned_face(face, turn, (90, 120))])[0].points
    assert np.abs(turned - turned_points(upright, turn, (90, 120))).max() < 0.3


def test_batches_of_faces_are_bounded(
    compact: FaceWarp, fakes: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def fake(crops: np.ndarray, *, mirror: bool | None) -> Landmarks:
        seen.append(len(crops))
        return Landmarks(np.zeros((len(crops), 68, 2), np.float32), np.ones((len(crops), 68), np.float32))

    monkeypatch.setattr(compact, "landmarks", fake)
    assert len(compact.locate(fakes.textured(64, 64), [fakes.face_at((30, 30), 12.0)] * 70)) == 70
    assert max(seen) <= facewarp.BATCH
