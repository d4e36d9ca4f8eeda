"""Restore every photo of a folder with default options, by whichever build is installed.

    python reproductions/blind_builds/photos.py PHOTOS OUTPUT

It uses nothing but `facewright.restore`, so that an older build can run it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import facewright as fw


def main() -> None:
    photos, output = Path(sys.argv[1]), Path(sys.argv[2])
    output.mkdir(parents=True, exist_ok=True)
    for path in sorted(photos.iterdir()):
        target = output / f"{path.stem}.png"
        if target.exists():
            continue
        try:
            fw.restore(path, target)
        except fw.errors.FacewrightError as error:
            print(f"{path.name}: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
