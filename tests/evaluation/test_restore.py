"""The protocol of the restoration benchmark: same damage for all, right numbers, nothing done twice."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from facewright.cli import evaluation as cli
from facewright.degrade import apply, sample
from facewright.errors import OutputError, UsageError, WeightsError
from facewright.evaluation.restore import (
    INPUT,
    TRUTH,
    Classical,
    EvaluationFace,
    EvaluationModels,
    Score,
    Settings,
    Unrestored,
    damaged,
    evaluate,
    markdown,
    photo_faces,
    run_restorer,
    summarise,
)
from facewright.geometry.crop import CropSpec
from facewright.geometry.templates import TEMPLATES
from facewright.io.image import save_rgb
from facewright.metrics import psnr
from facewright.tasks.card import Preprocess

SIZE = 192
SETTINGS = Settings("made-up faces", SIZE, "test models", ("mild", "severe"))


class Means:
    """An embedder: the mean colours of the four quarters."""

    preprocess = Preprocess(CropSpec.aligned(112, "arcface"))

    def embed(self, crops):
        blocks = crops.reshape(len(crops), 2, 56, 2, 56, 3).mean((2, 4)).reshape(len(crops), 12) - 100
        return (blocks / np.linalg.norm(blocks, axis=1, keepdims=True)).astype(np.float32)


class Points:
    """A detector that finds the template, moved by a tenth of the mean red; nothing in dark pictures."""

    def __init__(self, fakes):
        self.fakes = fakes

    def detect(self, image):
        if image.mean() < 20:
            return []
        points = TEMPLATES["ffhq"] * image.shape[0] + [image[..., 0].mean() / 10, 0]
        far = self.fakes.face_at((5.0, 5.0))
        near = dataclasses.replace(
            self.fakes.face_at((image.shape[1] / 2, image.shape[0] / 2)), points5=points.astype(np.float32)
        )
        return [far, near]


class Perfect:
    """Knows the truth of every input it is given, and counts the calls."""

    preprocess = Preprocess(CropSpec.aligned(SIZE))

    def __init__(self, faces, settings=SETTINGS, weights="ab" * 32):
        self.known = {damaged(f, s, settings.seed).tobytes(): f.image for f in faces for s in settings.severities}
        self.calls, self.weights_sha256, self.stop_after = 0, weights, None

    def restore(self, crops, *, fidelity=1.0):
        if self.calls == self.stop_after:
            raise KeyboardInterrupt
        self.calls += 1
        return np.stack([self.known[crop.tobytes()] for crop in crops])


def brightness_apart(a, b):
    return abs(float(a.mean()) - float(b.mean()))


@pytest.fixture(scope="module")
def faces(fakes):
    valid = np.ones((SIZE, SIZE), bool)
    valid[:20] = False
    return [EvaluationFace(f"face/{i}", fakes.textured(SIZE, SIZE, seed=i), valid) for i in range(3)]


@pytest.fixture
def models(fakes):
    return EvaluationModels(Points(fakes), Means(), features=brightness_apart, name="test models")


def test_damage_depends_on_seed_severity_and_name_alone(faces):
    first = damaged(faces[0], "severe", 0)
    assert np.array_equal(first, damaged(faces[0], "severe", 0))
    assert not np.array_equal(first, damaged(faces[0], "severe", 1))
    assert not np.array_equal(first, damaged(faces[0], "mild", 0))
    assert not np.array_equal(first, damaged(dataclasses.replace(faces[0], name="other"), "severe", 0))
    mean = {s: np.mean([psnr(damaged(f, s, 0), f.image, data_range=255) for f in faces]) for s in ("mild", "severe")}
    assert mean["severe"] < mean["mild"] - 1


@pytest.mark.parametrize("severity", ["vqfr", "severe"])
def test_damage_is_scaled_to_the_size_of_the_crop(fakes, severity):
    """The presets' sizes are given for crops of 512 px; a crop of 256 px gets half of them."""
    face = EvaluationFace("x", fakes.textured(256, 256), np.ones((256, 256), bool))

    def drawn(*, scaled):
        digest = hashlib.sha256(f"3/{severity}/x".encode()).digest()
        return sample(severity, np.random.default_rng(int.from_bytes(digest[:8], "little")), 256, scaled=scaled)

    whole, half = drawn(scaled=False), drawn(scaled=True)
    assert half.chain.blur.sigma_x == pytest.approx(whole.chain.blur.sigma_x / 2)
    assert np.array_equal(damaged(face, severity, 3), apply(face.image, half))
    assert not np.array_equal(damaged(face, severity, 3), apply(face.image, whole))


