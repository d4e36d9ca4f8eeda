"""Published checkpoints of this system: key maps to this network, and networks made from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ....errors import WeightsError
from .network import MLCR, Graph, MLCRConfig
from .relations import BP4D, EMOTIONET, published_relations

KEYS = (
    r"net1\.layer1\.0\.",
    r"net2\.fc\.",
    r"relation\.gc1\.",
)
"""Beginnings of keys that all published checkpoints have; they tell a file of unknown origin."""

UNITS = {"emotionet": EMOTIONET, "bp4d": BP4D}
_NAMES = {
    "net1.fc.": "classifiers.0.",
    "net2.fc.": "classifiers.1.",
    "net1.": "views.0.",
    "net2.": "views.1.",
    "relation.gc1.weight": "graph.first",
    "relation.gc2.weight": "graph.second",
    "fc.": "fuse.",
}


def convert_published(state: Mapping[str, Any], units: tuple[str, ...] = EMOTIONET) -> dict[str, Tensor]:
    """A published state dict as that of `MLCR`, uncalibrated; what is stored of the classifiers is what they are."""
    inner = next((state[key] for key in ("net", "state_dict") if isinstance(state.get(key), Mapping)), state)
    converted: dict[str, Tensor] = {}
    for key, value in inner.items():
        if isinstance(value, Tensor):
            name = key.removeprefix("module.")
            theirs = next((begin for begin in _NAMES if name.startswith(begin)), "")
            converted[_NAMES.get(theirs, "") + name.removeprefix(theirs)] = value
    rows = [
        torch.cat([converted[f"classifiers.{view}.weight"], converted[f"classifiers.{view}.bias"][:, None]], 1)
        for view in (0, 1)
    ]
    converted |= {"stored": torch.stack(rows), "calibration": torch.zeros(len(units) + 1, 4, dtype=torch.int32)}
    relations = published_relations(units)
    return converted if relations is None else converted | {"relations": relations}


def import_published(state: Mapping[str, Any], *, units: str = "emotionet", graph: Graph = "live") -> MLCR:
    """A network with published weights; `units` says whose, emotionet or bp4d, `graph` as in `MLCRConfig`.

    The published demonstration calls its network once, and so never exchanges classifiers: its numbers are those of
    graph `off`. Raises WeightsError for other and for incomplete checkpoints.
    """
    if units not in UNITS:
        raise WeightsError(f"the units {units!r} are not known; choose {' or '.join(UNITS)}")
    model = MLCR(MLCRConfig(units=UNITS[units], graph=graph))
    try:
        model.load_state_dict(convert_published(state, UNITS[units]))
    except (RuntimeError, KeyError) as error:
        raise WeightsError(f"this is not a complete checkpoint of MLCR: {error}".replace("\n", " ")) from error
    return model.eval()
