"""VGG-16 and VGG-19 as feature extractors, with the tensor names of torchvision.

Source: Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition" (ICLR 2015,
arXiv 1409.1556), configurations D and E. Only the convolutional part; ImageNet weights are the user's own file
(`vgg16-397923af.pth`, `vgg19-dcbb9e9d.pth` of PyTorch's model zoo).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..errors import UsageError, WeightsError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CONVOLUTIONS = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Convolutions in each of the five blocks, by depth."""
WIDTHS = (64, 128, 256, 512, 512)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class VGG(nn.Module):
    """The convolutional part of a VGG up to the layer `until`, such as "conv5_4", "relu3_3" or "pool5".

    forward: image (N, 3, H, W) RGB in [−1, 1] (ImageNet's mean and deviation are applied inside) and the names of
    layers, to their outputs in the order of the network. Block b works at 1/2^(b−1) of the size. Raises UsageError for
    an unknown depth or layer.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, depth: int = 19, *, until: str = "pool5") -> None:
        super().__init__()
        if depth not in CONVOLUTIONS:
            raise UsageError(f"there is no VGG-{depth} here; choose {' or '.join(map(str, CONVOLUTIONS))}")
        layers = _layers(CONVOLUTIONS[depth])
        if until not in layers:
            raise UsageError(f"VGG-{depth} has no layer {until!r}; the last are {', '.join(list(layers)[-5:])}")
        self.names = list(layers)[: list(layers).index(until) + 1]
        self.features = nn.Sequential(*(layers[name] for name in self.names))
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor, layers: Sequence[str]) -> list[Tensor]:
        unknown = set(layers) - set(self.names)
        if unknown:
            raise UsageError(f"this VGG ends at {self.names[-1]} and has no layer {', '.join(sorted(unknown))}")
        x = ((image + 1) / 2 - self.mean) / self.std
        kept = []
        for name, layer in zip(self.names, self.features):
            x = layer(x)
            if name in layers:
                kept.append(x)
        return kept

    def load_torchvision(self, state: Mapping[str, Tensor]) -> None:
        """Take the `features.N.weight` and `.bias` of a torchvision checkpoint; the classifier is ignored.

        Raises WeightsError naming the first tensor that is missing or of another shape.
        """
        own = self.features.state_dict()
        for key, value in own.items():
            found = state.get(f"features.{key}")
            if found is None or found.shape != value.shape:
                what = "is missing" if found is None else f"has shape {tuple(found.shape)}"
                raise WeightsError(f"these are not the weights of this VGG: features.{key} {what}; take torchvision's")
        self.features.load_state_dict({key: state[f"features.{key}"] for key in own})


def _layers(convolutions: Sequence[int]) -> dict[str, nn.Module]:
    """All layers by name, in order."""
    layers: dict[str, nn.Module] = {}
    c_in = 3
    for block, (count, width) in enumerate(zip(convolutions, WIDTHS), start=1):
        for index in range(1, count + 1):
            layers[f"conv{block}_{index}"] = nn.Conv2d(c_in, width, 3, 1, 1)
            layers[f"relu{block}_{index}"] = nn.ReLU()
            c_in = width
        layers[f"pool{block}"] = nn.MaxPool2d(2, 2)
    return layers
