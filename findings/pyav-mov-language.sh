#!/usr/bin/env bash
# The language of a track, in the code that ISO 639-2 gives first for German, is lost in MOV without a word.
# Guess before the run: "deu" and "ger" are the same language in two code sets, and both are kept.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet av==18.1.0 numpy==2.4.6
cd "$place"
venv/bin/python - <<'PYTHON'
import av
import numpy as np


def language(code, suffix):
    name = f"film_{code}.{suffix}"
    with av.open(name, "w") as out:
        stream = out.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        stream.metadata["language"] = code
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            for packet in stream.encode(frame):
                out.mux(packet)
        for packet in stream.encode():
            out.mux(packet)
    with av.open(name) as film:
        return film.streams.video[0].metadata.get("language")


seen = {(suffix, code): language(code, suffix) for suffix in ("mov", "mp4") for code in ("eng", "ger", "deu", "swe")}
print("PyAV", av.__version__, seen)
assert seen[("mov", "eng")] == "eng" and seen[("mp4", "deu")] == "deu", seen
assert seen[("mov", "deu")] != "deu", "changed: MOV keeps deu"
print(f"as seen before: MOV turns deu into {seen[('mov', 'deu')]!r}, MP4 keeps it")
PYTHON
