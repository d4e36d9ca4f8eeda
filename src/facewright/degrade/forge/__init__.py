"""Forgeries made at home, for teaching and testing detectors; each knows its mask, its tool and its parents."""

from .blend import blend, mix, transfer_colour
from .morph import morph, warp
from .record import Forgery
from .regions import Region, region_mask
from .resynthesis import change_map, resynthesise
from .self_blended import self_blended
from .storage import Storage, stored
from .swap import look_alikes, splice, swap

__all__ = [
    "Forgery",
    "Region",
    "Storage",
    "blend",
    "change_map",
    "look_alikes",
    "mix",
    "morph",
    "region_mask",
    "resynthesise",
    "self_blended",
    "splice",
    "stored",
    "swap",
    "transfer_colour",
    "warp",
]
