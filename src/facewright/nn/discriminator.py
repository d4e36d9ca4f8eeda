"""A small patch discriminator for restorers trained on few cores."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import leaky_relu, pixel_unshuffle
from torch.nn.utils.parametrizations import spectral_norm


class PatchDiscriminator(nn.Module):
    """Scores overlapping patches as real or restored (Isola et al. 2017), spectrally normalised (Miyato et al. 2018).

    (N, 3, S, S) in [-1, 1] to logits (N, 1, S/16, S/16) and the features of every stage, for feature matching. The
    picture is folded 2x2 into channels first: a quarter of the work at nearly the same receptive field.
    """

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        widths = [12, width, 2 * width, 4 * width]
        self.stages = nn.ModuleList(
            spectral_norm(nn.Conv2d(a, b, 4, stride=2, padding=1)) for a, b in zip(widths, widths[1:])
        )
        self.mix = spectral_norm(nn.Conv2d(4 * width, 4 * width, 3, padding=1))
        self.score = spectral_norm(nn.Conv2d(4 * width, 1, 3, padding=1))

    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        x = pixel_unshuffle(image, 2)
        features = []
        for stage in self.stages:
            x = leaky_relu(stage(x), 0.2)
            features.append(x)
        x = leaky_relu(self.mix(x), 0.2)
        features.append(x)
        return self.score(x), features
