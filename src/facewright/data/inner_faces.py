"""Inner faces alone: the leak-free view of presentation attacks, and batches of it for every training.

    python -m facewright.data.presentation REPLAY -o FOUND.npz --times 0 63 126 176 239
    python -m facewright.data.inner_faces REPLAY FOUND.npz -o INNER.npz

An attack of Replay-Attack also shows the room on its screen or paper, so that the background tells attacks by itself,
and a face on a screen held to the camera is larger than one that sits before it. Here every system sees the same: the
inner face, from the brows to the chin, put in place by five landmarks and reduced to 64 px, which is fewer than any
face of the collection has; all around it is one grey. The file shows real people and is never part of the package.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import UsageError
from ..geometry.crop import CropSpec
from ..io.atomic import atomic_output
from ..systems.liveness.clipc8.categories import CATEGORIES
from ..systems.liveness.words import Words
from .liveness import PackedCrops, changed, kind_of, pack_replay_attack
from .presentation import FoundFrames

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..face import Face

    Image = NDArray[np.uint8]

SIZE = 64
SPEC = CropSpec.aligned(SIZE, "arcface", zoom=1.266, centre=(0.5, 0.602))
"""Eyes are 25.5 px apart; the middle lies 0.45 times as far below them."""
GREY = 128
_HALF_AXES = (0.34, 0.478)
"""Of the oval, in sides of the crop: 0.85 and 1.2 times the distance of the eyes."""

Group = Literal["person", "lighting"]
Text = Literal["", "categories", "answers"]


def oval(side: int = SIZE) -> NDArray[np.bool_]:
    """Which pixels (side, side) of a crop by `SPEC` show the inner face."""
    y, x = np.mgrid[:side, :side] + 0.5
    across, down = ((v / side - 0.5) / half for v, half in zip((x, y), _HALF_AXES))
    return np.asarray(across**2 + down**2 <= 1)


def face_only(crops: Image) -> Image:
    """Crops (N, S, S, 3) by `SPEC` with everything but the inner face painted grey."""
    return np.asarray(np.where(oval(crops.shape[1])[..., None], crops, GREY), np.uint8)


def face_only_photo(photo: Image, face: Face) -> Image:
    """An (H, W, 3) photo with everything but the inner face painted grey, for systems with crops of their own."""
    inside = oval(4 * SIZE).astype(np.uint8)
    to_photo = cv2.invertAffineTransform(replace(SPEC, size=4 * SIZE).matrix(face))
    kept = cv2.warpAffine(inside, to_photo, photo.shape[1::-1], flags=cv2.INTER_NEAREST) > 0
    return np.asarray(np.where(kept[..., None], photo, GREY), np.uint8)


def surroundings_only(crops: Image) -> Image:
    """What `face_only` takes away: crops with the inner face painted grey. Tells nothing once it was applied."""
    return np.asarray(np.where(oval(crops.shape[1])[..., None], GREY, crops), np.uint8)


def depth_of_face(side: int) -> NDArray[np.float32]:
    """Depth (side, side), 0…1, of the inner face as half an ellipsoid: what a live face has and an attack has not."""
    y, x = np.mgrid[:side, :side] + 0.5
    across, down = ((v / side - 0.5) / half for v, half in zip((x, y), _HALF_AXES))
    return np.asarray(np.sqrt(np.clip(1 - across**2 - down**2, 0, None)), np.float32)


def pack_inner_faces(root: str | Path, found: FoundFrames) -> PackedCrops:
    """The inner faces of Replay-Attack; the frames of a video stand together in their order."""
    packed = pack_replay_attack(root, found, SPEC)
    return replace(packed, images=face_only(packed.images))


def lighting_of(domain: str) -> str:
    """ "controlled" or "adverse", of a domain of Replay-Attack."""
    return domain.rpartition("/")[2]


# --- words -----------------------------------------------------------------------------------------------------------

TEXT_LENGTH = 16
ANSWER_LENGTH = 17
_YES, _NO, _FIRST_WORD = 9, 10, 9
"""Token numbers of `IFASConfig`; the captions' words follow them."""
_LIGHTS = {"controlled": "in even light", "adverse": "in daylight"}
_HELD = {"hand": "held by a hand", "fixed": "on a stand"}
_SHOWN = {
    "print": "a photo printed on paper",
    "mobile": "a face on the small screen of a phone",
    "highdef": "a face on the large screen of a tablet",
}
_LIVING = "a living face of a person who is there"


