"""How easily is a recogniser attacked?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from .declare import Checked, Opt, Shape, Task
from .records import AuditRecord


@dataclass(frozen=True, slots=True)
class AuditOptions(Checked):
    """What is tried, on whom, and with what the attacker has."""

    weights: Annotated[str | None, Opt("Weights of the recogniser: file, folder, or name.")] = None
    gallery: Annotated[str | None, Opt("Gallery whose templates are taken for leaked, instead of the photos'.")] = None
    key: Annotated[str | None, Opt("Key file of an encrypted gallery.")] = None
    attacker: Annotated[str | None, Opt("Folder of the attacker's own photos; without, half of the people.")] = None
    proxy: Annotated[str | None, Opt("Another recogniser, which the attacker has instead of the audited one.")] = None
    target: Annotated[str | None, Opt("Another recogniser, which the made faces are shown to as well.")] = None
    generator: Annotated[Literal["eigenfaces", "stylegan2"], Opt("What draws the faces made from templates.")] = (
        "eigenfaces"
    )
    watermark: Annotated[str | None, Opt("Weights of HiDDeN; without, no watermark is attacked.")] = None
    people: Annotated[int, Opt("Most people that are attacked.", low=5, high=200)] = 40
    steps: Annotated[int, Opt("Training steps of the mapping from templates to faces.", low=1, high=20_000)] = 300
    epsilon: Annotated[float, Opt("Largest change of a pixel by the watermark attack, of 255.", low=1, high=16)] = 4.0
    examples: Annotated[int, Opt("Made faces to write beside the report, without names.", low=0, high=20)] = 0
    seed: Annotated[int, Opt("Same seed, same audit.", low=0)] = 0


TASKS = (
    Task(
        name="audit",
        verb="audit",
        summary="Attack a recogniser of your own on your own photos, and report the risk and what defences are worth.",
        shape=Shape.REPORT,
        options=AuditOptions,
        load="facewright.pipelines.audit:load",
        result="facewright.pipelines.audit:AuditReport",
        record=AuditRecord,
        systems=None,
        needs=("detector", "recogniser"),
        media=("folder",),
        metrics=("success attack rate at a false match rate", "match rate before and after a watermark"),
        guide="guides/audit.md",
    ),
)
