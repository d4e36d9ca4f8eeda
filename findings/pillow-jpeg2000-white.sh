#!/usr/bin/env bash
# Pillow reads the brightest value of a 16-bit JPEG 2000 picture as black.
# Guess before the run: 65535 is scaled to 255, so white stays white.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet pillow==13.0.0 imagecodecs==2026.3.6 numpy==2.4.6
cd "$place"
venv/bin/python - <<'PYTHON'
import io

import imagecodecs
import numpy as np
import PIL
from PIL import Image


def through(value):
    picture = np.full((16, 16, 3), value, np.uint16)
    data = imagecodecs.jpeg2k_encode(picture, level=0, reversible=True, codecformat="jp2", colorspace=1)
    assert (imagecodecs.jpeg2k_decode(data) == picture).all(), "the file itself is lossless"
    opened = Image.open(io.BytesIO(data))
    return opened.mode, np.asarray(opened).reshape(-1, 3)[0].tolist()


seen = {value: through(value) for value in (0, 32768, 65279, 65535)}
print("Pillow", PIL.__version__, seen)
mode, white = seen[65535]
assert mode == "RGB", mode
assert seen[32768][1] == [128, 128, 128], seen
assert white == [0, 0, 0], f"changed: white is read as {white}"
print("as seen before: white (65535) is read as black")
PYTHON
