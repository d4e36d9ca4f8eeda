"""Recognition benchmarks in their published layouts, built small with generated pictures."""

from __future__ import annotations

import io
import os
import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from facewright.data.recognition_sets import (
    read_ijb_images,
    read_ijb_pairs,
    read_ijb_subjects,
    read_lfw_pairs,
    read_packed_pairs,
    read_primates,
)
from facewright.errors import FacewrightError

if TYPE_CHECKING:
    from pathlib import Path

PEOPLE = {"Ada_Example": 3, "Bo_Example": 3, "Cy_Example": 2, "Di_Example": 2}


def jpeg(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (level, level // 2, 10)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


@pytest.fixture
def lfw(tmp_path: Path) -> Path:
    for person, count in PEOPLE.items():
        (tmp_path / "lfw" / person).mkdir(parents=True)
        for i in range(1, count + 1):
            (tmp_path / "lfw" / person / f"{person}_{i:04d}.jpg").write_bytes(jpeg(50 * i))
    return tmp_path


TWO_FOLDS = (
    "2\t2\n"
    "Ada_Example\t1\t2\nAda_Example\t1\t3\n"
    "Ada_Example\t1\tBo_Example\t2\nAda_Example\t2\tCy_Example\t1\n"
    "Cy_Example\t1\t2\nDi_Example\t1\t2\n"
    "Cy_Example\t1\tDi_Example\t2\nBo_Example\t3\tDi_Example\t1\n"
)


def test_lfw_folds(lfw: Path) -> None:
    (lfw / "pairs.txt").write_text(TWO_FOLDS)
    pairs = read_lfw_pairs(lfw / "pairs.txt", lfw / "lfw")
    assert [p.same for p in pairs] == [True, True, False, False] * 2
    assert [p.fold for p in pairs] == [0] * 4 + [1] * 4
    assert pairs[1].people == ("Ada_Example", "Ada_Example")
    assert pairs[7].people == ("Bo_Example", "Di_Example")
    assert pairs[7].first == lfw / "lfw" / "Bo_Example" / "Bo_Example_0003.jpg"
    assert pairs[7].second == lfw / "lfw" / "Di_Example" / "Di_Example_0001.jpg"


def test_lfw_full_layout_has_ten_folds_of_600(lfw: Path) -> None:
    """The header and the counts of the published file."""
    fold = "Ada_Example 1 2\n" * 300 + "Ada_Example 1 Bo_Example 2\n" * 300
    (lfw / "pairs.txt").write_text("10\t300\n" + fold * 10)
    pairs = read_lfw_pairs(lfw / "pairs.txt", lfw / "lfw")
    assert len(pairs) == 6000
    assert np.bincount([p.fold for p in pairs]).tolist() == [600] * 10
    assert [p.same for p in pairs[:600]] == [True] * 300 + [False] * 300


def test_lfw_view_1_is_one_fold(lfw: Path) -> None:
    (lfw / "pairsDevTest.txt").write_text("1\nAda_Example\t1\t2\nAda_Example\t1\tBo_Example\t2\n")
    pairs = read_lfw_pairs(lfw / "pairsDevTest.txt", lfw / "lfw")
    assert [(p.same, p.fold) for p in pairs] == [(True, 0), (False, 0)]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Cy_Example\t1\t2\n", "Cy_Example\t1\n", r"pairs.txt line 6: expected a pair of one person"),
        ("Cy_Example\t1\tDi_Example\t2", "Cy_Example\t1\t2", r"pairs.txt line 8: expected a pair of two people"),
        ("Cy_Example\t1\t2\n", "Cy_Example\t1\tb\n", r"pairs.txt line 6: expected a whole number"),
        ("Cy_Example\t1\t2\n", "Cy_Example\t1\t7\n", r"line 6: there is no picture .*Cy_Example_0007.jpg"),
        ("Cy_Example\t1\t2\n", "", r"promises 8 pairs and has 7"),
        ("2\t2\n", "2 2 2\n", r"line 1: expected the number of folds"),
        (TWO_FOLDS, "", r"pairs.txt is empty"),
    ],
)
def test_damaged_pairs_name_file_and_line(lfw: Path, old: str, new: str, message: str) -> None:
    (lfw / "pairs.txt").write_text(TWO_FOLDS.replace(old, new))
    with pytest.raises(FacewrightError, match=message):
        read_lfw_pairs(lfw / "pairs.txt", lfw / "lfw")


