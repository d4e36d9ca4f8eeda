"""Cards: what a system is, where its weights come from, what they expect and what they may be used for.

A card is data (`systems/<task>/<slug>/card.json`), read without importing torch. The cards are the one
table from which `fw.models()`, the command line, the documentation and the registry tests are made.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..geometry.crop import CropSpec
from .measurement import fill_card, read_measurements

if TYPE_CHECKING:
    from collections.abc import Mapping

CONTAINERS = {
    "torch": "PyTorch zip file of tensors",
    "legacy": "PyTorch pickle of tensors from before the zip format",
    "lightning": "PyTorch Lightning checkpoint",
    "safetensors": "safetensors",
    "onnx": "ONNX graph",
    "torchscript": "TorchScript archive",
    "nvidia": "NVIDIA pickle, which carries its source",
    "tensorflow": "NVIDIA pickle of TensorFlow networks, which carries its source",
}
"""Kinds of published files."""

ALIASES = {"restoreformer++": "restoreformer"}
"""Other names under which a system may be asked for, to its slug."""


@dataclass(frozen=True, slots=True)
class Preprocess:
    """The input contract of a network; it travels with the weights and is checked when they are loaded.

    `crop` says what part of a photo is fed, to the pixel. A uint8 pixel p in `colour` order is fed as
    (p / `scale` - `mean`) / `std`, per channel.
    """

    crop: CropSpec
    colour: str = "RGB"
    scale: float = 255.0
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    normalises_inside: bool = False

    @property
    def size(self) -> int:
        """Side of the crop in pixels, 0 for any."""
        return self.crop.size

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Preprocess:
        values = dict(data)
        values["crop"] = CropSpec.from_dict(values["crop"])
        for key in ("mean", "std"):
            if key in values:
                values[key] = tuple(float(v) for v in values[key])
        return cls(**values)


def upgraded_record(data: Mapping[str, Any], crop: CropSpec) -> dict[str, Any]:
    """A stored preprocess record in the form of this version.

    Version 0.1.0 stored `size` and `template` and left the rest of the crop to the code of the system, whose `crop` is
    therefore given: it is what a record meant that agrees with it in these two. One that does not is taken at its word,
    so that the comparison with the system's own record fails. Raises KeyError where size or template are missing.
    """
    values = dict(data)
    if "crop" not in values:
        size, template = values.pop("size"), values.pop("template")
        if (size, template) != (crop.size, crop.template):
            crop = CropSpec.aligned(size, template) if template else CropSpec.whole(size)
        values["crop"] = asdict(crop)
    return values


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One set of weights of a system.

    `file` is the path of embedded weights below the package; otherwise `repo_id` and `filename` say where the Hugging
    Face hub has it. `sha256` and `size_bytes` are checked. `metrics` maps a name to a number measured on people the
    weights never saw; it comes from the records of `measurement`, not from the card.
    """

    name: str
    licence: str
    commercial: bool
    training_data: tuple[str, ...]
    preprocess: Preprocess
    config: dict[str, Any]
    file: str = ""
    repo_id: str = ""
    filename: str = ""
    revision: str = ""
    sha256: str = ""
    size_bytes: int = 0
    parameters: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    recipe: str = ""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Checkpoint:
        values = dict(data)
        values["preprocess"] = Preprocess.from_dict(values["preprocess"])
        values["training_data"] = tuple(values["training_data"])
        return cls(**values)


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """A file with weights that somebody else published for a system, as it lies at its addresses.

    `name` is what `weights=` and `facewright download SLUG/NAME` call it, `file` its published file name. `urls` are
    the addresses to fetch it from, in order: `https://…` or `hf://OWNER/REPOSITORY@REVISION/PATH`; none when it can
    only be fetched by hand, from `page`. `member` is its path inside the zip archive at those addresses.

    `sha256` is pinned; `seen` names the two or more independent places that state it. A digest that only one place
    states is `reported_sha256` and is never relied upon. `size_bytes` is 0 when not known exactly.

    `free`: the licence of the weights has no non-commercial clause; any other has to be accepted once. `commercial`:
    they may be used commercially, the conditions of their training data included.

    `container` is one of `CONTAINERS`, `wrapper` the key of the state dict in it, `options` what the importer is told
    that the tensors cannot say. `preprocess` is the input contract of the imported network, `preset` its configuration
    where it has a name.
    """

    name: str
    file: str
    licence: str
    free: bool
    commercial: bool
    training_data: tuple[str, ...]
    container: str
    preprocess: Preprocess
    by: str = ""
    urls: tuple[str, ...] = ()
    page: str = ""
    member: str = ""
    sha256: str = ""
    seen: tuple[str, ...] = ()
    reported_sha256: str = ""
    size_bytes: int = 0
    wrapper: str = ""
    preset: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    note: str = ""

    def __post_init__(self) -> None:
        if self.container not in CONTAINERS:
            raise UsageError(f"{self.file}: container {self.container!r} is none of {', '.join(CONTAINERS)}")

    @property
    def fetchable(self) -> bool:
        """Whether it can be fetched without a person."""
        return bool(self.urls)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PublishedFile:
        values = dict(data)
        values["preprocess"] = Preprocess.from_dict(values["preprocess"])
        for key in ("training_data", "urls", "seen"):
            values[key] = tuple(values.get(key, ()))
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Card:
    """A published system: paper, task, where its class lives, its weights, its proof and its limits.

    `also` names the further tasks it serves.
    """

    slug: str
    name: str
    task: str
    entry: str
    title: str
    authors: str
    year: int
    url: str
    summary: str
    faithful: str
    limits: tuple[str, ...]
    bias: str
    checkpoints: tuple[Checkpoint, ...] = ()
    published: tuple[PublishedFile, ...] = ()
    parity: tuple[str, ...] = ()
    reproduction: str = ""
    also: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Card:
        values = dict(data)
        values["checkpoints"] = tuple(Checkpoint.from_dict(c) for c in values.get("checkpoints", ()))
        values["published"] = tuple(PublishedFile.from_dict(p) for p in values.get("published", ()))
        for key in ("limits", "parity", "also"):
            values[key] = tuple(values.get(key, ()))
        unknown = set(values) - {f.name for f in fields(cls)}
        if unknown:
            raise UsageError(f"card {values.get('slug', '?')!r} has unknown fields: {', '.join(sorted(unknown))}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """The card as plain JSON data."""
        return asdict(self)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Every task it serves, its main one first."""
        return (self.task, *self.also)

    @property
    def default_checkpoint(self) -> Checkpoint | None:
        """The weights `pretrained=True` gives: the first of the list."""
        return self.checkpoints[0] if self.checkpoints else None

    def checkpoint(self, name: str) -> Checkpoint:
        """The checkpoint of that name; raises UsageError naming those there are."""
        for checkpoint in self.checkpoints:
            if checkpoint.name == name:
                return checkpoint
        known = ", ".join(c.name for c in self.checkpoints) or "none"
        raise UsageError(f"{self.slug} has no weights named {name!r}; there are: {known}")


@cache
def cards() -> dict[str, Card]:
    """All registered systems, by slug, in alphabetical order."""
    from .. import systems  # a package that imports nothing; others may extend its path

    found = [read_card(path) for folder in systems.__path__ for path in Path(folder).glob("*/*/card.json")]
    return {card.slug: card for card in sorted(found, key=lambda card: card.slug)}


def read_card(path: Path) -> Card:
    """A card from its file, with the numbers that were measured of its weights."""
    return Card.from_dict(fill_card(json.loads(path.read_text(encoding="utf-8")), read_measurements(path)))


def card_path(slug: str) -> Path:
    """The file a registered card was read from."""
    module = get_card(slug).entry.partition(":")[0]
    return Path(str(resources.files("facewright"))).parent.joinpath(*module.split(".")).parent / "card.json"


def get_card(slug: str) -> Card:
    """The card of a system by its slug or alias; raises UsageError naming the known ones."""
    table = cards()
    slug = ALIASES.get(slug, slug)
    if slug not in table:
        raise UsageError(f"unknown model {slug!r}; known: {', '.join(table)}")
    return table[slug]
