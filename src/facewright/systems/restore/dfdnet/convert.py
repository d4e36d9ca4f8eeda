"""Published checkpoints of this system: key maps to this network, and networks made from them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from ....errors import WeightsError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

from .network import PARTS, DFDNet, DFDNetConfig

KEYS = (
    r"VggExtract\.",
    r"MSDilate\.",
    r"le_256\.",
)
"""Beginnings of keys that all published checkpoints have; they tell a file of unknown origin."""

_RENAMED = tuple(
    (re.compile(f"^{published}"), ours)
    for published, ours in (
        (r"le_(\d+)\.", r"confidence.left_eye_\1."),
        (r"re_(\d+)\.", r"confidence.right_eye_\1."),
        (r"no_(\d+)\.", r"confidence.nose_\1."),
        (r"mo_(\d+)\.", r"confidence.mouth_\1."),
        (r"MSDilate\.convi\.", r"dilated.merge."),
        (r"MSDilate\.conv1\.", r"dilated.branches.0."),
        (r"MSDilate\.conv2\.", r"dilated.branches.1."),
        (r"MSDilate\.conv3\.", r"dilated.branches.2."),
        (r"MSDilate\.conv4\.", r"dilated.branches.3."),
        (r"up(\d)\.conv1\.1\.", r"ups.\1.conv."),
        (r"up(\d)\.convup\.1\.", r"ups.\1.expand."),
        (r"up(\d)\.ScaleModel1\.", r"ups.\1.scale."),
        (r"up(\d)\.ShiftModel1\.", r"ups.\1.shift."),
        (r"up4\.(\d)\.(?:Model\.)?", r"head.\1."),
        (r"VggExtract\.model\.features\.", r"extractor.network.features."),
    )
)


# never used, fixed, or the same tensors once more
_SURPLUS = re.compile(r"to_rgb\d\.|VggExtract\.(RGB_|features\.|model\.classifier\.)|up\d\.conv1\.0\.weight")


_SPECTRAL = {
    "weight_orig": "parametrizations.weight.original",
    "weight_u": "parametrizations.weight.0._u",
    "weight_v": "parametrizations.weight.0._v",
}


_DICTIONARY = re.compile(rf"({'|'.join(PARTS)})_(\d+)(_center)?(\.npy)?")


def convert_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keys of the published generator (`latest_net_G.pth`) to ours, without dictionaries; KeyError for unknown keys."""
    return {_converted(key): value for key, value in state.items() if not _SURPLUS.match(key)}


def _converted(key: str) -> str:
    layer, _, name = key.rpartition(".")
    for published, ours in _RENAMED:
        renamed, count = published.subn(ours, f"{layer}.", count=1)
        if count:
            return renamed + _SPECTRAL.get(name, name)
    raise KeyError(key)


def convert_dictionaries(arrays: Mapping[str, Tensor], config: DFDNetConfig | None = None) -> dict[str, Tensor]:
    """Published dictionaries to ours: `left_eye_256_center` and so on, (K, C·h·h) or (K, C, h, h), by part and scale.

    Names may end in `.npy`. Raises WeightsError when one is not of this network's shape.
    """
    shapes = (config or DFDNetConfig()).dictionary_shapes()
    found = {}
    for key, values in arrays.items():
        match = _DICTIONARY.fullmatch(key)
        name = f"{match.group(1)}_{match.group(2)}" if match else key
        shape = shapes.get(name, (0, 0))[1:]
        if values.dim() < 2 or values[:1].numel() != np.prod(shape):
            raise WeightsError(f"{key} is not a dictionary of this DFDNet, which has {', '.join(shapes)}")
        found[name] = values.reshape(len(values), *shape)
    return found


def import_published(state: Mapping[str, Tensor]) -> DFDNet:
    """A network holding the published generator, with dictionaries if the state has them among its tensors.

    KeyError or RuntimeError for another checkpoint.
    """
    dictionaries = {key: value for key, value in state.items() if _DICTIONARY.fullmatch(key)}
    model = DFDNet(DFDNetConfig(atoms=0))
    converted = convert_published({key: value for key, value in state.items() if key not in dictionaries})
    model.load_state_dict(converted | {k: v for k, v in model.state_dict().items() if k.startswith("dictionary.")})
    if dictionaries:
        model.load_dictionaries(convert_dictionaries(dictionaries))
    return model.eval()