def test_missing_lists_are_named(tmp_path: Path) -> None:
    with pytest.raises(FacewrightError, match=r"pairs.txt cannot be read"):
        read_lfw_pairs(tmp_path / "pairs.txt", tmp_path)


LEVELS = [20, 60, 100, 140, 180, 220]
LABELS = [True, False, True]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", ["bytes", "arrays", "numpy labels", "label array"])
def test_packed_pairs_of_every_make(tmp_path: Path, protocol: int, kind: str) -> None:
    pictures: list[Any] = [jpeg(level) for level in LEVELS]
    labels: Any = list(LABELS)
    if kind == "arrays":
        pictures = [np.frombuffer(p, np.uint8).copy() for p in pictures]
    if kind == "numpy labels":
        labels = [np.bool_(label) for label in labels]
    if kind == "label array":
        labels = np.array(labels)
    file = tmp_path / "toy.bin"
    file.write_bytes(pickle.dumps((pictures, labels), protocol=protocol))
    packed = read_packed_pairs(file)
    assert len(packed) == 3
    assert packed.same.tolist() == LABELS
    assert packed.encoded == tuple(jpeg(level) for level in LEVELS)
    picture = packed.read(4)
    assert picture.shape == (16, 16, 3)
    assert np.abs(picture.astype(int) - (180, 90, 10)).max() <= 4


def test_packed_pairs_of_python_2(tmp_path: Path) -> None:
    """Python 2 wrote its strings, and numpy's names in them, with opcodes Python 3 no longer writes."""
    picture = jpeg(100)
    text = b"U" + bytes([3]) + b"abc"
    as_string = b"T" + len(picture).to_bytes(4, "little") + picture
    file = tmp_path / "old.bin"
    file.write_bytes(b"\x80\x02" + b"](" + as_string * 2 + b"e" + b"](" + b"\x88" + b"e" + b"\x86" + b".")
    packed = read_packed_pairs(file)
    assert packed.encoded == (picture, picture)
    assert packed.same.tolist() == [True]
    file.write_bytes(b"\x80\x02" + b"](" + text * 2 + b"e" + b"](" + b"\x88" + b"e" + b"\x86" + b".")
    with pytest.raises(FacewrightError, match="picture 1 cannot be decoded"):
        read_packed_pairs(file).read(1)


def test_label_arrays_of_python_2(tmp_path: Path) -> None:
    content = pickle.dumps(([jpeg(1)] * 4, np.array([True, False])), protocol=2)
    for text in (b"b1", b"|"):
        unicode = b"X" + len(text).to_bytes(4, "little") + text
        assert content.count(unicode) == 1
        content = content.replace(unicode, b"U" + bytes([len(text)]) + text)
    (tmp_path / "old.bin").write_bytes(content.replace(b"numpy._core", b"numpy.core"))
    assert read_packed_pairs(tmp_path / "old.bin").same.tolist() == [True, False]


