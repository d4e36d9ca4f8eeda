"""Where the embedded restorer does worse: gains by age, gender, ethnicity, light, pose and glasses, with intervals.

    python -m reproductions.frgp.groups --write --pictures local/frgp-groups
    python -m reproductions.frgp.groups --gallery docs/images/frgp-failures.jpg --model path/to/FaceXModel

Validation faces of UTKFace, for pose and glasses of LFW too; labels as published, poses by a regressor, glasses where
the embedded parser sees some in the true face. Needs the labelled face collections (FACEWRIGHT_DATA). The sheets of the
worst faces show real people, so they go to a folder of your own; the gallery shows rendered people and needs no data.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np

from facewright.data.restoration import CropCache, open_crops
from facewright.degrade import apply, sample
from facewright.geometry.paste import face_mask
from facewright.geometry.resample import crop_face
from facewright.geometry.templates import template_points
from facewright.io.image import save_rgb
from facewright.loading import load_parser
from facewright.metrics import psnr, ssim
from facewright.metrics.uncertainty import bootstrap
from facewright.pipelines.sheets import grid
from facewright.render import Renderer, SceneSampler
from facewright.render.jobs import load_model
from facewright.systems.base import batches
from facewright.systems.restore.frgp.network import FRGP
from facewright.weights.measure import record

from .. import common
from .evaluate import BATCH
from .honesty import table
from .identity import judges

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from facewright.render import Scene
    from facewright.tasks.analyse import Parser

    from .honesty import Judge

    Image = NDArray[np.uint8]
    Flags = NDArray[np.bool_]
    Values = NDArray[np.float64]

DAMAGES = ("vqfr@scaled", "far")
MOST, FEW = 150, 40  # faces of a group
SIZE, TILE, WORST = 256, 144, 6
OVAL = face_mask(template_points("ffhq", SIZE), SIZE) > 0.5
DARK = 25  # percentile of the mean luma inside the oval
GLASSES = 30  # pixels of a crop; the parser misses many pairs but hardly invents any
AGES = ((0, 10), (10, 20), (20, 40), (40, 60), (60, 200))
ETHNICITIES = ("White", "Black", "Asian", "Indian", "other")
GENDERS = ("male", "female")
MEASURES = ("PSNR gain, dB", "SSIM gain", "identity change")
DIGITS = (2, 3, 3)


def damaged(image: Image, damage: str, name: str) -> Image:
    """A crop as the restorers get it: the same for the same damage and name of the face."""
    digest = hashlib.sha256(f"{damage}/{name}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    return apply(image, sample(damage.removesuffix("@scaled"), rng, SIZE, scaled=damage.endswith("@scaled")))


class Face(NamedTuple):
    """A validation face: its collection and its place there."""

    collection: str
    place: int

    @property
    def name(self) -> str:
        return f"{self.collection}/{self.place}"


@dataclass(frozen=True, slots=True, eq=False)
class People:
    """All N validation faces of both collections and what their labels say; −1 where LFW has no label."""

    crops: dict[str, CropCache]
    faces: list[Face]

    @classmethod
    def load(cls) -> People:
        crops = {name: open_crops(name, "val", SIZE) for name in ("utkface", "lfw")}
        return cls(crops, [Face(name, i) for name, cache in crops.items() for i in range(len(cache.rows))])

    def label(self, column: str) -> NDArray[Any]:
        """A label of every face, (N, …)."""
        caches = self.crops.values()
        known = [np.asarray(c.collection.labels.get(column, -np.ones(c.rows.max() + 1, int)))[c.rows] for c in caches]
        return np.concatenate(known)

    def truth(self, face: Face) -> tuple[Image, Flags]:
        """Crop and validity mask."""
        return self.crops[face.collection].crop(face.place)

    def luma(self) -> Values:
        """(N,) mean luma inside the oval of the face, 0..255."""
        found = []
        for face in self.faces:
            image, valid = self.truth(face)
            found.append(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[OVAL & valid].mean())
        return np.array(found)

    def glasses(self, parser: Parser) -> Flags:
        """(N,) whether the parser sees glasses."""
        number = parser.classes.index("eye_g")
        parts = (np.stack([self.truth(face)[0] for face in part]) for part in batches(self.faces, BATCH))
        return np.concatenate([(parser.parse(part) == number).sum((1, 2)) >= GLASSES for part in parts])


def groups_of(people: People, parser: Parser) -> dict[str, dict[str, Flags]]:
    """By heading, the faces (N,) of every group; the groups of a heading have no face in common."""
    age, gender, ethnicity = (people.label(name) for name in ("age_years", "gender", "ethnicity"))
    yaw = np.abs(people.label("pose_yaw_pitch_roll_deg")[:, 0])
    utkface = np.array([face.collection == "utkface" for face in people.faces])
    luma, glasses = people.luma(), people.glasses(parser)
    dark = luma < np.percentile(luma[utkface], DARK)
    black = ethnicity == ETHNICITIES.index("Black")
    return {
        "age": {_span(low, high): utkface & (age >= low) & (age < high) for low, high in AGES},
        "gender": {name: utkface & (gender == i) for i, name in enumerate(GENDERS)},
        "ethnicity": {name: utkface & (ethnicity == i) for i, name in enumerate(ETHNICITIES)},
        "light": {
            "Black, low light": utkface & black & dark,
            "others, low light": utkface & ~black & dark,
            "Black, brighter": utkface & black & ~dark,
            "others, brighter": utkface & ~black & ~dark,
        },
        "yaw": {"below 15°": yaw < 15, "15–30°": (yaw >= 15) & (yaw <= 30), "above 30°": yaw > 30},
        "glasses": {"seen": glasses, "none seen": ~glasses},
    }


def _span(low: int, high: int) -> str:
    return f"{low}–{high - 1}" if high < 150 else f"{low}+"


def drawn(groups: dict[str, dict[str, Flags]], most: int) -> dict[str, dict[str, Flags]]:
    """At most so many faces of each group; one order for all, so that groups of different headings share faces."""
    count = len(next(iter(groups["age"].values())))
    rank = np.random.default_rng(0).permutation(count)

    def some(flags: Flags) -> Flags:
        members = np.flatnonzero(flags)
        return np.isin(np.arange(count), members[np.argsort(rank[members])[:most]])

    return {heading: {name: some(flags) for name, flags in parts.items()} for heading, parts in groups.items()}


def measure(restorer: FRGP, judge: Judge, people: People, chosen: Flags, damage: str) -> Values:
    """(N, 4) PSNR of the damaged face, and what restoring adds in `MEASURES`; NaN for faces that were not chosen."""
    values = np.full((len(chosen), 1 + len(MEASURES)), np.nan)
    for part in batches(list(np.flatnonzero(chosen)), BATCH):
        truths, masks = zip(*(people.truth(people.faces[i]) for i in part))
        low = [damaged(truth, damage, people.faces[i].name) for i, truth in zip(part, truths)]
        restored = list(restorer.restore(np.stack(low)))
        true, before, after = (judge(list(images)) for images in (truths, low, restored))
        for row, i in enumerate(part):
            of = {"data_range": 255, "mask": masks[row]}
            values[i, 0] = psnr(low[row], truths[row], **of)
            values[i, 1] = psnr(restored[row], truths[row], **of) - values[i, 0]
            values[i, 2] = ssim(restored[row], truths[row], **of) - ssim(low[row], truths[row], **of)
        values[list(part), 3] = ((after - before) * true).sum(1)
    return values


def rows_of(groups: dict[str, dict[str, Flags]], values: Values) -> list[list[str]]:
    """A row per group; marked where it gains less than the other groups of its heading together."""
    rows = []
    for heading, parts in groups.items():
        for name, flags in parts.items():
            rest = np.any([other for key, other in parts.items() if key != name], axis=0)
            count = f"{flags.sum()}" if flags.sum() >= FEW else f"{flags.sum()}, few"
            cells = [_cell(values[flags, k], values[rest, k], digits) for k, digits in enumerate(DIGITS, 1)]
            rows.append([heading, name, count, f"{values[flags, 0].mean():.2f}", *cells])
    return rows


def gains(groups: dict[str, dict[str, Flags]], values: dict[str, Values]) -> dict[str, float]:
    """The mean PSNR gain of every group by damage, heading and name, for the sentences of the card."""
    return {
        f"{damage}, {heading} {name}": float(found[flags, 1].mean())
        for damage, found in values.items()
        for heading, parts in groups.items()
        for name, flags in parts.items()
    }


def _cell(own: Values, rest: Values, digits: int) -> str:
    estimate = bootstrap(own)
    text = estimate.text(digits, sign=True)
    return f"**{text} ↓**" if estimate.high < bootstrap(rest).low else text


def worst_sheet(restorer: FRGP, people: People, flags: Flags, gain: Values, damage: str) -> Image:
    """The faces of a group that restoring made worst: damaged, restored, true."""
    worst = sorted(np.flatnonzero(flags), key=lambda i: gain[i])[:WORST]
    truths = [people.truth(people.faces[i])[0] for i in worst]
    low = [damaged(truth, damage, people.faces[i].name) for i, truth in zip(worst, truths)]
    restored = list(restorer.restore(np.stack(low)))
    labels = [["damaged"] * WORST, [f"restored {gain[i]:+.2f} dB" for i in worst], ["true"] * WORST]
    return grid([[_tile(image) for image in images] for images in (low, restored, truths)], labels)


def _tile(image: Image) -> Image:
    return np.asarray(cv2.resize(image, (TILE, TILE), interpolation=cv2.INTER_AREA), np.uint8)


def page(tables: dict[str, list[list[str]]], command: str) -> str:
    """The Markdown page of the results."""
    lines = [
        "# FRGP, embedded weights: who gains less",
        "",
        f"Made by `{command}`.",
        "Validation people of UTKFace, for pose and glasses of LFW too; what restoring adds to damaged 256-pixel",
        "crops, with 95 % bootstrap intervals over faces. PSNR and SSIM inside what the photo covers; *identity* is",
        "the change of the cosine to the true face by `vitfiqa`, which was in no loss of the restorer. A cell is",
        "**marked ↓** where its interval lies wholly below that of the other groups of its heading together. *Damaged*",
        "is the PSNR of the input: less damage leaves less to gain.",
        "",
        f"*Low light*: the mean luma inside the oval of the true face is below the {DARK}th percentile of UTKFace.",
        "Age, gender and ethnicity as published with UTKFace, yaw by a regressor. *Glasses*: the embedded parser sees",
        f"at least {GLASSES} pixels of them in the true face; it misses many pairs, so *none seen* holds some. Hats",
        "are left out, because it takes bald heads and borders for hats.",
    ]
    heads = ["", "group", "faces", "damaged, dB", *MEASURES]
    for damage, rows in tables.items():
        lines += ["", f"## {damage}", "", *table(heads, rows)]
    return "\n".join(lines) + "\n"


# --- rendered people, who may be shown


@dataclass(frozen=True, slots=True)
class Case:
    """A rendered face and what is hard about it; `light` multiplies all light, `look` replaces values of a `Look`."""

    name: str
    damage: str = "vqfr@scaled"
    yaw: float = 0.0
    light: float = 1.0
    look: dict[str, object] = field(default_factory=dict)


CASES = (
    Case("frontal"),
    Case("yaw 45°", yaw=45),
    Case("yaw 70°", yaw=70),
    Case("glasses", look={"glasses": "square", "glasses_colour": [0.03, 0.025, 0.02], "glasses_tint": 0.0}),
    Case("dark skin, low light", light=0.25, look={"tone": [-1.9, 0.0, 0.0], "hair": "short", "lipstick": 0.0}),
    Case("hand", look={"occluder": "hand", "occluder_at": [0.4, 0.2]}),
    Case("hat", look={"hat": "brim", "hair": "short"}),
    Case("severe damage", damage="severe"),
)
FARTHER = 0.75  # of the drawn size of the head, so that the whole crop is rendered
BARE = {"hat": "none", "glasses": "none", "occluder": "none"}


def staged(scene: Scene, case: Case) -> Scene:
    """A drawn scene changed to what the case asks."""
    light = scene.light
    radiance = tuple(tuple(case.light * value for value in row) for row in light.radiance)
    red, green, blue = (case.light * value for value in light.irradiance)
    dimmed = replace(light, radiance=radiance, irradiance=(red, green, blue))
    camera = replace(scene.camera, focal=FARTHER * scene.camera.focal)
    look = {**scene.look, **BARE, **case.look}
    return replace(scene, pose=(case.yaw, 0.0, 0.0), light=dimmed, camera=camera, look=look)


def gallery(restorer: FRGP, model: str, seed: int) -> Image:
    """A row per case: damaged, restored, true, with the PSNR inside the oval of the face."""
    data = load_model(model)
    sampler, renderer = SceneSampler(data, seed, size=2 * SIZE, effects=False), Renderer(data)
    pictures, labels = [], []
    for number, case in enumerate(CASES):
        shown = renderer.render(staged(sampler.scene(number), case))
        crop = crop_face(shown.rgb, shown.points5.xy, SIZE)
        low = damaged(crop.image, case.damage, case.name)
        restored = restorer.restore(low[None])[0]
        before, after = (psnr(image, crop.image, data_range=255, mask=OVAL) for image in (low, restored))
        pictures.append([_tile(image) for image in (low, restored, crop.image)])
        labels.append([f"damaged {before:.1f} dB", f"restored {after - before:+.2f} dB", case.name])
    return grid(pictures, labels)


def main() -> None:
    parser = common.options(__doc__, quick="", arms=False, threads=1, seed=0, pictures="the sheets of the worst faces")
    parser.add_argument("--faces", type=int, default=MOST, help="most faces of a group")
    parser.add_argument("--weights", help="weights other than the embedded ones")
    parser.add_argument("--gallery", type=Path, help="draw only the gallery of rendered faces, into this JPEG file")
    parser.add_argument("--model", default="coarse", help="face model of the gallery: coarse, or ICT-FaceKit's folder")
    options = parser.parse_args()
    common.begin(options)
    restorer = FRGP.from_pretrained(options.weights)
    if options.gallery:
        save_rgb(gallery(restorer, options.model, options.seed), options.gallery, overwrite=True, quality=74)
        return
    people = People.load()
    groups = drawn(groups_of(people, load_parser()), options.faces)
    chosen = np.any([flags for parts in groups.values() for flags in parts.values()], axis=0)
    judge, tables, found = judges()["vitfiqa"], {}, {}
    for damage in DAMAGES:
        values = found[damage] = measure(restorer, judge, people, chosen, damage)
        tables[damage] = rows_of(groups, values)
        if not options.pictures:
            continue
        folder = options.pictures / damage
        folder.mkdir(parents=True, exist_ok=True)
        for heading, parts in groups.items():
            for name, flags in parts.items():
                sheet = worst_sheet(restorer, people, flags, values[:, 1], damage)
                save_rgb(sheet, folder / f"{heading}, {name}.png", overwrite=True)
    given = f"--faces {options.faces}"
    text = page(tables, f"python -m reproductions.frgp.groups {given}")
    command = common.finish(options, "frgp-groups", text, ["frgp", "vitfiqa", "segface"], given=given)
    if command and not options.weights:
        data = "UTKFace's validation people, for pose and glasses LFW's too, 256 px"
        record("frgp", "groups", gains(groups, found), command=command, data=data, listed=False)


if __name__ == "__main__":
    main()
