"""Rendered pictures as files: one picture as several named byte strings, kept in a folder or in tar shards.

Both layouts use the same names: a number of eight digits, then what it is (`00000012.rgb.png`, `00000012.json`).
Tar shards are read by webdataset and by everything that reads tar. A file is there completely or not at all.
"""

from __future__ import annotations

import io
import json
import tarfile
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from ..errors import UsageError
from ..io.atomic import atomic_output

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from .renderer import Rendered

TRUTH = "json"


def files_of(picture: Rendered, what: Iterable[str]) -> dict[str, bytes]:
    """The bytes of a picture's files by suffix; `json` with the truth is always among them and last.

    `rgb`, `clean`, `albedo` (sRGB-coded) and `normals` ((n + 1) / 2) are PNG; `mask`, `easyportrait` and `lapa` are PNG
    of class numbers; `depth` is a PNG of 16 bits in tenths of a millimetre, 0 where nothing is; `vertices` is .npy in
    metres; `landmarks` draws the 68 points, hidden ones in red. Raises UsageError for anything else.
    """
    files = {_suffix(name): _WRITERS[name](picture) for name in check_what(what)}
    return files | {TRUTH: json.dumps(picture.truth()).encode()}


def check_what(what: Iterable[str]) -> tuple[str, ...]:
    """The names without repetition. Raises UsageError for one that cannot be written, before any work is done."""
    names = tuple(dict.fromkeys(name.strip() for name in what if name.strip()))
    unknown = [name for name in names if name not in _WRITERS]
    if unknown or not names:
        raise UsageError(f"cannot write {', '.join(unknown) or 'nothing'}; choose from {', '.join(_WRITERS)}")
    return names


def key_of(index: int) -> str:
    return f"{index:08d}"


def write_folder(folder: Path, index: int, files: Mapping[str, bytes]) -> None:
    """Write a picture's files; the truth comes last, so a picture whose truth is there is complete."""
    for suffix, content in files.items():
        with atomic_output(folder / f"{key_of(index)}.{suffix}", overwrite=True) as path:
            path.write_bytes(content)


def is_in_folder(folder: Path, index: int) -> bool:
    return (folder / f"{key_of(index)}.{TRUTH}").exists()


def shard_path(folder: Path, shard: int) -> Path:
    return folder / f"faces-{shard:06d}.tar"


def write_shard(path: Path, samples: Iterable[tuple[int, Mapping[str, bytes]]]) -> None:
    """Write the files of samples (index, files by suffix) as one tar; equal samples give equal bytes."""
    with (
        atomic_output(path, overwrite=True) as temporary,
        tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for index, files in samples:
            for suffix, content in files.items():
                member = tarfile.TarInfo(f"{key_of(index)}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def png(values: NDArray[Any]) -> bytes:
    """(H, W) or (H, W, 3) RGB, uint8 or uint16, as PNG."""
    ordered = values[..., ::-1] if values.ndim == 3 else values
    _, encoded = cv2.imencode(".png", np.ascontiguousarray(ordered))
    return encoded.tobytes()


def drawn_landmarks(picture: Rendered) -> NDArray[np.uint8]:
    """The picture without camera effects with its 68 points, to a sixteenth of a pixel; hidden ones are red."""
    canvas = np.ascontiguousarray(picture.clean)
    for (x, y), visible in zip(picture.landmarks68.xy.tolist(), picture.landmarks68.visible.tolist()):
        place = (round(x * 16), round(y * 16))
        cv2.circle(canvas, place, 16, (0, 255, 0) if visible else (255, 0, 0), -1, cv2.LINE_AA, shift=4)
    return canvas


def _suffix(name: str) -> str:
    return f"{name}.npy" if name == "vertices" else f"{name}.png"


def _depth(picture: Rendered) -> bytes:
    tenths = np.where(np.isfinite(picture.depth), picture.depth * 1e4, 0)
    return png(np.rint(tenths.clip(0, 65535)).astype(np.uint16))


def _npy(values: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()


def _shown(values: NDArray[np.floating]) -> bytes:
    return png(np.rint(values.clip(0, 1) * 255).astype(np.uint8))


def _albedo(picture: Rendered) -> bytes:
    from .skin import srgb_from_linear

    return _shown(srgb_from_linear(picture.albedo))


_WRITERS: Mapping[str, Callable[[Rendered], bytes]] = {
    "rgb": lambda p: png(p.rgb),
    "clean": lambda p: png(p.clean),
    "mask": lambda p: png(p.parsing19),
    "easyportrait": lambda p: png(p.easyportrait9),
    "lapa": lambda p: png(p.lapa11),
    "depth": _depth,
    "normals": lambda p: _shown((p.normals + 1) / 2),
    "albedo": _albedo,
    "vertices": lambda p: _npy(p.vertices),
    "landmarks": lambda p: png(drawn_landmarks(p)),
}