def test_perfect_restorer_gets_perfect_scores_and_the_input_its_own(faces, models, tmp_path):
    results = evaluate(faces, {"perfect": lambda: Perfect(faces)}, models, SETTINGS, tmp_path, sheet_faces=0)  # type: ignore[dict-item, return-value]
    for severity, rows in results["results"].items():
        assert list(rows) == ["input", "classical", "perfect"]
        perfect, given = rows["perfect"], rows["input"]
        assert perfect["psnr"]["mean"] == 100
        assert perfect["ssim"]["mean"] == pytest.approx(1)
        assert perfect["identity"]["mean"] == pytest.approx(1)
        assert perfect["landmarks"]["mean"] == 0
        assert perfect["features"]["mean"] == 0
        apart = [brightness_apart(damaged(f, severity, 0), f.image) for f in faces]
        assert given["features"]["mean"] == pytest.approx(np.mean(apart))
        assert perfect["frechet"] == pytest.approx(0, abs=1e-6)
        assert "lpips" not in perfect
        expected = [psnr(damaged(f, severity, 0), f.image, data_range=255, mask=f.valid) for f in faces]
        assert given["psnr"]["mean"] == pytest.approx(np.mean(expected))
        assert given["gain"]["psnr"] == {"mean": 0, "low": 0, "high": 0, "count": 3}
        assert perfect["gain"]["psnr"]["mean"] == pytest.approx(100 - np.mean(expected))
        assert perfect["niqe"]["mean"] == pytest.approx(results["niqe_of_truth"]["mean"])
    assert not (tmp_path / "sheet.png").exists()


def test_points_are_those_nearest_to_the_middle_in_percent_of_the_eyes(faces, models, tmp_path):
    class Redder(Unrestored):
        def restore(self, crops, *, fidelity=1.0):  # type: ignore[override]
            out = np.full_like(crops, 128)
            out[..., 0] = np.rint(faces[0].image[..., 0].mean()).astype(np.uint8) + 30
            return out

    class Dark(Unrestored):
        def restore(self, crops, *, fidelity=1.0):  # type: ignore[override]
            return np.zeros_like(crops)

    rows = {"redder": Redder, "dark": Dark}
    results = evaluate(faces[:1], rows, models, SETTINGS, tmp_path, sheet_faces=0)["results"]["mild"]
    eyes = np.hypot(*(TEMPLATES["ffhq"][1] - TEMPLATES["ffhq"][0])) * SIZE
    assert results["redder"]["landmarks"]["mean"] == pytest.approx(100 * 3 / eyes, rel=0.03)
    assert results["redder"]["found"] == 1
    assert "landmarks" not in results["dark"]
    assert results["dark"]["found"] == 0
    assert "niqe" not in results["dark"]


def test_stopped_run_goes_on_where_it_was(faces, models, tmp_path):
    stopped = Perfect(faces)
    stopped.stop_after = 4
    with pytest.raises(KeyboardInterrupt):
        evaluate(faces, {"perfect": lambda: stopped}, models, SETTINGS, tmp_path)  # type: ignore[dict-item, return-value]
    journal = tmp_path / "scores.jsonl"
    lines = journal.read_text().splitlines()
    assert len(lines) == 1 + 3 + 2 * 6 + 4  # settings, truths, input and classical, four of the perfect ones
    journal.write_text("\n".join(lines) + "\n" + lines[-1][:50])  # a crash in the middle of a line

    second, seen = Perfect(faces), []
    evaluate(
        faces,
        {"perfect": lambda: second},  # type: ignore[dict-item, return-value]
        models,
        SETTINGS,
        tmp_path,
        on_progress=lambda *state: seen.append(state),
    )
    assert second.calls == 2
    assert seen[0] == (19, 21)
    assert seen[-1] == (21, 21)
    finished = journal.read_text()
    assert all(json.loads(line) for line in finished.splitlines())

    def never():
        raise AssertionError("loaded although all is done")

    results = json.loads((tmp_path / "results.json").read_text())
    assert evaluate(faces, {"perfect": never}, models, SETTINGS, tmp_path) == results
    assert journal.read_text() == finished


def test_journal_of_other_settings_or_weights_is_refused(faces, models, tmp_path):
    evaluate(faces[:1], {"perfect": lambda: Perfect(faces)}, models, SETTINGS, tmp_path)  # type: ignore[dict-item, return-value]
    with pytest.raises(UsageError, match="other settings"):
        evaluate(faces, {}, models, dataclasses.replace(SETTINGS, seed=1), tmp_path)
    with pytest.raises(UsageError, match="perfect with other weights"):
        evaluate(faces, {"perfect": lambda: Perfect(faces, weights="cd" * 32)}, models, SETTINGS, tmp_path)  # type: ignore[dict-item, return-value]
    with pytest.raises(UsageError, match="unknown degradation preset"):
        Settings("x", SIZE, severities=("terrible",))


