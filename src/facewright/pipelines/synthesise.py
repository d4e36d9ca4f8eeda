"""Pictures of people who do not exist."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..io.image import read
from ..io.provenance import Provenance, xmp_packet

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from ..tasks.declare import NetworkChoice, Networks, Task
    from ..tasks.synthesise import SynthesiseOptions


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Made pictures, (N, S, S, 3) uint8 RGB, invisibly marked; `model` and `seed` make them again."""

    images: NDArray[np.uint8]
    model: str
    options: SynthesiseOptions

    def names(self, folder: str | Path) -> list[Path]:
        """The files `save` writes."""
        seed, count = self.options.seed, len(self.images)
        return [Path(folder) / f"{self.model}-{seed}-{number:0{len(str(count))}d}.png" for number in range(count)]

    def save(self, folder: str | Path, *, overwrite: bool = False) -> list[Path]:
        """Write every picture as PNG with a record in XMP that it was made; returns the files."""
        from .. import __version__

        Path(folder).mkdir(parents=True, exist_ok=True)
        files = self.names(folder)
        parameters = {"seed": self.options.seed, "truncation": self.options.truncation}
        record = Provenance(version=__version__, action="synthesised", models=(self.model,), parameters=parameters)
        for file, image in zip(files, self.images):
            read(image).save(file, overwrite=overwrite, xmp=xmp_packet(record))
        return files

    def report(self) -> dict[str, Any]:
        """What makes them again, ready for JSON."""
        return {"model": self.model, "seed": self.options.seed, "files": [file.name for file in self.names(".")]}


def load(session: Networks, task: Task, choice: NetworkChoice) -> Callable[[SynthesiseOptions], Samples]:
    """The generator as a callable of options."""
    generator = session.chosen(task, choice)

    def make(options: SynthesiseOptions) -> Samples:
        images = generator.sample(options.count, seed=options.seed, truncation=options.truncation)
        return Samples(images, generator.slug, options)

    return make