class Runs:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (Runs(os.mkdir, "made"), r"(posix|nt)\.mkdir"),
        (Runs(eval, "open('made', 'w')"), r"builtins\.eval"),
        (Runs(getattr, bytes, "fromhex"), r"builtins\.getattr"),
        (Runs(np.load, "made"), r"numpy\.load"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_packed_pairs_run_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Runs, name: str, protocol: int
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "bad.bin"
    file.write_bytes(pickle.dumps(([jpeg(1), call], [True]), protocol=protocol))
    with pytest.raises(
        FacewrightError, match=rf"bad\.bin wants ({name}|__builtin__\.\w+|numpy[\w.]*\.load), .*was not opened"
    ):
        read_packed_pairs(file)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (([b"a", b"b"], [True, False]), "2 pictures for 2 pairs"),
        (([b"a", "text"], [True]), "picture 1 is not an encoded picture but str"),
        (([b"a", b"b"], [3]), "a label is neither true nor false"),
        ([b"a", b"b", b"c"], "not a list of pictures and a list of labels"),
        (([], []), "0 pictures for 0 pairs"),
    ],
)
def test_packed_pairs_of_another_shape_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    (tmp_path / "odd.bin").write_bytes(pickle.dumps(content))
    with pytest.raises(FacewrightError, match=rf"odd\.bin.* {message}"):
        read_packed_pairs(tmp_path / "odd.bin")


def test_damaged_packed_pairs_are_refused(tmp_path: Path) -> None:
    whole = pickle.dumps(([jpeg(1)] * 2, [True]))
    for damaged in (whole[:-9], b"", b"not a pickle", pickle.dumps(5)):
        (tmp_path / "cut.bin").write_bytes(damaged)
        with pytest.raises(FacewrightError, match=r"cut\.bin is not"):
            read_packed_pairs(tmp_path / "cut.bin")


@pytest.fixture
def ijb(tmp_path: Path) -> Path:
    meta = tmp_path / "meta"
    meta.mkdir()
    (meta / "ijbc_face_tid_mid.txt").write_text("1.jpg 4 69\n2.jpg 4 69\n3.jpg 9 12\n")
    coordinates = " ".join(str(v / 2) for v in range(10))
    (meta / "ijbc_name_5pts_score.txt").write_text("".join(f"{i}.jpg {coordinates} 0.{i}\n" for i in (1, 2, 3)))
    (meta / "ijbc_template_pair_label.txt").write_text("4 9 1\n4 11 0\n")
    (meta / "ijbc_1N_gallery_G1.csv").write_text(
        'TEMPLATE_ID,SUBJECT_ID,FILENAME,FACE_X\n9,70,"img/a, b.jpg",1\n4,65,img/2.jpg,3\n4,65,img/3.jpg,5\n'
    )
    return tmp_path


def test_ijb_images(ijb: Path) -> None:
    images = read_ijb_images(ijb, "ijbc")
    assert [p.name for p in images.paths] == ["1.jpg", "2.jpg", "3.jpg"]
    assert images.paths[0].parent == ijb / "loose_crop"
    assert images.templates.tolist() == [4, 4, 9]
    assert images.media.tolist() == [69, 69, 12]
    assert images.points[2].tolist() == [[0, 0.5], [1, 1.5], [2, 2.5], [3, 3.5], [4, 4.5]]
    assert images.scores.tolist() == pytest.approx([0.1, 0.2, 0.3])


def test_ijb_pairs_and_subjects(ijb: Path) -> None:
    pairs = read_ijb_pairs(ijb, "ijbc")
    assert (pairs.first.tolist(), pairs.second.tolist(), pairs.same.tolist()) == ([4, 4], [9, 11], [True, False])
    gallery = read_ijb_subjects(ijb / "meta" / "ijbc_1N_gallery_G1.csv")
    assert (gallery.templates.tolist(), gallery.subjects.tolist()) == ([4, 9], [65, 70])


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("ijbc_face_tid_mid.txt", "1.jpg 4 69\n2.jpg x 69\n3.jpg 9 12\n", r"tid_mid.txt line 2: expected a whole"),
        ("ijbc_face_tid_mid.txt", "1.jpg 4 69\n\n2.jpg 69\n3.jpg 9 12\n", r"tid_mid.txt line 3: expected 3 fields"),
        ("ijbc_face_tid_mid.txt", "1.jpg 4 69\n3.jpg 9 12\n2.jpg 4 69\n", r"line 2: picture 3.jpg is 2.jpg in"),
        ("ijbc_face_tid_mid.txt", "1.jpg 4 69\n", r"lists 1 pictures, .* 3: one is incomplete"),
        ("ijbc_name_5pts_score.txt", "1.jpg 0 1 2\n", r"5pts_score.txt line 1: expected 12 fields"),
    ],
)
def test_damaged_ijb_images_name_file_and_line(ijb: Path, file: str, content: str, message: str) -> None:
    (ijb / "meta" / file).write_text(content)
    with pytest.raises(FacewrightError, match=message):
        read_ijb_images(ijb, "ijbc")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("4 9 1\n4 nine 0\n", r"pair_label.txt line 2: expected a whole number"),
        ("4 9 1\n\n4 9\n", r"pair_label.txt line 3: expected 3 fields"),
        ("4 9 1\n4 9 2\n", r"comparison 2: a label is 0 or 1"),
        ("4 9\n4 11\n", r"line 1: expected 3 fields"),
        ("", r"holds no comparisons"),
    ],
)
def test_damaged_ijb_pairs_name_file_and_line(ijb: Path, content: str, message: str) -> None:
    (ijb / "meta" / "ijbc_template_pair_label.txt").write_text(content)
    with pytest.raises(FacewrightError, match=message):
        read_ijb_pairs(ijb, "ijbc")


