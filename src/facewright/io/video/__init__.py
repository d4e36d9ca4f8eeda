"""Videos in and out: frames are decoded, handed to a stage and encoded, in parallel and with constant memory.

What is kept: every frame's timestamp (also at a variable frame rate), sound, subtitles, fonts and chapters as they are
where the target container can hold them (converted, or left out with a note, where it cannot), tags, colour range and
colour space (used for the RGB conversion, too), HDR10's mastering display and light level, transparency where the codec
has it, the pixel aspect ratio, and a bit depth above eight. Rotation is applied to the pixels, so that faces stand
upright, and the output carries no rotation any more. Interlaced videos are deinterlaced.

The encoded picture has no B-frames, which makes decoding and presentation order equal and therefore timestamps exact
and finished segments joinable without encoding again:

| video | MP4, MOV, MKV | WebM |
| --- | --- | --- |
| ordinary | H.264, 4:2:0 (an odd width or height: 4:4:4), eight or ten bits | VP9, eight bits |
| PQ or HLG | HEVC, ten bits | VP9, eight bits |
| with transparency | MOV: ProRes 4444; MKV: VP9, with more than eight bits ProRes 4444; MP4: none | VP9 |

The rooms of this package, in the order of a video's way: `read` opens and decodes, `probe` asks; `fields` deinterlaces;
`colour` and `hdr` go between YUV and RGB; `encode` writes segments; `job` keeps them; `tracks` carries sound, subtitles
and fonts; `mux` joins everything; `process` runs it.
"""

from __future__ import annotations

from .mux import suffix_for
from .probe import is_video, probe
from .process import check_target, process_video
from .records import (
    DEINTERLACE,
    PRESETS,
    TARGET_FORMATS,
    Deinterlace,
    Frame,
    FrameStage,
    PerFrame,
    VideoInfo,
    VideoReport,
)

__all__ = [
    "DEINTERLACE",
    "PRESETS",
    "TARGET_FORMATS",
    "Deinterlace",
    "Frame",
    "FrameStage",
    "PerFrame",
    "VideoInfo",
    "VideoReport",
    "check_target",
    "is_video",
    "probe",
    "process_video",
    "suffix_for",
]
