"""What the papers on liveness are compared by: arms differ in the paper's idea alone, and leaks are found."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image

from facewright.data.inner_faces import GREY
from facewright.data.liveness import PackedCrops
from facewright.data.presentation import FoundFrames
from facewright.errors import UsageError
from facewright.evaluation.liveness import VideoScores
from facewright.geometry.templates import template_points
from facewright.systems.base import system_class
from facewright.systems.liveness.iadg.network import IADG, DynamicKernels, IADGConfig
from facewright.training.trainer import Recipe, build_config, build_entry

if TYPE_CHECKING:
    from pathlib import Path

papers = pytest.importorskip("reproductions.liveness.papers", reason="reproductions are not part of this installation")
from reproductions.liveness import arms, leaks, papers_page  # noqa: E402
from reproductions.liveness.run import Machine  # noqa: E402

MEDIA = {"webcam": "live", "print": "print", "mobile": "mobile photo", "highdef": "highdef video"}


def crops() -> PackedCrops:
    """One frame of each kind of 16 people in two lights; attacks are darker, and prints redder."""
    rng, rows = np.random.default_rng(0), []
    for person in range(16):
        for light in ("controlled", "adverse"):
            rows += [(person, light, medium) for medium in MEDIA]
    images = rng.integers(100, 160, (len(rows), 64, 64, 3)).astype(np.uint8)
    attack = np.array([medium != "webcam" for *_, medium in rows])
    images[attack] -= 60
    images[np.array([medium == "print" for *_, medium in rows]), ..., 0] += 40
    side = ["train" if person < 8 else "calibration" if person < 11 else "test" for person, *_ in rows]
    return PackedCrops(
        images,
        np.array([MEDIA[medium] for *_, medium in rows]),
        np.array([f"client{person:02d}" for person, *_ in rows]),
        np.array(["replay-attack"] * len(rows)),
        np.array([f"{m}/{'live' if m == 'webcam' else 'hand'}/{light}" for _, light, m in rows]),
        np.array([f"{person} {light} {medium}" for person, light, medium in rows]),
        np.array(side),
    )


def test_protocols_keep_people_and_instruments_apart(tmp_path: Path) -> None:
    inner = crops()
    found = papers.protocols_of(inner)
    assert set(papers.Settings().protocols) == set(found)
    file = papers.written(inner, found["unseen print"], tmp_path)
    stored = PackedCrops.load(file)
    people = [set(stored.person[stored.side == side].tolist()) for side in ("train", "calibration", "test")]
    assert [len(names) for names in people] == [8, 3, 5]
    assert not people[0] & people[1] | people[0] & people[2] | people[1] & people[2]
    assert set(stored.species[stored.side != "test"].tolist()) == {"live", "mobile photo", "highdef video"}
    assert set(stored.species[stored.side == "test"].tolist()) == {"live", "print"}
    dark = PackedCrops.load(papers.written(inner, found["unseen adverse"], tmp_path))
    assert all(d.endswith("adverse") == (s == "test") for d, s in zip(dark.domain.tolist(), dark.side.tolist()))


def test_the_plan_has_every_arm_once() -> None:
    plan = papers.plan(papers.Settings())
    assert len(plan) == len(set(plan))
    assert not [name for arm, name, _ in plan if arm == "dlif_coarse" and name in papers.ONE_LIGHTING]
    assert {arm for arm, *_ in plan if arm == "dle"}
    assert all(hasattr(arms.Bench, arm) for arm, *_ in plan)


@pytest.fixture
def bench(tmp_path: Path) -> arms.Bench:
    inner = crops()
    return arms.Bench(papers.written(inner, papers.protocols_of(inner)["unseen print"], tmp_path), 0, tmp_path, 0.01)


@pytest.mark.parametrize("arm", ["dlif", "dlif_coarse", "dlif_plain", "clipc8", "ifas_plain"])
def test_arms_learn_from_the_training_side_alone(bench: arms.Bench, arm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = getattr(bench, arm)()
    assert first.shape == (int((bench.crops.side != "train").sum()),)
    assert np.isfinite(first).all()
    images = bench.crops.images.copy()
    images[bench.others] = 7  # the data set reads the file: what is judged cannot teach
    monkeypatch.setattr(bench, "crops", replace(bench.crops, images=images))
    assert (getattr(bench, arm)() == first).all()


def test_a_plain_network_learns_which_pictures_are_attacks(bench: arms.Bench) -> None:
    bench.share = 0.1
    scores, live = bench.cnn(), bench.crops.live[bench.others]
    assert scores[~live].mean() > scores[live].mean()  # attacks are darker: prints too, which it never saw


def test_sequences_judge_every_crop_of_a_video_alike(bench: arms.Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    network = system_class("dle")
    torch.manual_seed(0)
    monkeypatch.setattr(bench, "network", lambda recipe: network(network.Config.compact()))
    found = bench.dle()
    assert set(found) == {"ensemble", "mean", "bilstm", "gru", "lstm", "still"}
    assert all(np.isfinite(scores).all() and len(scores) == bench.others.sum() for scores in found.values())


def test_fixed_kernels_keep_the_shape_and_drop_what_is_made_of_the_picture() -> None:
    model = IADG(IADGConfig(size=64, width=8, styles=4))
    shape = model(torch.zeros(1, 3, 64, 64), return_aux=True)["features"].shape
    arms.with_fixed_kernels(model)
    assert not any(isinstance(module, DynamicKernels) for module in model.modules())
    assert model(torch.zeros(1, 3, 64, 64), return_aux=True)["features"].shape == shape


def test_distances_grow_away_from_what_was_taught() -> None:
    rng = np.random.default_rng(0)
    taught = rng.normal(size=(200, 4)) * (10, 1, 1, 1)
    near, along, across = np.zeros((1, 4)), np.array([[10.0, 0, 0, 0]]), np.array([[0, 10.0, 0, 0]])
    found = arms.distances(np.concatenate([near, along, across]), taught, ridge=0.0)
    assert found[0] < found[1] < found[2]
    assert found[1] == pytest.approx(1, abs=0.15)
    assert found[2] == pytest.approx(10, rel=0.2)


def test_a_told_size_is_not_told_by_the_attack() -> None:
    rng = np.random.default_rng(0)
    attack = np.repeat([False, True], 200)
    size = np.where(attack, 2.0, 1.0) + 0.1 * rng.normal(size=400)
    taught = np.tile([True, False], 200)
    sees_attack = np.stack([attack + 0.0, rng.normal(size=400)], 1)
    told = leaks.told_size(sees_attack, size, attack, taught)
    assert abs(np.corrcoef(told[attack], size[attack])[0, 1]) < 0.2  # only the kind, which is taken out
    sees_size = np.stack([size, rng.normal(size=400)], 1)
    told = leaks.told_size(sees_size, size, attack, taught)
    assert np.corrcoef(told[~attack], size[~attack])[0, 1] > 0.99


def test_what_is_the_same_everywhere_tells_nothing() -> None:
    attack = np.tile([True, False], 20)
    scores = Machine(np.ones((40, 3)), attack)(np.arange(40) < 20)
    assert np.ptp(scores) < 1e-9


class Remembers:
    """A network that says half, and keeps what it was shown."""

    def __init__(self) -> None:
        self.shown: list[np.ndarray] = []

    def live(self, photo: np.ndarray, faces: list[object]) -> np.ndarray:
        self.shown.append(photo)
        return np.full(len(faces), 0.25)


def test_networks_with_crops_of_their_own_see_the_inner_face_alone(tmp_path: Path) -> None:
    Image.fromarray(np.full((160, 160, 3), 250, np.uint8)).save(tmp_path / "frame.png")
    points = (template_points("arcface", 160) * 0.6 + 30).astype(np.float32)
    found = FoundFrames(np.array(["a"]), np.array(["frame.png"]), np.zeros((1, 4), np.float32), points[None])
    network = Remembers()
    scores = papers_page.greyed_scores(tmp_path, found, np.array([0]), {"it": [network, network]})
    assert scores == {"it": [0.75]}
    white = (network.shown[0] == 250).all(2)
    assert 0.1 < white.mean() < 0.3
    assert (network.shown[0][~white] == GREY).all()


def wrong_for(errors: int) -> list[VideoScores]:
    """One protocol of forty people, live and attacked; of so many people both are judged wrong."""
    species, people = np.array(["live", "print"] * 40), np.repeat([f"p{i:02d}" for i in range(40)], 2)
    scores = (species == "print") * 1.0
    scores[: 2 * errors] = 1 - scores[: 2 * errors]
    return [VideoScores(scores, species, people, 0.5)]


@pytest.mark.parametrize(
    ("arm", "other", "word"),
    [(0, 16, "reproduced"), (7, 8, "inconclusive"), (8, 7, "not reproduced"), (20, 21, "inconclusive")],
)
def test_verdicts_say_how_sure_they_are(arm: int, other: int, word: str) -> None:
    found = {name: {by: wrong_for(wrong) for by in papers_page.UNSEEN} for name, wrong in (("a", arm), ("b", other))}
    line = papers_page.verdict_of(found, ("it helps", "a", "b"))
    assert line is not None
    assert line.startswith(f"- **{word}**: it helps (mean HTER {2.5 * arm:.1f} % against {2.5 * other:.1f} %")
    assert papers_page.verdict_of(found, ("it helps", "a", "c")) is None


def test_a_protocol_counts_when_all_its_arms_are_done() -> None:
    s = papers.Settings(protocols=papers.ORDER[:2])
    done = {f"{arm} | {name} | {seed}" for arm, name, seed in papers.plan(s) if seed == 0 and arm not in papers.LAST}
    assert papers.complete(s, done) == papers.ORDER[:2]
    assert papers.complete(s, done - {f"ifas | {papers.ORDER[0]} | 0"}) == papers.ORDER[1:2]


def test_recipes_train_by_the_command(tmp_path: Path) -> None:
    """The data set and the batch size of every recipe fit each other, and the trainer takes them."""
    crops().save(tmp_path / "inner.npz")
    for slug in ("dlif", "iadg", "clipc8", "ifas"):
        recipe = Recipe.load(arms.RECIPES / f"{slug}-compact.yaml")
        assert recipe.batch_size == recipe.data["options"]["batch"]
        data = build_entry(recipe.data, split="train", seed=0, file=str(tmp_path / "inner.npz"))
        batch = torch.utils.data.default_collate([data[i] for i in range(recipe.batch_size)])
        model = build_entry(recipe.training, system_class(slug)(build_config(system_class(slug), recipe.config)))
        assert set(model.step(batch, lambda name, loss: loss.backward(), 0.0))
    data = Recipe.load(arms.RECIPES / "dlif-compact.yaml").data
    with pytest.raises(UsageError, match="batches of 26"):
        build_entry(data, split="train", seed=0, file=str(tmp_path / "inner.npz"), batch=26)
