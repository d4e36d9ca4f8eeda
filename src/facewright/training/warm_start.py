"""Training that goes on with a larger network, or begins with a part of another one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from ..errors import UsageError, WeightsError

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


def copy_backbone(model: nn.Module, slug: str, weights: str | None = None) -> None:
    """Fill every backbone of `model` with that of a trained system; both are `MobileNetV3`.

    The source is no shallower. `weights` as in `System.from_pretrained`. Raises WeightsError where they do not fit.
    """
    from ..nn.mobilenetv3 import MobileNetV3
    from ..systems.base import system_class

    trained = system_class(slug).from_pretrained(weights)
    sources = [part for part in trained.modules() if isinstance(part, MobileNetV3)]
    targets = [part for part in model.modules() if isinstance(part, MobileNetV3)]
    if not sources or not targets:
        raise WeightsError(f"there is no backbone to copy from {slug}")
    state = sources[0].state_dict()
    for target in targets:
        wanted = target.state_dict()
        missing = [key for key in wanted if key not in state or state[key].shape != wanted[key].shape]
        if missing:
            raise WeightsError(f"the backbone of {slug} does not fit: {', '.join(missing[:3])}")
        target.load_state_dict({key: state[key] for key in wanted})


def frozen_part(backbone: nn.Module, count: int) -> nn.ModuleList:
    """The first `count` modules of a backbone's `features`, whose weights from now on get no gradient.

    They cost the most, for their maps are the largest. Keep what is returned in evaluation mode while training. Raises
    UsageError for a backbone without `features`, or without so many.
    """
    features = getattr(backbone, "features", None)
    if count and (features is None or not 0 < count <= len(features)):
        raise UsageError(f"this backbone has no {count} modules that could be frozen")
    part = nn.ModuleList(features[:count] if features is not None else [])
    part.requires_grad_(False)
    return part
