"""Classes of face parsing as the data sets name them, how to convert labels, and what a mirrored picture swaps.

`l_` and `r_` are the subject's left and right, as in CelebAMask-HQ: in the label maps published with MaskGAN (samples
of github.com/switchablenorms/CelebAMask-HQ) `l_eye` lies on the picture's right. The other sets do not say whose left
they mean; they are taken the same way. `l_lip` and `u_lip` are the lower and the upper lip.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...errors import UsageError
from ...render.conventions import CELEBAMASK_19, EASYPORTRAIT_9, LAPA_11, class_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "CELEBAMASK_19",
    "EASYPORTRAIT_9",
    "EASYPORTRAIT_FP_8",
    "EASYPORTRAIT_PS_2",
    "IBUG_11",
    "IBUG_14",
    "IGNORED",
    "LAPA_11",
    "conversion",
    "mirrored",
]

Classes = tuple[str, ...]

IBUG_11: Classes = LAPA_11
"""iBugMask has the classes of LaPa in the same order; its skin includes the scalp."""
IBUG_14: Classes = (*LAPA_11, "l_ear", "r_ear", "eye_g")
"""The classes of the larger RTNet models."""
EASYPORTRAIT_FP_8: Classes = tuple(name for name in EASYPORTRAIT_9 if name != "person")
"""EasyPortrait's second version, face parsing: the person is background."""
EASYPORTRAIT_PS_2: Classes = ("background", "person")
"""EasyPortrait's second version, portrait segmentation."""
IGNORED = 255
"""Label of pixels that neither losses nor metrics count."""

_SIDES = {"l_": "r_", "r_": "l_"}


def conversion(source: Classes, target: Classes) -> NDArray[np.uint8]:
    """(256,) table that turns labels of `source` into labels of `target`: `table[labels]`; 255 stays 255.

    From CelebAMask-HQ to EasyPortrait (either version) and LaPa, from EasyPortrait's first version to its second, and
    from iBugMask's 14 to its 11 classes, where ears become background and glasses skin. Ears, neck, clothes and hair
    belong to EasyPortrait's person. The mouth's inside, in which CelebAMask-HQ does not tell teeth from the rest, does
    too, so `teeth` never comes out of that conversion; a beard, skin to CelebAMask-HQ, stays skin although to
    EasyPortrait it is none. Raises UsageError for pairs of classes without conversion.
    """
    if source == target:
        names = list(source)
    elif source == CELEBAMASK_19 and target in (EASYPORTRAIT_9, LAPA_11):
        names = [target[index] for index in class_table(target)[: len(source)]]
    elif source == CELEBAMASK_19 and target in (EASYPORTRAIT_FP_8, EASYPORTRAIT_PS_2):
        return np.asarray(conversion(EASYPORTRAIT_9, target)[conversion(source, EASYPORTRAIT_9)])
    elif source == EASYPORTRAIT_9 and target == EASYPORTRAIT_FP_8:
        names = ["background" if name == "person" else name for name in source]
    elif source == EASYPORTRAIT_9 and target == EASYPORTRAIT_PS_2:
        names = ["background" if name == "background" else "person" for name in source]
    elif source == IBUG_14 and target == IBUG_11:
        names = [{"l_ear": "background", "r_ear": "background", "eye_g": "skin"}.get(name, name) for name in source]
    else:
        raise UsageError(f"labels of {len(source)} classes {source[:3]}… cannot be converted to {target[:3]}…")
    table = np.full(256, IGNORED, np.uint8)
    table[: len(source)] = [target.index(name) for name in names]
    return table


def mirrored(classes: Classes) -> list[int]:
    """For every class the index of the one it becomes when the picture is mirrored: left and right change places.

    A channel order as well as a look-up table, because swapping twice changes nothing.
    """
    partners = (name if name == "l_lip" else _SIDES.get(name[:2], name[:2]) + name[2:] for name in classes)
    return [classes.index(partner) if partner in classes else own for own, partner in enumerate(partners)]
