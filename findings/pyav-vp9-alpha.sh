#!/usr/bin/env bash
# A VP9 film with transparency is decoded without it, unless another decoder is asked for by name.
# Guess before the run: the stream says alpha_mode=1, so the frames have an alpha plane.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet av==18.1.0 numpy==2.4.6
cd "$place"
venv/bin/python - <<'PYTHON'
import av
import numpy as np

picture = np.zeros((64, 64, 4), np.uint8)
picture[..., 0], picture[:, :32, 3], picture[:, 32:, 3] = 200, 255, 60
with av.open("film.webm", "w") as out:
    stream = out.add_stream("libvpx-vp9", rate=10)
    stream.width = stream.height = 64
    stream.pix_fmt = "yuva420p"
    for _ in range(3):
        frame = av.VideoFrame.from_ndarray(picture, format="rgba").reformat(format="yuva420p")
        for packet in stream.encode(frame):
            out.mux(packet)
    for packet in stream.encode():
        out.mux(packet)

with av.open("film.webm") as film:
    says = film.streams.video[0].metadata.get("alpha_mode") or film.streams.video[0].metadata.get("ALPHA_MODE")
    default = next(film.decode(video=0)).format.name
with av.open("film.webm") as film:
    decoder = av.CodecContext.create("libvpx-vp9", "r")
    frames = [f for packet in film.demux(video=0) for f in decoder.decode(packet)]
print("PyAV", av.__version__, "alpha_mode", says, "default decoder:", default, "libvpx-vp9:", frames[0].format.name)
assert says == "1", says
assert frames[0].format.name == "yuva420p", frames[0].format.name
assert default == "yuv420p", f"changed: the default decoder gives {default}"
print("as seen before: the default decoder drops the transparency that the stream announces")
PYTHON
