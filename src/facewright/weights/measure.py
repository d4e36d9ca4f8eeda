"""Write down what was measured of embedded weights (`facewright.tasks.measurement`)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..tasks.card import card_path
from ..tasks.measurement import Measurement, read_measurements, write_measurements

if TYPE_CHECKING:
    from collections.abc import Mapping


def record(
    slug: str,
    name: str,
    values: Mapping[str, float],
    *,
    command: str,
    data: str,
    people: bool = True,
    listed: bool = True,
    checkpoint: str = "compact",
    sha256: str = "",
) -> Measurement:
    """Write a measurement of a system's embedded weights beside its card, in the place of the last one of its `name`.

    `command` is how it was made and `data` what was measured on, `people` whether these are people whom the split of
    `facewright.data.split` held out. `sha256` are the weights that were measured: UsageError unless they are the
    card's. Records of other weights of that name are dropped, for nobody can load those any more.
    """
    from ..data.split import split_id

    path = card_path(slug)
    points = {point["name"]: point for point in json.loads(path.read_text(encoding="utf-8"))["checkpoints"]}
    if checkpoint not in points:
        raise UsageError(f"{slug} has no weights named {checkpoint!r}; there are: {', '.join(points) or 'none'}")
    current = points[checkpoint]["sha256"]
    if sha256 and sha256 != current:
        raise UsageError(f"{slug} was measured with other weights ({sha256[:12]}…) than its card has ({current[:12]}…)")
    made = Measurement(
        checkpoint, current, name, command, data, split_id() if people else "", dict(values), listed
    ).sealed()
    known = read_measurements(path)
    others = [m for m in known if m.checkpoint != checkpoint or (m.sha256 == current and m.name != name)]
    write_measurements(path, sorted([*others, made], key=lambda m: (m.checkpoint, m.name)))
    return made