def test_damaged_ijb_galleries_name_file_and_line(ijb: Path) -> None:
    file = ijb / "meta" / "ijbc_1N_gallery_G1.csv"
    file.write_text("TEMPLATE_ID,SUBJECT_ID\n4,65\n4,66\n")
    with pytest.raises(FacewrightError, match=r"G1.csv line 3: template 4 belongs to two subjects"):
        read_ijb_subjects(file)
    file.write_text("TEMPLATE_ID,SUBJECT_ID\n4\n")
    with pytest.raises(FacewrightError, match=r"G1.csv line 2: expected template and subject"):
        read_ijb_subjects(file)
    with pytest.raises(FacewrightError, match="cannot be read"):
        read_ijb_pairs(ijb, "ijbb")


POINTS = "RightEye 81 82 LeftEye 159 102 MouthCenter 70 193 LeftEarlobe 244 177 RightEarlobe Inf Inf"


@pytest.mark.parametrize(("lead", "group"), [("", "Age_group"), ("Filename ", "Age_Group")])
def test_primates_in_both_published_forms(tmp_path: Path, lead: str, group: str) -> None:
    file = tmp_path / "annotations_ctai.txt"
    file.write_text(
        f"{lead}face_images/img-id1-object-1.png Name Fredy Age 32 {group} Adult Gender Male {POINTS} \n"
        f"{lead}face_images/img-id2-object-1.png Name Adult Age NaN {group} Unknown Gender Unknown {POINTS} \n"
    )
    known, unknown = read_primates(file)
    assert known.path == tmp_path / "face_images" / "img-id1-object-1.png"
    assert (known.name, known.age, known.age_group, known.gender) == ("Fredy", 32, "Adult", "Male")
    assert known.points[:4].tolist() == [[81, 82], [159, 102], [70, 193], [244, 177]]
    assert np.isnan(known.points[4]).all()
    assert (unknown.name, unknown.age, unknown.age_group, unknown.gender) == (None, None, None, None)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f"a.png Name Fredy Age 32 Gender Male {POINTS}", "line 2: expected picture, name, age, age_group, gender"),
        (f"a.png Name F Age old Age_group Adult Gender Male {POINTS}", "line 2: expected a number in 'old'"),
        (f"a.png Name F Age 3 Age_group Adult Gender Male {POINTS.replace('81', 'x')}", "line 2: expected a number"),
        (f"a.png Name F Age 3 Age_group Adult Gender Male {POINTS.replace('LeftEye', 'Nose')}", "line 2: expected"),
        ("Filename", "line 2: expected picture"),
    ],
)
def test_damaged_primates_name_file_and_line(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "annotations_czoo.txt"
    file.write_text(f"\n{line}\n")
    with pytest.raises(FacewrightError, match=rf"annotations_czoo.txt {message}"):
        read_primates(file)