def caption_of(domain: str) -> str:
    """The sentence about a presentation of Replay-Attack, from its domain as the publisher names it."""
    medium, holding, light = domain.split("/")
    shown = _LIVING if medium == "webcam" else f"{_SHOWN[medium]} {_HELD[holding]}"
    return f"{shown} {_LIGHTS[light]}"


def category_words() -> Words:
    """The words of CLIPC8's sentences."""
    return Words([sentence for category in CATEGORIES for sentence in category.sentences])


def category_captions() -> list[Tensor]:
    """Token numbers (M, T) of the sentences of each category, as `CLIPC8.describe_categories` takes them."""
    words = category_words()
    return [words(category.sentences, TEXT_LENGTH) for category in CATEGORIES]


def answer_words() -> Words:
    """The words of I-FAS's captions."""
    attacks = [f"{medium}/{held}/{light}" for medium in _SHOWN for held in _HELD for light in _LIGHTS]
    return Words([caption_of(domain) for domain in (*attacks, *(f"webcam/live/{light}" for light in _LIGHTS))])


def answer_of(domain: str, words: Words) -> tuple[Tensor, int]:
    """Token numbers (T,) of yes or no and the caption, and how many they are."""
    tokens = words([caption_of(domain)], ANSWER_LENGTH)[0]
    judged = torch.tensor([_YES if domain.startswith("webcam/") else _NO])
    shifted = torch.where(tokens > 0, tokens + _FIRST_WORD, tokens)
    return torch.cat([judged, shifted]), 1 + int((tokens > 0).sum())


_CATEGORY_OF_KIND = (0, 1, 2, 3)
"""Live, print, replay and mask among CLIPC8's categories."""


# --- batches ---------------------------------------------------------------------------------------------------------


