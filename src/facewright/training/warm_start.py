"""Training that goes on with a larger network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import WeightsError

if TYPE_CHECKING:
    from ..systems.base import System


def grow(model: System, source: str, *new: str) -> None:
    """Fill `model` with the weights in `source` (see `System.from_pretrained`) of a network that only lacks `new`.

    `new` are parts of the names of the parameters that keep their fresh values. Raises WeightsError where others are
    missing or do not fit.
    """
    state = type(model).from_pretrained(source).state_dict()
    missing, unexpected = model.load_state_dict(state, strict=False)
    strange = [key for key in missing if not any(part in key for part in new)] + unexpected
    if strange:
        raise WeightsError(f"{source} cannot be grown to this configuration: {', '.join(strange[:4])} do not match")
