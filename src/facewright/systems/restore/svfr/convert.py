"""The published parts of SVFR in one state dict: U-Net, tokens, recogniser, and Stable Video Diffusion's auto-encoder.

They are published as four files: `unet.pth` and `id_linear.pth` with the names of their modules, which tell them apart,
insightface's IResNet-100 (`insightface_glint360k.pth`), and the auto-encoder of stable-video-diffusion-img2vid-xt. One
is given, the others beside it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ....nn.sd import from_diffusers
from ....nn.svd import from_diffusers_decoder
from ....weights.published import load_converted
from ....weights.store import load_published
from .network import SVFR, SVFRConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

FIRST_STAGE = "vae."
KEYS = (
    r"down_blocks\.0\.resnets\.0\.temporal_res_block\.conv1\.",
    r"add_embedding\.linear_1\.",
    r"project1024\.",
)
"""Beginnings of keys of the parts together; no other network has them all."""
_RECOGNISER = ("conv1.", "bn1.", "prelu.", "layer1.", "layer2.", "layer3.", "layer4.")
_BEHIND_IT = ("bn2.", "fc.", "features.")
_PERSON = ("project1024.", "final_norm.")


def convert_published(state: Mapping[str, Tensor], config: SVFRConfig | None = None) -> dict[str, Tensor]:
    """The published parts, in one, as the state dict of `SVFR`.

    The auto-encoder's keys begin with `vae.`; the recogniser's last layers, which make its embedding, are left out.
    """
    config = config or SVFRConfig()
    first = {k.removeprefix(FIRST_STAGE): v for k, v in state.items() if k.startswith(FIRST_STAGE)}
    found = {f"autoencoder.{key}": value for key, value in from_diffusers_decoder(first).items()}
    unet = {}
    for key, value in state.items():
        if key.startswith(FIRST_STAGE) or key.startswith(_BEHIND_IT):
            continue
        if key.startswith(_PERSON):
            found[f"person.{key}"] = value
        elif key.startswith(_RECOGNISER):
            found[f"recogniser.{key}"] = value
        else:
            unet[key] = value
    return found | {f"unet.{key}": value for key, value in from_diffusers(unet, config.unet).items()}


def import_published(
    state: Mapping[str, Tensor],
    *,
    beside: tuple[str | Path, ...] = (),
    autoencoder: str | Path | Mapping[str, Tensor] | None = None,
) -> SVFR:
    """A network holding all parts; WeightsError where something is missing or does not fit.

    `beside` are the files of further parts, `autoencoder` that of Stable Video Diffusion's, whose keys are its own.
    """
    everything = dict(state)
    for file in beside:
        everything |= load_published(file)
    if autoencoder is not None:
        own = load_published(autoencoder) if isinstance(autoencoder, str | Path) else autoencoder
        everything |= {FIRST_STAGE + key: value for key, value in own.items()}
    model = SVFR()
    wanted = "SVFR with its recogniser and Stable Video Diffusion's auto-encoder (`vae.`)"
    load_converted(model, convert_published(everything), state, wanted)
    return model.eval()