class InnerFaceBatches(Dataset[dict[str, Tensor]]):
    """Crops of a packed file in the order that the trainings of liveness networks want of a batch.

    The first half of every `batch` items is live, the second attacks. In both halves stand the same groups in the same
    order, `pictures` of each: people drawn anew for every batch, or with `group` "lighting" all kinds of lighting in
    equal parts. A recipe's `batch_size` has to be `batch`. With `live_only` there are live people alone.

    An item, a function of (seed, split, index) alone, has `image` (S, S, 3) uint8 RGB; `live`, `attack`, `kind`,
    `identity` (the group's number) and `row` (); `depth` (S/8, S/8). With `text` "categories" also `category`,
    `caption` (T,) and `caption_category` as CLIPC8 is trained; with "answers" `answer` (T,) and `length` as I-FAS is.
    "val" is the calibration side, as it is.

    Raises UsageError where the file or the batch does not fit.
    """

    def __init__(
        self,
        split: Literal["train", "val"] = "train",
        seed: int = 0,
        *,
        file: str,
        batch: int = 24,
        pictures: int = 3,
        group: Group = "person",
        live_only: bool = False,
        text: Text = "",
        length: int = 1 << 40,
    ) -> None:
        packed = PackedCrops.load(file)
        self.crops = packed.where(packed.side == ("train" if split == "train" else "calibration"))
        names = self.crops.person if group == "person" else np.array([lighting_of(d) for d in self.crops.domain])
        live = self.crops.live
        self.rows: list[dict[bool, NDArray[np.int64]]] = []
        for name in sorted(set(names.tolist())):
            own = {kind: np.flatnonzero((names == name) & (live == kind)) for kind in (True, False)}
            if len(own[True]) and (live_only or len(own[False])):
                self.rows.append(own)
        half = batch if live_only else batch // 2
        self.each = half // max(1, len(self.rows)) if group == "lighting" else pictures
        self.groups = half // max(1, self.each)
        if batch % 2 or self.groups * self.each != half or not 0 < self.groups <= len(self.rows):
            raise UsageError(
                f"batches of {batch} with {self.each} pictures of each cannot be made of {len(self.rows)} groups"
            )
        self.split, self.seed, self.batch, self.live_only = split, seed, batch, live_only
        self.text, self.length = text, length
        self.words = {"": None, "categories": category_words(), "answers": answer_words()}[text]

    def __len__(self) -> int:
        return self.length

    def rows_of(self, number: int) -> list[tuple[int, int]]:
        """Row and group of every item of a batch."""
        rng = np.random.default_rng((self.seed, int(self.split == "val"), number))
        groups = rng.permutation(len(self.rows))[: self.groups].tolist()
        chosen = []
        for live in (True,) if self.live_only else (True, False):
            for group in groups:
                rows = self.rows[group][live]
                drawn = rng.choice(rows, self.each, replace=len(rows) < self.each)
                chosen += [(int(row), group) for row in drawn]
        return chosen

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        number, place = divmod(index, self.batch)
        row, group = self.rows_of(number)[place]
        rng = np.random.default_rng((self.seed, int(self.split == "val"), 1, index))
        image, live = self.crops.images[row], bool(self.crops.live[row])
        if self.split == "train":
            image = changed(image, rng)
        side = image.shape[0] // 8
        kind = kind_of(str(self.crops.species[row]))
        item = {
            "image": torch.from_numpy(np.ascontiguousarray(image)),
            "live": torch.tensor(int(live)),
            "attack": torch.tensor(int(not live)),
            "kind": torch.tensor(kind),
            "identity": torch.tensor(group),
            "row": torch.tensor(row),
            "depth": torch.from_numpy(depth_of_face(side) * live),
        }
        return item | self._told(row, kind, rng)

    def _told(self, row: int, kind: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """The sentence about a crop, as numbers."""
        if self.words is None:
            return {}
        if self.text == "answers":
            answer, length = answer_of(str(self.crops.domain[row]), self.words)
            return {"answer": answer, "length": torch.tensor(length)}
        category = torch.tensor(_CATEGORY_OF_KIND[kind])
        sentences = CATEGORIES[int(category)].sentences
        caption = self.words([sentences[int(rng.integers(len(sentences)))]], TEXT_LENGTH)[0]
        return {"category": category, "caption": caption, "caption_category": category}


# --- sequences -------------------------------------------------------------------------------------------------------


class FrameSequences(Dataset[dict[str, Tensor]]):
    """Described frames of videos, as DLE is trained: `features` (T, F), `length` and `live` ().

    The file (`pack_sequences`) holds `features` (V, T, F), `live` (V,), `person` (V,) and `side` (V,). Of the training
    people the last `held_back` by name teach the last network (`stage` "meta"), the others the three before it, so that
    it sees what those say of people they do not know. "val" is the calibration side. UsageError where nobody is left.
    """

    def __init__(
        self,
        split: Literal["train", "val"] = "train",
        seed: int = 0,
        *,
        file: str,
        stage: Literal["learners", "meta"] = "learners",
        held_back: int = 4,
        length: int = 1 << 40,
    ) -> None:
        with np.load(file, allow_pickle=False) as stored:
            features, live, person, side = (stored[name] for name in ("features", "live", "person", "side"))
        chosen = side == ("train" if split == "train" else "calibration")
        if split == "train":
            names = sorted(set(person[chosen].tolist()))
            taught = names[-held_back:] if stage == "meta" else names[:-held_back]
            chosen &= np.isin(person, taught)
        self.features, self.live = features[chosen], live[chosen]
        if not self.live.any() or self.live.all():
            raise UsageError(f"{file} has no live people or no attacks for {stage} of {split}")
        self.split, self.seed, self.length = split, seed, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((self.seed, int(self.split == "val"), index))
        row = int(rng.choice(np.flatnonzero(self.live == (rng.random() < 0.5))))
        features = torch.from_numpy(self.features[row].astype(np.float32))
        live = torch.tensor(int(self.live[row]))
        return {"features": features, "length": torch.tensor(len(features)), "live": live}


def pack_sequences(path: Path, packed: PackedCrops, features: NDArray[np.float32]) -> None:
    """Write the file of `FrameSequences` from descriptions (N, F) of all crops; videos of the most frames alone."""
    names, first, counts = np.unique(packed.video, return_index=True, return_counts=True)
    whole = counts == counts.max()
    order = [np.flatnonzero(packed.video == name) for name in names[whole]]
    with atomic_output(path, overwrite=True, parents=True) as temporary, open(temporary, "wb") as stream:
        np.savez(
            stream,
            features=features[np.stack(order)],
            live=packed.live[first[whole]],
            person=packed.person[first[whole]],
            side=packed.side[first[whole]],
            video=names[whole],
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("replay", type=Path, help="folder of Replay-Attack")
    parser.add_argument("found", type=Path, help="its faces, made by facewright.data.presentation")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    packed = pack_inner_faces(args.replay, FoundFrames.load(args.found))
    packed.save(args.output)
    print(f"{len(packed)} crops in {args.output}")


if __name__ == "__main__":
    main()
