"""The commands, from photos to matches, with networks that know a face by its colour."""

from __future__ import annotations

import json
import sqlite3
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import typer
from PIL import Image

from facewright.cli import gallery as cli
from facewright.errors import FacewrightError, UsageError
from facewright.gallery import Gallery
from facewright.geometry.crop import CropSpec
from facewright.geometry.resample import crop_face
from facewright.pipelines.identity import IdentityPipeline
from facewright.tasks.card import Preprocess

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class ColourDetector:
    """Finds a face in every block that is not grey; its eye distance is a third of the block's width."""

    def __init__(self, face_at: Any) -> None:
        self.face_at, self.calls = face_at, 0

    def detect(self, image: np.ndarray) -> list[Any]:
        self.calls += 1
        coloured = (np.ptp(image.astype(int), axis=2) > 30).any(axis=0)
        edges = np.flatnonzero(np.diff(np.concatenate([[0], coloured.astype(int), [0]])))
        middle = image.shape[0] / 2
        return [self.face_at(((a + b) / 2, middle), (b - a) / 3, score=0.8) for a, b in edges.reshape(-1, 2)]


class ColourRecogniser:
    """The mean colour of the crop's middle as a unit vector."""

    slug = "colour"
    preprocess = Preprocess(CropSpec.aligned(112, "arcface"))

    def __init__(self, weights_sha256: str | None = "12" * 32) -> None:
        self.weights_sha256 = weights_sha256

    def embed(self, crops: np.ndarray) -> np.ndarray:
        colours = crops[:, 40:70, 40:70].reshape(len(crops), -1, 3).mean(1) - 100
        return (colours / np.linalg.norm(colours, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def networks(monkeypatch: pytest.MonkeyPatch, fakes: Any) -> IdentityPipeline:
    made = IdentityPipeline(ColourDetector(fakes.face_at), ColourRecogniser())
    monkeypatch.setattr(cli, "load_networks", lambda model, weights, device: made)
    return made


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command: (exit code, standard output, standard error); errors raised on purpose are raised."""

    def call(*arguments: Any) -> tuple[int, str, str]:
        command = typer.main.get_command(cli.app)
        code = command(list(map(str, arguments)), standalone_mode=False)
        out, err = capsys.readouterr()
        return int(code or 0), out, err

    return call


def photo(path: Path, *colours: tuple[int, int, int], width: int = 150) -> Path:
    """A photo of coloured faces of that width on grey."""
    pixels = np.full((240, 60 + (width + 60) * max(1, len(colours)), 3), 100, np.uint8)
    for index, colour in enumerate(colours):
        start = 60 + index * (width + 60)
        pixels[:, start : start + width] = colour
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


RED, GREEN, BLUE = (220, 100, 100), (100, 220, 100), (100, 100, 220)


@pytest.fixture
def album(tmp_path: Path) -> Path:
    photo(tmp_path / "album" / "Rosa" / "1.png", RED)
    photo(tmp_path / "album" / "Rosa" / "2.png", (220, 130, 100))
    photo(tmp_path / "album" / "Viridia" / "1.png", GREEN)
    (tmp_path / "album" / ".hidden").mkdir()
    (tmp_path / "album" / "Rosa" / "notes.txt").write_text("not a photo")
    return tmp_path / "album"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "people.gallery"


@pytest.fixture
def filled(run: Any, networks: Any, place: Path, album: Path) -> Path:
    assert run("create", place)[0] == 0
    assert run("enrol", place, album)[0] == 0
    return place


def test_create_says_for_whom(run: Any, networks: Any, place: Path) -> None:
    assert run("create", place)[1] == f"{place}: made for colour (weights 121212121212…, 3 numbers)\n"
    with pytest.raises(FacewrightError, match="exists"):
        run("create", place)


def test_enrol_takes_a_folder_for_each_person(run: Any, networks: Any, place: Path, album: Path) -> None:
    run("create", place)
    code, out, _ = run("enrol", place, album, "--json")
    data = json.loads(out)
    assert (code, data["enrolled"], data["known"], data["failed"]) == (0, 3, 0, 0)
    assert [(p["person"], p["status"]) for p in data["photos"]] == [("Rosa", "enrolled")] * 2 + [
        ("Viridia", "enrolled")
    ]
    with Gallery.open(place, None) as opened:
        assert {p.name: p.samples for p in opened.people()} == {"Rosa": 2, "Viridia": 1}
        first = opened.samples("Rosa")[0]
        np.testing.assert_allclose(first.vector, [1, 0, 0], atol=1e-3)
        assert first.metadata["file"] == "1.png"
        assert first.metadata["face"]["eye_distance"] == 50
        assert first.thumbnail is None
        assert first.quality == pytest.approx(0.8)  # its eyes are farther apart than in the crop


def test_quality_falls_with_the_resolution(run: Any, networks: Any, fakes: Any, place: Path, tmp_path: Path) -> None:
    run("create", place)
    run("enrol", place, photo(tmp_path / "small.png", BLUE, width=60), "--person", "Azure")
    with Gallery.open(place, None) as opened:
        (sample,) = opened.samples("Azure")
    enlarged = crop_face(np.zeros((90, 90, 3), np.uint8), fakes.face_at((45, 45), 20.0).points5, 112, "arcface").scale
    assert enlarged > 1.5
    assert sample.quality == pytest.approx(0.8 / enlarged, rel=1e-3)


def test_running_again_does_what_is_left(run: Any, networks: Any, filled: Path, album: Path) -> None:
    photo(album / "Viridia" / "2.png", (120, 230, 100))
    calls = networks.detector.calls
    assert run("enrol", filled, album)[1] == f"{filled}: 1 enrolled, 3 already there, 0 failed\n"
    assert networks.detector.calls == calls + 1


def test_bad_photos_are_reported_and_the_rest_goes_on(run: Any, networks: Any, filled: Path, tmp_path: Path) -> None:
    folder = tmp_path / "more" / "Azure"
    photo(folder / "crowd.png", BLUE, RED)
    photo(folder / "nobody.png")
    photo(folder / "good.png", BLUE)
    (folder / "broken.jpg").write_bytes(b"not a picture")
    code, out, err = run("enrol", filled, tmp_path / "more")
    assert (code, out) == (1, f"{filled}: 1 enrolled, 0 already there, 3 failed\n")
    assert "crowd.png: 2 faces were found where one is expected; crop it or add --largest" in err
    assert "nobody.png: no face was found" in err
    assert "broken.jpg" in err
    code, _, _ = run("enrol", filled, folder / "crowd.png", "--person", "Azure", "--largest")
    assert code == 0
    assert run("enrol", filled, folder / "nobody.png", "--person", "Azure")[0] == 2


def test_search_ranks_every_face(run: Any, networks: Any, filled: Path, tmp_path: Path) -> None:
    probe = photo(tmp_path / "probe.png", GREEN, (230, 110, 100))
    code, out, _ = run("search", filled, probe, "--json")
    ((first, second),) = [entry["faces"] for entry in json.loads(out)]
    assert code == 0
    assert [m["person"] for m in first["matches"]] == ["Viridia", "Rosa"]
    assert [m["person"] for m in second["matches"]] == ["Rosa", "Viridia"]
    assert first["matches"][0]["score"] == pytest.approx(1, abs=1e-3)
    out = run("search", filled, probe, "--top", 1, "--min-score", 0.999)[1]
    assert out.splitlines()[0] == f"{probe}: 2 faces"
    assert out.splitlines()[1].endswith(": Viridia 1.000 cannot tell")
    assert "no calibration.json" in first["matches"][0]["reason"]
    assert out.splitlines()[2].endswith(": nobody")


def test_search_goes_on_after_a_bad_photo(run: Any, networks: Any, filled: Path, album: Path) -> None:
    (album / "Rosa" / "0.png").write_bytes(b"nothing")
    code, out, err = run("search", filled, album / "Rosa", album / "Viridia" / "1.png")
    assert code == 1
    assert f"failed: {album / 'Rosa' / '0.png'}" in err
    assert out.count("1 face\n") == 3
    assert run("search", filled, album / "Rosa" / "0.png")[0] == 2


def test_thumbnails_are_kept_only_when_asked_for(run: Any, networks: Any, place: Path, album: Path) -> None:
    run("create", place)
    run("enrol", place, album, "--thumbnails")
    with Gallery.open(place, None) as opened:
        picture = opened.samples("Viridia")[0].thumbnail
    (place.parent / "t.jpg").write_bytes(picture or b"")
    thumbnail = Image.open(place.parent / "t.jpg")
    assert (thumbnail.format, thumbnail.size) == ("JPEG", (112, 112))
    assert np.abs(np.asarray(thumbnail)[40:70, 40:70].astype(int) - GREEN).max() < 8


def test_remove(run: Any, networks: Any, filled: Path) -> None:
    assert run("remove", filled, "Rosa")[1] == f"{filled}: Rosa removed, 2 pictures\n"
    assert b"Rosa" not in filled.read_bytes()
    with pytest.raises(UsageError, match="nobody named Rosa"):
        run("remove", filled, "Rosa")
    assert json.loads(run("remove", filled, "Viridia", "--json")[1])["pictures"] == 1


def test_verify_integrity(run: Any, networks: Any, filled: Path) -> None:
    assert run("verify-integrity", filled)[1] == f"{filled}: sound, 2 people, 3 pictures\n"
    data = json.loads(run("verify-integrity", filled, "--json")[1])
    assert (data["sound"], data["problems"], data["recogniser"]["slug"]) == (True, [], "colour")
    with sqlite3.connect(filled, isolation_level=None) as sql:
        sql.execute("UPDATE person SET template = zeroblob(20)")
    with pytest.raises(FacewrightError, match=r"is damaged: .*template.* \(and 1 more\)"):
        run("verify-integrity", filled)


def test_another_recogniser_is_refused(
    run: Any, networks: Any, filled: Path, album: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = IdentityPipeline(networks.detector, ColourRecogniser("34" * 32))
    monkeypatch.setattr(cli, "load_networks", lambda *_: other)
    for command in (("enrol", filled, album), ("search", filled, album / "Rosa")):
        with pytest.raises(FacewrightError, match="made with colour"):
            run(*command)
    untrained = IdentityPipeline(networks.detector, ColourRecogniser(None))
    monkeypatch.setattr(cli, "load_networks", lambda *_: untrained)
    with pytest.raises(UsageError, match="no trained weights"):
        run("enrol", filled, album)


def test_an_encrypted_gallery(run: Any, networks: Any, place: Path, album: Path, tmp_path: Path) -> None:
    pytest.importorskip("cryptography", reason="encryption needs the package cryptography")
    key = tmp_path / "people.key"
    assert f"keep {key} safe" in run("create", place, "--key", key)[1]
    assert run("enrol", place, album, "--key", key)[0] == 0
    assert b"Rosa" not in place.read_bytes()
    assert ": Rosa " in run("search", place, album / "Rosa" / "1.png", "--key", key, "--top", 1)[1]
    with pytest.raises(FacewrightError, match="is encrypted; give its key file"):
        run("search", place, album / "Rosa")
    kept = key.read_bytes()
    run("create", tmp_path / "second.gallery", "--key", key)
    assert key.read_bytes() == kept


@pytest.mark.parametrize("source", ["missing", "album/Rosa", "album/Rosa/1.png"])
def test_folders_that_hold_nobody(source: str, run: Any, networks: Any, filled: Path, album: Path) -> None:
    with pytest.raises(UsageError, match="--person"):
        run("enrol", filled, album.parent / source)


def test_passwords_are_not_shown() -> None:
    assert cli._label("postgresql://me:secret@host:5432/db?a=b") == "postgresql://me@host:5432/db?a=b"
    assert cli._label("postgresql:///db?host=/tmp") == "postgresql:///db?host=/tmp"
    assert cli._label("me:x@home/people.gallery") == "me:x@home/people.gallery"


def test_only_recognisers_are_loaded() -> None:
    with pytest.raises(UsageError, match="frgp is not a recogniser"):
        cli.load_networks("frgp", None, "cpu")


def test_a_gallery_in_lancedb_is_named_so(run: Any, networks: Any, tmp_path: Path, album: Path) -> None:
    pytest.importorskip("lancedb", reason="the extra lancedb is not installed")
    place, key = tmp_path / "people.lance", tmp_path / "key"
    with pytest.raises(UsageError, match="cannot be encrypted"):
        run("create", place, "--key", key)
    assert not key.exists()
    assert run("create", place)[0] == 0
    assert run("enrol", place, album)[0] == 0
    assert "Rosa" in run("search", place, album / "Rosa" / "1.png")[1]
    assert run("remove", place, "Rosa")[0] == 0
    assert "Rosa" not in run("search", place, album / "Rosa" / "1.png")[1].replace("/Rosa/", "")
    assert run("verify-integrity", place)[0] == 0
