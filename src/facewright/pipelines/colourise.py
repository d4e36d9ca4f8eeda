"""Photos without colours, coloured: what a network invents, at the lightness of the photo."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..io.provenance import Provenance, xmp_packet

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..io.image import Photo
    from ..tasks.colourise import ColouriseOptions, Colouriser
    from ..tasks.declare import NetworkChoice, Networks, Task


@dataclass(frozen=True, slots=True, eq=False)
class Colourised:
    """A coloured photo, and what was done."""

    image: Photo
    model: str
    checkpoint: str | None
    options: ColouriseOptions

    @property
    def summary(self) -> str:
        """One line for people."""
        return f"coloured by {self.model}; the colours are invented"

    def notes(self, target: str | Path | None = None, *, keep_gps: bool = True) -> tuple[str, ...]:
        """What reading had to change, and what a file at `target` cannot hold."""
        lost = () if target is None else self.image.not_kept(target, keep_gps=keep_gps)
        return (*self.image.notes, *lost)

    def report(self, target: str | Path | None = None, *, keep_gps: bool = True) -> dict[str, Any]:
        """Everything but the pixels, ready for JSON; with what the file at `target` cannot hold among the notes."""
        return {
            "source": Path(self.image.source).name,
            "size": [self.image.width, self.image.height],
            "notes": list(self.notes(target, keep_gps=keep_gps)),
            "summary": self.summary,
            "options": {"strength": self.options.strength},
            "models": [self.model],
        }

    def save(
        self,
        path: str | Path,
        *,
        overwrite: bool = False,
        quality: int = 95,
        provenance: bool = True,
        keep_gps: bool = True,
    ) -> Path:
        """Write it; that its colours were made by a network is recorded in XMP."""
        from .. import __version__

        record = Provenance(
            version=__version__,
            action="coloured",
            models=(self.model,),
            checkpoint=self.checkpoint,
            parameters={"strength": self.options.strength},
        )
        packet = xmp_packet(record, self.image.xmp) if provenance else None
        return self.image.save(path, overwrite=overwrite, quality=quality, xmp=packet, keep_gps=keep_gps)


def load(session: Networks, task: Task, choice: NetworkChoice) -> Callable[[Photo, ColouriseOptions], Colourised]:
    """The network as a callable of photos."""
    network = session.chosen(task, choice)

    def colourise(photo: Photo, options: ColouriseOptions) -> Colourised:
        image = coloured(photo, network, options.strength)
        return Colourised(image, network.slug, network.weights_sha256, options)

    return colourise


def coloured(photo: Photo, network: Colouriser, strength: float = 1.0) -> Photo:
    """A photo with the colours a network invents, blended with its own look.

    A grey photo becomes one of three channels in sRGB, at its own bit depth; the others keep colour space and depth.
    """
    wide = _with_channels(photo)
    grey = wide.rgb()
    change = network.colourise(grey).astype(np.float32) - grey
    whole = np.ones(grey.shape[:2], np.float32)
    return wide.patched((0, 0, wide.width, wide.height), grey + strength * change, whole, keep_grey=False)


def _with_channels(photo: Photo) -> Photo:
    """A photo of three channels; one of a single channel loses its profile, which is of grey, and becomes sRGB."""
    if photo.pixels.shape[2] == 3:
        return photo
    rgb = photo.rgb()
    if photo.bit_depth == 8:
        return replace(photo, pixels=rgb, icc=None)
    fine = photo.pixels.astype(np.float32) / 257  # what lies below eight bits goes along with the converted tone
    pixels = np.rint((rgb + (fine - np.rint(fine))) * 257).clip(0, 65535).astype(np.uint16)
    return replace(photo, pixels=pixels, icc=None)