def test_restorer_works_at_its_own_size_on_the_common_template():
    seen = []

    class Small:
        preprocess = Preprocess(CropSpec.aligned(64))

        def restore(self, crops, *, fidelity=1.0):
            seen.append(crops.shape)
            return crops

    flat = np.full((SIZE, SIZE, 3), 77, np.uint8)
    assert np.array_equal(run_restorer(Small(), flat), flat)  # type: ignore[arg-type]
    assert seen == [(1, 64, 64, 3)]
    arc = SimpleNamespace(preprocess=Preprocess(CropSpec.aligned(112, "arcface")))
    with pytest.raises(UsageError, match="arcface"):
        run_restorer(arc, flat)


def test_classical_row_removes_noise_and_keeps_flat_colour(fakes):
    flat = np.full((1, 64, 64, 3), 120, np.uint8)
    assert np.abs(Classical().restore(flat).astype(int) - flat).max() <= 1  # the filter works in Lab
    rng = np.random.default_rng(0)
    noisy = np.clip(flat + rng.normal(0, 8, flat.shape), 0, 255).astype(np.uint8)
    assert Classical().restore(noisy).std() < 0.7 * noisy.std()


def test_frechet_distance_compares_a_row_with_the_truth_of_its_own_pictures():
    def score(row, picture, embedding, severity="mild"):
        blank = dict.fromkeys(("psnr", "ssim", "lpips", "features", "landmarks", "identity", "niqe"))
        return Score(row, severity, picture, "", 1.0, **blank, embedding=embedding)

    true = {"a": (0.0, 0.0), "b": (2.0, 0.0), "c": (50.0, 50.0)}
    scores = [score(TRUTH, p, e, "none") for p, e in true.items()]
    scores += [score(INPUT, p, (true[p][0] + 3, true[p][1])) for p in ("a", "b")]
    row = summarise(scores, Settings("x", 256, severities=("mild",)), [INPUT])["results"]["mild"][INPUT]
    assert row["frechet"] == pytest.approx(9)  # a shift by three, the same spread
    assert "psnr" not in row


def test_page_and_sheet_show_every_row(faces, models, tmp_path):
    results = evaluate(faces, {"perfect": lambda: Perfect(faces)}, models, SETTINGS, tmp_path, sheet_faces=2)  # type: ignore[dict-item, return-value]
    page = (tmp_path / "results.md").read_text()
    assert page == markdown(results)
    assert "| perfect | 100.00 [100.00, 100.00] | 1.000 [1.000, 1.000] |" in page
    assert page.count("| input |") == page.count("| classical |") == 2
    assert "3 faces of made-up faces, 192 px, seed 0; scored by: test models" in page
    assert "LPIPS" not in page
    from PIL import Image

    sheet = Image.open(tmp_path / "sheet.png")
    # input, classical, perfect and truth beside each other, two faces at two severities below each other
    assert sheet.size[0] == 4 * (SIZE + 12) + 12
    assert sheet.size[1] > 4 * SIZE
    last = np.asarray(sheet)[12 : 12 + SIZE, 3 * (SIZE + 12) + 12 :][:, :SIZE]
    assert np.array_equal(last, faces[0].image)


def test_faces_of_photos_are_cut_from_the_largest_face(fakes, tmp_path):
    photo = fakes.textured(300, 400)
    (tmp_path / "album").mkdir()
    for name in ("album/a.png", "b.png"):
        save_rgb(photo, tmp_path / name)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    small, large = fakes.face_at((100, 100), 20.0), fakes.face_at((250, 150), 60.0)
    unsure = fakes.face_at((200, 150), 90.0, score=0.3)
    found = photo_faces(tmp_path, fakes.Detector(small, large, unsure), size=SIZE)
    assert [face.name for face in found] == ["album/a.png", "b.png"]
    # the middle of the eyes lies where the template has it
    x, y = np.rint(TEMPLATES["ffhq"][:2].mean(0) * SIZE).astype(int)
    px, py = np.rint(large.points5[:2].mean(0)).astype(int)
    assert np.abs(found[0].image[y, x].astype(int) - photo[py, px]).max() < 40
    assert len(photo_faces(tmp_path, fakes.Detector(large), 1, SIZE)) == 1
    with pytest.raises(UsageError, match="no face"):
        photo_faces(tmp_path, fakes.Detector(unsure), size=SIZE)


