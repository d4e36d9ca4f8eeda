"""Filling holes: nothing outside changes, masks of every kind, faces are drawn, and bad masks are refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from PIL import Image

from facewright.errors import UsageError
from facewright.geometry.crop import CropSpec
from facewright.io.image import read
from facewright.io.provenance import read_provenance
from facewright.pipelines.inpaint import Inpainted, InpaintPipeline, fitted
from facewright.pipelines.references import ReferenceFace, ReferenceSet
from facewright.tasks.card import Preprocess
from facewright.tasks.declare import get_task
from facewright.tasks.inpaint import InpaintOptions

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import SimpleNamespace

HEIGHT, WIDTH = 160, 240
GROUND = np.array([130, 120, 110], np.uint8)
BOX = (90.0, 70.0, 120.0, 95.0)


class Filler:
    """Draws what the crop shows, and in the hole one colour; keeps what it was asked."""

    slug = "fake-filler"
    weights_sha256 = "cd" * 32
    preprocess = Preprocess(CropSpec.aligned(64))

    def __init__(self) -> None:
        self.holes: list[np.ndarray] = []

    def fill(self, crops: np.ndarray, holes: np.ndarray) -> np.ndarray:
        self.holes.append(holes)
        return np.where(holes[..., None], np.uint8(250), crops)


class GlassesParser:
    """Sees glasses in a band across the eyes of 64 px crops, and skin everywhere else."""

    preprocess = Preprocess(CropSpec.aligned(64))
    classes = ("background", "skin", "eye_g")

    def probabilities(self, crops: np.ndarray, *, faces: Any = None) -> np.ndarray:
        found = np.zeros((len(crops), 3, 64, 64), np.float32)
        found[:, 1] = 1
        found[:, 1, 26:34, 16:48], found[:, 2, 26:34, 16:48] = 0, 1
        return found

    def parse(self, crops: np.ndarray, *, faces: Any = None) -> np.ndarray:
        return np.asarray(self.probabilities(crops, faces=faces).argmax(1), np.uint8)


class Finder:
    """Takes what is white for damage."""

    def find(self, image: np.ndarray) -> np.ndarray:
        return (image.min(2) > 250).astype(np.float32)


@pytest.fixture
def filler() -> Filler:
    return Filler()


@pytest.fixture
def picture(fakes: SimpleNamespace) -> np.ndarray:
    return fakes.textured(HEIGHT, WIDTH)


@pytest.fixture
def made(filler: Filler, fakes: SimpleNamespace) -> InpaintPipeline:
    detector = fakes.Detector(fakes.face_at((100, 80), 30))
    return InpaintPipeline(detector, filler, GlassesParser(), Finder())


def saved(path: Path, mask: np.ndarray) -> str:
    Image.fromarray(np.asarray(mask * 255, np.uint8)).save(path)
    return str(path)


def fill(made: InpaintPipeline, picture: Any, **options: Any) -> Inpainted:
    return made(read(picture), InpaintOptions(**({"watermark": False} | options)))


# --- what changes


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_outside_the_hole_every_bit_stays(
    made: InpaintPipeline, fakes: SimpleNamespace, dtype: Any, channels: int
) -> None:
    pixels = fakes.textured(HEIGHT, WIDTH, dtype=dtype, channels=channels)
    result = fill(made, pixels if channels > 1 else pixels[..., 0], boxes=(BOX,))
    before, after = result.original, result.image
    assert after.pixels.dtype == dtype
    assert np.array_equal(after.pixels[~result.hole], before.pixels[~result.hole])
    assert (after.pixels[result.hole] != before.pixels[result.hole]).any(1).mean() > 0.9
    if channels == 4:
        assert np.array_equal(after.alpha, before.alpha)


def test_profile_and_bits_stay_in_the_file(made: InpaintPipeline, tmp_path: Path) -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    rng = np.random.default_rng(0)
    rgba = rng.integers(40, 200, (HEIGHT, WIDTH, 4), dtype=np.uint8)
    Image.fromarray(rgba).save(tmp_path / "in.png", icc_profile=profile)
    result = fill(made, tmp_path / "in.png", boxes=(BOX,))
    with Image.open(result.save(tmp_path / "out.png")) as after:
        assert after.info["icc_profile"] == profile
        values = np.asarray(after)
    assert np.array_equal(values[~result.hole], rgba[~result.hole])
    assert np.array_equal(values[..., 3], rgba[..., 3])


def test_a_face_is_drawn_by_the_network_and_the_rest_from_around(made: InpaintPipeline, picture: np.ndarray) -> None:
    far = (200.0, 10.0, 215.0, 25.0)
    result = fill(made, picture, boxes=(BOX, far))
    out = result.image.rgb()
    assert out[80:86, 100:110].mean() > 230
    assert abs(out[12:23, 202:213].mean() - picture[4:30, 196:220].mean()) < 30
    assert [face.filled for face in result.faces] == [True]
    assert "invented by fake-filler" in result.summary
    alone = fill(made, picture, boxes=(far,))
    assert [face.filled for face in alone.faces] == [False]
    difference = np.abs(alone.image.rgb().astype(int) - out)[10:25, 200:215]
    assert difference.mean() < 5  # its grain is measured along both holes
    assert alone.report()["models"] == []


def test_what_the_network_draws_is_shown(fakes: SimpleNamespace) -> None:
    """On an even ground a drawn disc stands in the hole as it was drawn; nothing has to be fitted."""

    class Disc(Filler):
        def fill(self, crops: np.ndarray, holes: np.ndarray) -> np.ndarray:
            out = np.broadcast_to(GROUND, crops.shape).copy()
            cv2.circle(out[0], (32, 32), 4, (220, 30, 30), -1)
            return out

    even = np.broadcast_to(GROUND, (HEIGHT, WIDTH, 3)).copy()
    face = fakes.face_at((100, 80), 30)
    pipeline = InpaintPipeline(fakes.Detector(face), Disc())
    out = fill(pipeline, even, boxes=((70.0, 50.0, 130.0, 110.0),)).image.rgb()
    to_crop = Disc.preprocess.crop.matrix(face)
    x, y = np.linalg.solve(to_crop[:, :2], np.array([32, 32]) - to_crop[:, 2]).round().astype(int)
    assert np.abs(out[y, x].astype(int) - [220, 30, 30]).max() <= 3
    assert np.abs(out[55, 75].astype(int) - GROUND).max() <= 1


def test_what_is_in_the_hole_does_not_matter(made: InpaintPipeline, picture: np.ndarray) -> None:
    spoiled = picture.copy()
    spoiled[70:95, 90:120] = (255, 0, 255)
    first, second = (fill(made, each, boxes=(BOX,)).image.rgb() for each in (picture, spoiled))
    assert np.abs(first.astype(int) - second)[70:95, 90:120].mean() < 1


def test_thin_scratches_are_filled_from_around(made: InpaintPipeline, picture: np.ndarray, tmp_path: Path) -> None:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[60:100, 100] = True
    result = fill(made, picture, mask=saved(tmp_path / "m.png", mask))
    error = np.abs(result.image.rgb().astype(int) - picture)[mask].mean()
    assert error < 25
    assert np.array_equal(result.hole, mask)
    assert [(face.filled, face.drawn) for face in result.faces] == [(True, False)]
    assert result.summary.endswith("% of the picture filled from around")
    assert result.provenance().models == ()


# --- masks


def test_the_mask_of_a_file_is_white_where_it_is_filled(
    made: InpaintPipeline, picture: np.ndarray, tmp_path: Path
) -> None:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[75:90, 95:115] = True
    result = fill(made, picture, mask=saved(tmp_path / "m.png", mask), boxes=((0.0, 0.0, 4.0, 4.0),))
    mask[:4, :4] = True
    assert np.array_equal(result.hole, mask)
    assert result.report()["hole"] == {"pixels": 316, "share": round(316 / mask.size, 6), "box": [0, 0, 115, 90]}
    assert result.report()["options"]["mask"] == "m.png"


def test_glasses_are_found_by_the_parser(made: InpaintPipeline, filler: Filler, picture: np.ndarray) -> None:
    result = fill(made, picture, mask="glasses")
    eyes = made.detector.detect(picture)[0].points5[:2].round().astype(int)
    assert result.hole[eyes[:, 1], eyes[:, 0]].all()
    x0, y0, x1, y1 = result.box
    assert 1.0 < (x1 - x0) / 30 < 2.2
    assert y1 - y0 < 25
    assert filler.holes[0].any()


def test_only_the_chosen_faces_lose_their_glasses(filler: Filler, picture: np.ndarray, fakes: SimpleNamespace) -> None:
    detector = fakes.Detector(fakes.face_at((60, 80), 24), fakes.face_at((180, 80), 24))
    made = InpaintPipeline(detector, filler, GlassesParser())
    result = fill(made, picture, mask="glasses", faces=(1,))
    assert [face.filled for face in result.faces] == [False, True]
    assert not result.hole[:, :120].any()
    with pytest.raises(UsageError, match="no face 2: 2 were found"):
        fill(made, picture, mask="glasses", faces=(2,))


def test_damage_is_found_and_grown(made: InpaintPipeline, picture: np.ndarray) -> None:
    torn = picture.copy()
    torn[20:22, 10:230] = 255
    result = fill(made, torn, mask="damage")
    assert result.hole[20:22, 10:230].all()
    assert result.hole[19, 50]
    assert not result.hole[30:].any()
    assert result.image.rgb()[20:22, 10:230].mean() < 190
    with pytest.raises(UsageError, match="no damage was found"):
        fill(made, picture, mask="damage")


def test_wide_holes_are_filled_from_a_smaller_picture(filler: Filler, fakes: SimpleNamespace) -> None:
    """As well as at full size, and in a fraction of the time."""
    rows, columns = np.mgrid[:700, :900]
    smooth = np.stack([60 + rows / 7, 200 - columns / 9, 90 + (rows + columns) / 20], -1).round().astype(np.uint8)
    made = InpaintPipeline(fakes.Detector(), filler)
    result = fill(made, smooth, boxes=((150.0, 100.0, 750.0, 600.0),))
    assert np.array_equal(result.image.pixels[~result.hole], smooth[~result.hole])
    out = result.image.rgb().astype(int)
    assert np.abs(out - smooth)[100:110, 150:750].mean() < 4  # no seam
    assert np.abs(out - smooth)[result.hole].mean() < 25


def test_a_face_behind_its_hole_is_looked_for_again(
    filler: Filler, picture: np.ndarray, fakes: SimpleNamespace
) -> None:
    class Shy:
        """Sees the face only when the white box is gone."""

        def detect(self, image: np.ndarray) -> list[Any]:
            return [] if (image == 255).all(2).mean() > 0.01 else [fakes.face_at((100, 80), 30)]

    hidden = picture.copy()
    hidden[70:95, 90:120] = 255
    result = fill(InpaintPipeline(Shy(), filler), hidden, boxes=(BOX,))
    assert [face.filled for face in result.faces] == [True]


# --- bad input


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((HEIGHT, WIDTH), bool), "the mask is empty"),
        (np.ones((HEIGHT, WIDTH), bool), "covers the whole picture"),
        (np.ones((10, 20), bool), "m.png has 20 x 10 pixels, the picture 240 x 160"),
    ],
    ids=["empty", "full", "other size"],
)
def test_masks_that_cannot_be(
    made: InpaintPipeline, picture: np.ndarray, tmp_path: Path, mask: np.ndarray, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        fill(made, picture, mask=saved(tmp_path / "m.png", mask))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "say what is to be filled"),
        ({"boxes": ((5.0, 5.0, 5.0, 9.0),)}, "is empty"),
        ({"boxes": ((500.0, 5.0, 600.0, 9.0),)}, "outside the picture, which has 240 x 160"),
        ({"boxes": ((float("nan"), 5.0, 600.0, 9.0),)}, "is empty"),
        ({"boxes": (BOX,), "faces": (0,)}, "only where the mask is a part of faces"),
        ({"mask": "no-such.png"}, "neither a file nor one of damage, glasses"),
        ({"boxes": (BOX,), "seed": -1}, "seed -1"),
        ({"boxes": (BOX,), "references": "me.jpg"}, "fills without other photos of the person"),
        ({"boxes": (BOX,), "prompt": "smiling"}, "fake-filler fills without words.*--model pva"),
        ({"boxes": (BOX,), "seed": 3}, "fills without a seed"),
        ({"mask": "hat"}, "this parser knows no hat"),
    ],
)
def test_wishes_that_cannot_be(
    made: InpaintPipeline, picture: np.ndarray, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        fill(made, picture, **options)


def test_without_a_face_there_are_no_glasses_but_boxes(
    filler: Filler, picture: np.ndarray, fakes: SimpleNamespace
) -> None:
    made = InpaintPipeline(fakes.Detector(), filler, GlassesParser())
    with pytest.raises(UsageError, match="no face was found, so there is no glasses"):
        fill(made, picture, mask="glasses")
    result = fill(made, picture, boxes=(BOX,))
    assert result.summary.endswith("filled from around; no face is touched")
    assert not filler.holes


@pytest.mark.parametrize("centre", [(4, 80), (236, 80), (100, 2), (100, 158)])
def test_a_face_cut_by_the_border(
    filler: Filler, picture: np.ndarray, fakes: SimpleNamespace, centre: tuple[int, int]
) -> None:
    made = InpaintPipeline(fakes.Detector(fakes.face_at(centre, 30)), filler)
    x, y = centre
    result = fill(made, picture, boxes=((x - 12.0, y - 12.0, x + 12.0, y + 12.0),))
    assert np.array_equal(result.image.pixels[~result.hole], picture[~result.hole])
    assert result.faces[0].filled


@pytest.mark.parametrize("size", [(1, 2), (2, 3), (9, 9)])
def test_tiny_pictures(filler: Filler, fakes: SimpleNamespace, size: tuple[int, int]) -> None:
    made = InpaintPipeline(fakes.Detector(), filler)
    pixels = fakes.textured(*size)
    result = fill(made, pixels, boxes=((0.0, 0.0, 1.0, 1.0),))
    assert np.array_equal(result.image.pixels[~result.hole], pixels[~result.hole])


# --- other photos of the person


class Personal(Filler):
    """Draws the mean colour of the references; remembers prompt and seed, and whether it was personalised."""

    slug = "fake-pva"

    def __init__(self, learnt: int = 0) -> None:
        super().__init__()
        self.asked: list[tuple[int, str, int | None]] = []
        self.learnt = learnt

    def fill_by(
        self,
        crops: np.ndarray,
        holes: np.ndarray,
        references: Sequence[np.ndarray],
        *,
        prompt: str = "",
        seed: int | None = None,
    ) -> np.ndarray:
        self.asked.append((len(references[0]), prompt, seed))
        colour = references[0].mean((0, 1, 2)) if len(references[0]) else np.zeros(3)
        return np.broadcast_to(colour.astype(np.uint8) + np.uint8(self.learnt), crops.shape).copy()

    def personalised(self, references: np.ndarray, *, seed: int | None = None) -> Personal:
        return Personal(learnt=50)


class Desk:
    """References of two people; the first has two photos."""

    def gather(self, paths: Sequence[str]) -> ReferenceSet:
        def face(name: str, level: int) -> ReferenceFace:
            return ReferenceFace(name, np.full((64, 64, 3), level, np.uint8), np.ones(2, np.float32), 1.0)

        return ReferenceSet(((face("a", 60), face("b", 100)), (face("c", 200),)), {"d": "no face was found"})


def test_references_and_words_reach_the_network(picture: np.ndarray, fakes: SimpleNamespace) -> None:
    filler = Personal()
    made = InpaintPipeline(fakes.Detector(fakes.face_at((100, 80), 30)), filler, references=Desk())  # type: ignore[arg-type]
    result = fill(made, picture, boxes=(BOX,), references=("a", "b", "c", "d"), prompt="smiling", seed=7)
    assert filler.asked == [(2, "smiling", 7)]
    assert result.faces[0].references == ("a", "b")
    assert result.report()["options"]["references"] == 4
    assert "reference d was not used: no face was found" in result.notes()
    assert "reference c was not used: it seems to show somebody else" in result.notes()
    fill(made, picture, boxes=(BOX,))
    assert filler.asked[1:] == [(0, "", None)]


def test_personalising_fills_by_another_network(picture: np.ndarray, fakes: SimpleNamespace) -> None:
    filler = Personal()
    made = InpaintPipeline(fakes.Detector(fakes.face_at((100, 80), 30)), filler, references=Desk())  # type: ignore[arg-type]
    fill(made, picture, boxes=(BOX,), references=("a",), personalise=True)
    assert filler.asked == []
    with pytest.raises(UsageError, match="to personalise needs other photos"):
        fill(made, picture, boxes=(BOX,), personalise=True)
    without = InpaintPipeline(made.detector, filler)
    with pytest.raises(UsageError, match="reads no references"):
        fill(without, picture, boxes=(BOX,), references=("a",))


# --- what is said


def test_the_file_says_that_a_part_of_the_face_was_made_up(
    made: InpaintPipeline, picture: np.ndarray, tmp_path: Path
) -> None:
    result = fill(made, picture, boxes=(BOX,))
    said = read_provenance(result.save(tmp_path / "out.png"))
    assert said is not None
    assert (said.action, said.models, len(said.faces)) == ("inpainted", ("fake-filler",), 1)
    assert said.parameters["hole"] == [90, 70, 120, 95]
    assert said.checkpoint == "cd" * 32
    assert read_provenance(result.save(tmp_path / "bare.png", provenance=False)) is None


def test_a_large_hole_carries_the_watermark(fakes: SimpleNamespace) -> None:
    class Noisy(Filler):
        preprocess = Preprocess(CropSpec.aligned(256))

        def fill(self, crops: np.ndarray, holes: np.ndarray) -> np.ndarray:
            return np.stack([fakes.textured(256, 256, seed=3)] * len(crops))

    pixels = fakes.textured(400, 400)
    pipeline = InpaintPipeline(fakes.Detector(fakes.face_at((200, 200), 70)), Noisy())
    whole, small = ((90.0, 60.0, 310.0, 340.0),), ((190.0, 190.0, 200.0, 200.0),)
    assert fill(pipeline, pixels, boxes=whole, watermark=True).faces[0].mark
    assert not fill(pipeline, pixels, boxes=whole, watermark=False).faces[0].mark
    assert not fill(pipeline, pixels, boxes=small, watermark=True).faces[0].mark


def test_the_report_fits_its_schema(made: InpaintPipeline, picture: np.ndarray) -> None:
    from pydantic import TypeAdapter

    report, record = fill(made, picture, boxes=(BOX,)).report(), get_task("inpaint").record
    assert TypeAdapter(record).validate_python(report, extra="forbid") == report


# --- the seam


def rim_of(hole: np.ndarray) -> np.ndarray:
    return (cv2.dilate(hole.astype(np.uint8), np.ones((3, 3))) > 0) & ~hole


def test_a_drawing_in_another_light_is_fitted_to_the_rim() -> None:
    rows, columns = np.mgrid[:96, :96]
    given = np.stack([80 + 0.6 * columns, 90 + 0.5 * rows, 120 - 0.3 * columns], -1).round().astype(np.uint8)
    hole = np.zeros((96, 96), bool)
    hole[30:70, 25:75] = True
    drawn = (given * 0.8 + 25).round().astype(np.uint8)  # darker, and of less contrast
    out = fitted(given, drawn, hole)
    before, after = (np.abs(image.astype(int) - given)[hole].mean() for image in (drawn, out))
    assert after < 0.25 * before
    assert np.array_equal(fitted(given, given, hole), given)


def test_everything_lost_is_left_as_drawn() -> None:
    drawn = np.full((16, 16, 3), 7, np.uint8)
    assert np.array_equal(fitted(np.zeros_like(drawn), drawn, np.ones((16, 16), bool)), drawn)


def test_options_take_lists_and_paths(tmp_path: Path) -> None:
    references: Sequence[Any] = [tmp_path / "a.png", "b.png"]
    options = InpaintOptions(mask=tmp_path / "m.png", references=references)  # type: ignore[arg-type]
    assert options.mask == str(tmp_path / "m.png")
    assert options.references == (str(tmp_path / "a.png"), "b.png")


def test_from_the_command_line(
    made: InpaintPipeline, picture: np.ndarray, tmp_path: Path, run: Any, use_pipeline: Any
) -> None:
    import json

    use_pipeline(made)
    Image.fromarray(picture).save(tmp_path / "in.png")
    out, report = tmp_path / "out.png", tmp_path / "report.json"
    code, said, _ = run("inpaint", tmp_path / "in.png", "--box", "90,70,120,95", "-o", out, "--report", report)
    assert code == 0
    assert "invented by fake-filler" in said
    assert json.loads(report.read_text())["hole"]["box"] == [90, 70, 120, 95]
    with Image.open(out) as after:
        changed = (np.asarray(after) != picture).any(2)
    assert changed[70:95, 90:120].mean() > 0.9
    assert changed.sum() == changed[70:95, 90:120].sum()
    code, _, error = run("inpaint", tmp_path / "in.png", "-o", tmp_path / "no.png")
    assert code == 2
    assert "say what is to be filled" in error
    assert not (tmp_path / "no.png").exists()
