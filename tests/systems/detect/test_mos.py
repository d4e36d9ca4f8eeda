"""MOS: parity with the published networks, decoding, losses, and what detection promises on any picture."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from facewright.data.detection import BOX, COLUMNS, FACE, IGNORED, LABEL, PADDING, POINTS, POSE
from facewright.errors import UsageError
from facewright.nn.boxes import decode_boxes, decode_points, encode_boxes, encode_points, make_anchors
from facewright.systems.detect.mos import convert
from facewright.systems.detect.mos import network as mos
from facewright.systems.detect.mos import training as mos_training
from facewright.systems.detect.mos.network import MOS, Candidates, MOSConfig, Predictions
from facewright.systems.detect.mos.training import MOSTraining

SMALL = MOSConfig("shufflenetv2", width=0.25, fpn=16, deformable=False, pose_hidden=8, bin_centre=True)
FRONTAL = np.array([[30, 40], [70, 40], [50, 60], [35, 80], [65, 80]], np.float32)


def small_model(seed: int = 0) -> MOS:
    torch.manual_seed(seed)
    return MOS(SMALL).eval()


def primed_model(seed: int = 0) -> MOS:
    """A random network whose points look like a frontal face wherever it fires."""
    model = small_model(seed)
    grid = (torch.from_numpy(FRONTAL) / 100 - 0.5) / 0.1
    with torch.no_grad():
        for branch in model.branches:
            branch.heads["points"].bias += grid.flatten().repeat(mos.ANCHORS)  # type: ignore[index, union-attr]
            branch.heads["class"].weight *= 5  # type: ignore[index, union-attr]
    return model


def label_row(box, points=None, pose=(0.0, 0.0, 0.0), label=FACE) -> torch.Tensor:
    row = torch.zeros(COLUMNS)
    x0, y0, x1, y1 = box
    row[BOX] = torch.tensor(box, dtype=torch.float32)
    grid = torch.tensor([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]])
    default = torch.tensor([x0, y0]) + grid * torch.tensor([x1 - x0, y1 - y0])
    row[POINTS] = (default if points is None else torch.as_tensor(points)).flatten()
    row[POSE] = torch.tensor(pose)
    row[LABEL] = label
    return row


@pytest.mark.shared
@pytest.mark.parametrize(("name", "config"), [("mos", MOSConfig()), ("mos-s", MOSConfig.mos_s())])
def test_parity_with_published(parity, name: str, config: MOSConfig) -> None:
    arrays, published, _ = parity(name)
    model = MOS(config).eval()
    model.load_state_dict(convert.convert_published({"state_dict": {f"module.{k}": v for k, v in published.items()}}))
    with torch.inference_mode():
        out = model(torch.from_numpy(arrays["in_image"]))
    angles = out.angles.softmax(-1)
    results = {
        "out_loc": out.boxes,
        "out_conf_logits": out.logits,
        "out_conf": out.logits.softmax(-1),
        "out_landmark": out.points.flatten(2),
        "out_yaw_logits": out.angles[:, ::3, 0],
        "out_yaw": angles[:, ::3, 0],
        "out_pitch": angles[:, ::3, 1],
        "out_roll": angles[:, ::3, 2],
    }
    for key, value in results.items():
        expected = torch.from_numpy(arrays[key])
        assert value.shape == expected.shape
        assert (value - expected).abs().max() < 1e-4 * expected.abs().max(), key


def test_anchor_count_of_the_paper() -> None:
    assert len(make_anchors(640, 640, mos.STRIDES, mos.ANCHOR_SIZES)) == 16_800


@pytest.mark.parametrize("config", [SMALL, MOSConfig("mobilenetv2", width=0.25, fpn=16, pose_hidden=8)])
def test_odd_sizes_have_one_prediction_per_anchor(config: MOSConfig) -> None:
    model = MOS(config).eval()
    for height, width in ((33, 71), (64, 8), (100, 97)):
        out = model(torch.randn(2, 3, height, width))
        count = len(make_anchors(height, width, mos.STRIDES, mos.ANCHOR_SIZES))
        assert out.logits.shape == (2, count, 2)
        assert out.boxes.shape == (2, count, 4)
        assert out.points.shape == (2, count, 5, 2)
        assert out.angles.shape == (2, count, 3, mos.BINS)


def test_cross_stitch_folding_equals_the_plain_formula() -> None:
    branch = mos.Branches(8, 4).eval()
    with torch.no_grad():
        for p in branch.parameters():
            p.normal_()
    x = torch.randn(1, 8, 3, 5)
    stitched = [
        torch.nn.functional.conv2d(x, branch.stitch_weight[j][..., None, None], branch.stitch_bias[j]) for j in range(6)
    ]
    mixed = [sum(branch.cross[i, j].view(1, -1, 1, 1) * stitched[j] for j in range(6)) for i in range(6)]
    logits, boxes, points = branch.detection(x)
    for feature, head, result in zip(mixed, branch.heads.values(), (logits, boxes, points)):
        plain = head(feature.permute(0, 2, 3, 1)).reshape(result.shape)  # type: ignore[union-attr]
        torch.testing.assert_close(result, plain, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(branch.pose_features(x), torch.cat(mixed[3:], 1), rtol=1e-4, atol=1e-4)  # type: ignore[arg-type]


def test_angles_at_chosen_anchors_equal_the_dense_map() -> None:
    model = small_model()
    with torch.inference_mode():
        features = model.features(torch.randn(2, 3, 40, 56))
        dense = mos.expected_angle(model.branches[0].angles(features[0]), centre=True)  # type: ignore[operator]
        image, index = torch.tensor([0, 0, 1, 1, 1]), torch.tensor([0, 13, 33, 69, 40])
        chosen = model.angles_at(0, features[0], image, index // 2, index % 2)
    torch.testing.assert_close(chosen, dense[image, index], rtol=1e-4, atol=1e-4)


def test_fused_network_computes_the_same() -> None:
    torch.manual_seed(1)
    model = MOS(MOSConfig("shufflenetv2", width=0.25, fpn=16, pose_hidden=8)).train()
    for _ in range(3):
        model(torch.randn(4, 3, 64, 64) * 3 + 1)
    model.eval()
    x = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        plain, fused = model(x), model.inference()(x)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in model.inference().modules())
    for a, b in zip(plain, fused):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_fused_copy_follows_new_weights() -> None:
    model, other = primed_model(0), primed_model(1)
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    before = model.detect(image, threshold=0.1, min_size=1)
    model.load_state_dict(other.state_dict())
    after, expected = (m.detect(image, threshold=0.1, min_size=1) for m in (model, other))
    assert [f.score for f in after] == pytest.approx([f.score for f in expected])
    assert [f.score for f in after] != [f.score for f in before]


@pytest.mark.parametrize("centre", [True, False])
def test_bins_and_angles_round_trip(centre: bool) -> None:
    bins = torch.full((mos.BINS, mos.BINS), -50.0)
    bins.fill_diagonal_(50.0)
    angles = mos.expected_angle(bins, centre=centre)
    truth = torch.arange(mos.BINS) * 3.0 - 99 + 1.5
    assert (angles - truth).abs().max() <= (1e-3 if centre else 1.5 + 1e-3)


@pytest.mark.parametrize("shape", [(1, 1), (5, 900), (900, 5), (8, 8), (300, 2)])
def test_tiny_pictures_have_no_faces(shape: tuple[int, int]) -> None:
    assert small_model().detect(np.full((*shape, 3), 128, np.uint8), threshold=0.9) == []


def test_detect_refuses_what_is_no_rgb_picture() -> None:
    model = small_model()
    for bad in (np.zeros((20, 20), np.uint8), np.zeros((20, 20, 4), np.uint8), np.zeros((20, 20, 3), np.float32)):
        with pytest.raises(UsageError):
            model.detect(bad)  # type: ignore[arg-type]


def test_batch_equals_single_pictures() -> None:
    model = primed_model()
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, shape, dtype=np.uint8) for shape in ((64, 80, 3), (48, 48, 3), (64, 80, 3))]
    together = model.detect_batch(pictures, threshold=0.1, min_size=1)
    assert sum(map(len, together)) > 0
    for faces, picture in zip(together, pictures):
        alone = model.detect(picture, threshold=0.1, min_size=1)
        assert len(alone) == len(faces)
        for a, b in zip(alone, faces):
            np.testing.assert_allclose(a.box, b.box, atol=1e-2)


def test_pyramid_levels_shrink_to_where_large_faces_fit() -> None:
    assert mos.level_sizes(3000, 4000, 1280) == [(960, 1280), (192, 256)]
    assert mos.level_sizes(200, 300, 1280) == [(200, 300)]
    assert mos.level_sizes(4, 900, 1280) == []


def test_tiles_cover_everything_and_overlap() -> None:
    for rows, columns in ((100, 100), (1600, 4000), (mos.TILE, mos.TILE + 1)):
        seen = np.zeros((rows, columns), bool)
        corners = mos.tile_corners(rows, columns)
        for top, left in corners:
            assert top >= 0
            assert left >= 0
            seen[top : top + mos.TILE, left : left + mos.TILE] = True
        assert seen.all()
        lefts = sorted({left for _, left in corners})
        assert all(b - a <= mos.TILE - mos.TILE_OVERLAP for a, b in zip(lefts, lefts[1:]))


def test_candidates_return_to_photo_pixels() -> None:
    found = Candidates(
        torch.zeros(1).long(),
        torch.ones(1),
        torch.tensor([[9.5, 19.5, 29.5, 49.5]]),
        torch.zeros(1, 5, 2),
        torch.zeros(1, 3),
    )
    moved = found.moved((100, 0), (4.0, 2.0))
    np.testing.assert_allclose(moved.boxes.numpy(), [[439.5, 39.5, 519.5, 99.5]])
    np.testing.assert_allclose(moved.points[0, 0].numpy(), [401.5, 0.5])


def turned(points: np.ndarray, degrees: float) -> np.ndarray:
    turn = np.radians(degrees)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return ((points - 55) @ matrix.T + 55).astype(np.float32)


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        (FRONTAL, True),
        (turned(FRONTAL, 60), True),
        (turned(FRONTAL, -85), True),
        (np.array([[30, 40], [34, 41], [15, 62], [25, 78], [28, 80]], np.float32), True),  # profile
        (FRONTAL[[1, 0, 2, 3, 4]], False),  # eyes crossed
        (FRONTAL * 0.05 + 50, False),  # all in one place
        (FRONTAL + 120, False),  # outside the box
        (FRONTAL[[0, 1, 3, 3, 4]] + [[0, 0], [0, 0], [0, 35], [0, 0], [0, 0]], False),  # nose under the mouth
    ],
)
def test_plausible_landmarks(points: np.ndarray, expected: bool) -> None:
    box = np.array([[5, 5, 105, 105]], np.float32)
    assert bool(mos.plausible(box, points[None].astype(np.float32))[0]) is expected


def test_select_faces_keeps_one_face_per_head_and_turns_yaw() -> None:
    boxes = torch.tensor([[0.0, 0, 100, 130], [2, 1, 101, 128], [20, 30, 50, 60], [300, 0, 380, 100]])
    points = torch.stack([b[:2] + (b[2:] - b[:2]) * torch.from_numpy(FRONTAL) / 100 for b in boxes])
    found = Candidates(
        torch.zeros(4).long(), torch.tensor([0.8, 0.9, 0.85, 0.6]), boxes, points, torch.tensor([[10.0, 20, 30]] * 4)
    )
    faces = mos.select_faces(found, min_size=12)
    assert [f.score for f in faces] == pytest.approx([0.9, 0.6])
    assert (faces[0].pose.yaw, faces[0].pose.pitch, faces[0].pose.roll) == (-10, 20, 30)
    assert mos.select_faces(found, min_size=200) == []


def test_matching_forces_a_face_no_anchor_fits_and_spares_ignored_ones() -> None:
    anchors = make_anchors(64, 64, mos.STRIDES, mos.ANCHOR_SIZES)
    rows = torch.stack([label_row((17, 16, 27, 29)), label_row((40, 40, 56, 56), label=IGNORED), torch.zeros(COLUMNS)])
    rows[2, LABEL] = PADDING
    targets = mos_training.match_anchors(anchors, rows[None])
    assert targets.positive.any()
    assert (targets.face[targets.positive] == 0).all()
    spared = ~targets.positive & ~targets.negative
    centres = anchors[spared[0], :2]
    assert len(centres) > 0
    assert ((centres >= 32) & (centres <= 64)).all()
    assert anchors[spared[0], 2].max() == 32


def test_perfect_predictions_cost_almost_nothing_and_gradients_reach_every_task() -> None:
    anchors = make_anchors(64, 64, mos.STRIDES, mos.ANCHOR_SIZES)
    row = label_row((16, 12, 46, 50), pose=(10.5, -4.5, 19.5))
    faces = row[None, None]
    targets = mos_training.match_anchors(anchors, faces)
    logits = torch.where(targets.positive[..., None], torch.tensor([-20.0, 20.0]), torch.tensor([20.0, -20.0]))
    boxes = encode_boxes(row[BOX].expand(len(anchors), 4), anchors)[None]
    points = encode_points(row[POINTS].view(5, 2).expand(len(anchors), 5, 2), anchors)[None]
    angles = torch.full((1, len(anchors), 3, mos.BINS), -30.0)
    for axis, angle in enumerate((-10.5, -4.5, 19.5)):  # the network speaks Hopenet's signs
        angles[..., axis, int((angle + 99) // 3)] = 30.0
    leaves = Predictions(*(t.clone().requires_grad_() for t in (logits, boxes, points, angles)))
    training = MOSTraining(MOS(SMALL))
    losses, share = training.losses(leaves, faces, torch.Size((64, 64)))
    assert all(float(v.detach()) < 1e-3 for v in losses.values()), losses
    assert share == 0.0
    worse = Predictions(*(t.detach().add(torch.randn_like(t)).requires_grad_() for t in leaves))
    losses, _ = training.losses(worse, faces, torch.Size((64, 64)))
    training.balance(losses).backward()
    assert all(t.grad is not None and t.grad.abs().sum() > 0 for t in worse)


def test_codes_round_trip_through_losses_and_inference() -> None:
    anchors = make_anchors(96, 96, mos.STRIDES, mos.ANCHOR_SIZES)
    row = label_row((20, 30, 60, 84))
    assert torch.allclose(
        decode_boxes(encode_boxes(row[BOX].expand(len(anchors), 4), anchors), anchors), row[BOX], atol=1e-3
    )
    points = row[POINTS].view(5, 2).expand(len(anchors), 5, 2)
    assert torch.allclose(decode_points(encode_points(points, anchors), anchors), points, atol=1e-3)


def test_empty_picture_still_teaches_the_class() -> None:
    training = MOSTraining(MOS(SMALL), least_negatives=5)
    count = len(make_anchors(32, 32, mos.STRIDES, mos.ANCHOR_SIZES))
    logits = torch.zeros(1, count, 2)
    empty = torch.zeros(1, 1, COLUMNS)
    empty[..., LABEL] = PADDING
    predictions = Predictions(
        logits, torch.zeros(1, count, 4), torch.zeros(1, count, 5, 2), torch.zeros(1, count, 3, mos.BINS)
    )
    losses, _ = training.losses(predictions, empty, torch.Size((32, 32)))
    assert float(losses["class"]) == pytest.approx(5 * np.log(2), rel=1e-5)
    assert float(losses["box"]) == float(losses["points"]) == float(losses["pose"]) == 0


def test_stitched_labels_land_on_their_pixels() -> None:
    images = torch.zeros(4, 3, 64, 64, dtype=torch.uint8)
    faces = torch.zeros(4, 1, COLUMNS)
    for i in range(4):
        images[i, :, 20:40, 10:30] = 60 * (i + 1)
        faces[i, 0] = label_row((9.5, 19.5, 29.5, 39.5))
    stitched, labels = mos_training.stitch(images, faces)
    for quarter in range(4):
        x0, y0, x1, y1 = labels[1, quarter, BOX] + 0.5
        patch = stitched[1, 0, int(y0) : int(y1), int(x0) : int(x1)]
        assert patch.shape == (10, 10)
        assert (patch == 60 * ((1 + quarter) % 4 + 1)).all()


def test_uncertainty_weights_learn_the_scale_of_each_loss() -> None:
    balance = mos_training.TaskBalance(learned=True)
    optimiser = torch.optim.SGD(balance.parameters(), lr=0.2)
    for _ in range(400):
        optimiser.zero_grad()
        balance({"class": torch.tensor(0.5), "box": torch.tensor(8.0)}).backward()
        optimiser.step()
    weights = balance.weights()
    assert weights["class"] == pytest.approx(1.0, rel=0.02)  # 1 / (2 L)
    assert weights["box"] == pytest.approx(1 / 8, rel=0.02)  # 1 / L, for a halved loss
    assert mos_training.TaskBalance(learned=False)({"class": torch.tensor(0.5), "box": torch.tensor(8.0)}) == 16.5


def test_feedback_stitches_the_step_after_small_faces_were_missing() -> None:
    training = MOSTraining(MOS(SMALL), small_share=0.5)
    large = torch.stack([label_row((5, 5, 60, 60))] * 4)[:, None]
    batch = {"image": torch.randint(0, 255, (4, 3, 64, 64), dtype=torch.uint8), "faces": large}
    logs = [training.step(batch, lambda name, loss: loss.backward(), 0.0) for _ in range(2)]
    assert not logs[0]["stitched"]
    assert logs[1]["stitched"]


def test_a_short_training_finds_its_face() -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    image = rng.integers(90, 110, (64, 64, 3), dtype=np.uint8)
    image[10:54, 14:46] = (220, 170, 140)
    for x, y in ((24, 28), (36, 28), (27, 44), (33, 44)):
        image[y - 2 : y + 2, x - 2 : x + 2] = 20
    row = label_row(
        (13.5, 9.5, 45.5, 53.5), points=[[23.5, 27.5], [35.5, 27.5], [29.5, 36.0], [26.5, 43.5], [32.5, 43.5]]
    )
    empty = torch.zeros(COLUMNS)
    empty[LABEL] = PADDING
    plain = rng.integers(90, 110, (64, 64, 3), dtype=np.uint8)
    batch = {
        "image": torch.from_numpy(np.stack([image, plain])).permute(0, 3, 1, 2),
        "faces": torch.stack([row, empty])[:, None],
    }
    training = MOSTraining(MOS(SMALL).train(), lr=4e-3, feedback=False)
    optimiser = training.optimisers()["model"]

    def update(name: str, loss: torch.Tensor) -> None:
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    for _ in range(60):
        training.step(batch, update, 0.0)
    training.model.eval()
    for module in training.model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
            module.reset_running_stats()
    training.model.train()
    with torch.no_grad():
        training.model(mos_training.to_input(batch["image"]))
    training.model.eval()
    found = training.validate(batch)
    assert found["recall"] == 1.0
    assert found["false_alarms"] == 0.0
    face = training.model.detect(image)[0]
    assert np.abs(face.box - row[BOX].numpy()).max() < 5
    assert training.sample(batch).shape == (64, 128, 3)


def shipped() -> MOS:
    if not MOS.card().checkpoints:
        pytest.skip("no shipped weights in this checkout")
    return MOS.from_pretrained()


@pytest.mark.parametrize("factor", [0.25, 0.5, 1.0])
def test_shipped_weights_find_the_astronaut(astronaut: np.ndarray, factor: float) -> None:
    photo = cv2.resize(astronaut, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    faces = shipped().detect(photo)  # type: ignore[arg-type]
    assert len(faces) == 1
    eyes = faces[0].scaled(1 / factor).points5[:2]
    np.testing.assert_allclose(eyes, [[206, 100], [249, 103]], atol=5)
    assert abs(faces[0].pose.roll) < 12
    assert abs(faces[0].pose.yaw) < 12


def test_shipped_weights_follow_a_turned_head(astronaut: np.ndarray) -> None:
    turn = cv2.getRotationMatrix2D((226, 115), -25, 1.0)  # clockwise
    face = shipped().detect(cv2.warpAffine(astronaut, turn, (512, 512)))[0]  # type: ignore[arg-type]
    upright = shipped().detect(astronaut)[0]
    assert face.pose.roll - upright.pose.roll == pytest.approx(25, abs=6)
    moved = upright.points5 @ turn[:, :2].T + turn[:, 2]
    assert np.abs(face.points5 - moved).max() < 0.12 * upright.eye_distance


def test_shipped_weights_see_nothing_where_nothing_is() -> None:
    ramp = np.repeat(np.linspace(0, 255, 640, dtype=np.uint8)[None], 480, axis=0)
    for picture in (np.full((480, 640), 90, np.uint8), ramp):
        assert shipped().detect(np.repeat(picture[..., None], 3, axis=2)) == []