# --- commands


def test_command_measures_photos_with_the_named_restorers(fakes, models, monkeypatch, tmp_path):
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for i in range(2):
        save_rgb(fakes.textured(300, 300, seed=i), photos / f"{i}.png")
    found = dataclasses.replace(models, detector=fakes.Detector(fakes.face_at((150, 140), 60.0)))
    monkeypatch.setattr(cli, "_evaluation_models", lambda device: found)
    asked = []
    pipeline = SimpleNamespace(restorer=Unrestored())
    monkeypatch.setattr("facewright.loading.load_pipeline", lambda *a: asked.append(a) or pipeline)  # type: ignore[func-returns-value]
    arguments = ["restore", "-o", str(out), "--data", str(photos), "--model", "frgp=some/weights", "--severity", "mild"]
    result = CliRunner().invoke(cli.eval_app, [*arguments, "--size", "192", "--device", "cpu"])
    assert result.exit_code == 0, result.output
    assert "| frgp weights |" in result.output
    assert asked == [("frgp", "some/weights", "cpu")]
    rows = json.loads((out / "results.json").read_text())["results"]["mild"]
    assert rows["frgp weights"]["psnr"] == rows["input"]["psnr"]
    with pytest.raises(UsageError, match="mos is not a restorer"):
        cli._restorer("mos", "cpu")


def test_dictionary_is_built_from_photos_and_works(fakes, monkeypatch, tmp_path):
    from facewright.systems.restore.dfdnet.network import DFDNet, DFDNetConfig, fingerprint

    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for i in range(4):
        save_rgb(fakes.textured(200, 200, seed=i), photos / f"{i}.png")
    detector = fakes.Detector(fakes.face_at((100, 95), 40.0))
    monkeypatch.setattr("facewright.loading.load_detector", lambda: detector)
    result = CliRunner().invoke(cli.dictionary_app, ["build", str(photos), "-o", str(out), "--atoms", "3"])
    assert result.exit_code == 0, result.output
    assert "3 atoms from 4 faces" in result.output
    network = DFDNet.from_pretrained(out)
    made_in = fingerprint(network.extractor)
    assert network.config == dataclasses.replace(DFDNetConfig.compact(), atoms=3, dictionary_features=made_in)
    atoms = network.dictionary.get_buffer("mouth_32").float()
    assert atoms.isfinite().all()
    assert atoms.std() > 0.01

    folder = tmp_path / "published"
    folder.mkdir()
    for name, values in network.dictionary.named_buffers():
        np.save(folder / f"{name}_center.npy", values[:2].flatten(1).float().numpy())
    again = tmp_path / "again"
    result = CliRunner().invoke(
        cli.dictionary_app, ["import", str(folder), "-o", str(again), "--model", str(out)], catch_exceptions=False
    )
    assert "2 atoms" in result.output
    assert np.array_equal(DFDNet.from_pretrained(again).dictionary.get_buffer("mouth_32").float(), atoms[:2])
    with pytest.raises(OutputError, match="--overwrite"):
        cli._check_folder(again, overwrite=False)


def test_dictionaries_are_replaced_in_a_network_whose_features_are_new(tmp_path):
    from facewright.systems.restore.dfdnet.network import DFDNet, DFDNetConfig

    shape = DFDNetConfig(size=128, features="sface", width=8, atoms=0, part_sizes=(16, 16, 10, 20))
    torch.manual_seed(0)
    network, atoms = DFDNet(shape), {k: torch.ones(2, *v[1:]) for k, v in shape.dictionary_shapes().items()}
    network.load_dictionaries(atoms)
    torch.nn.init.ones_(network.extractor.network.conv1.weight)  # type: ignore[arg-type, union-attr]
    model = network.save_pretrained(tmp_path / "model")
    with pytest.raises(WeightsError, match="facewright dictionary build"):
        DFDNet.from_pretrained(model)

    folder = tmp_path / "published"
    folder.mkdir()
    for name, values in atoms.items():
        np.save(folder / f"{name}_center.npy", values.numpy())
    arguments = ["import", str(folder), "-o", str(tmp_path / "again"), "--model", str(model)]
    result = CliRunner().invoke(cli.dictionary_app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert DFDNet.from_pretrained(tmp_path / "again").config.atoms == 2
    assert cli._network(model, None).config.atoms == 0


def test_pickled_dictionaries_are_refused(tmp_path):
    with pytest.raises(WeightsError, match="DictionaryCenter512"):
        cli._arrays(tmp_path)
    np.save(tmp_path / "nose_256_center.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(WeightsError, match="not a plain numpy array"):
        cli._arrays(tmp_path)
