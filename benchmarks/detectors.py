"""Time and memory of the shipped detector on one picture, against the same network without care and against YuNet.

    python -m benchmarks.detectors [--yunet face_detection_yunet.onnx] [--size 640] [--threads 1] [--write FILE]

Every form runs in a process of its own, so that its peak of memory is its own; time is the median of processor seconds.
YuNet is OpenCV's `FaceDetectorYN`; its ONNX file is not ours to ship and its row is left out without one.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from reproductions import common

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Detect = Callable[[NDArray[np.uint8]], int]

FORMS = {
    "detect": "MOS compact, `detect`",
    "one-pass": "the same without the second look",
    "eager": "the same network, eager float32, one pass",
    "yunet": "YuNet (OpenCV)",
}


def picture(size: int) -> NDArray[np.uint8]:
    """scikit-image's public-domain portrait, (size, size, 3) uint8 RGB."""
    from skimage import data

    return np.asarray(cv2.resize(data.astronaut(), (size, size), interpolation=cv2.INTER_AREA), np.uint8)


def shipped(*, refine: bool) -> Detect:
    """What `MOS.detect` does: norms folded, channels last, pose for the chosen anchors only."""
    from facewright.systems.detect.mos.network import MOS

    model = MOS.from_pretrained()
    return lambda image: len(model.detect_batch([image], refine=refine)[0])


def eager() -> Detect:
    """The network called as it is: float32, channels first, norms apart, every head at every anchor, then NMS."""
    import torch

    from facewright.nn.boxes import decode_boxes, make_anchors, nms
    from facewright.systems.detect.mos.network import ANCHOR_SIZES, MOS, NMS_IOU, STRIDES

    model: Any = MOS.from_pretrained().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]

    @torch.no_grad()
    def run(image: NDArray[np.uint8]) -> int:
        out = model(model.normalise(image[None]).contiguous())
        scores = out.logits[0].softmax(-1)[:, 1]
        kept = scores > 0.5
        anchors = make_anchors(image.shape[0], image.shape[1], STRIDES, ANCHOR_SIZES)
        boxes = decode_boxes(out.boxes[0][kept], anchors[kept])
        return len(nms(boxes, scores[kept], NMS_IOU))

    return run


def yunet(path: str) -> Detect:
    detector = cv2.FaceDetectorYN.create(path, "", (320, 320), 0.5)

    def run(image: NDArray[np.uint8]) -> int:
        detector.setInputSize(image.shape[1::-1])
        _, faces = detector.detect(image[..., ::-1].copy())
        return 0 if faces is None else len(faces)

    return run


def measure(form: str, args: argparse.Namespace) -> dict[str, float]:
    """Milliseconds, MiB above what the imports take, and faces found, of one form in this process."""
    import torch

    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    image = picture(args.size)
    detect = yunet(args.yunet) if form == "yunet" else eager() if form == "eager" else shipped(refine=form == "detect")
    before = peak_mb()
    found = detect(image)
    times = [seconds(detect, image) for _ in range(args.repeats)]
    return {"ms": 1000 * statistics.median(times), "mb": peak_mb() - before, "peak": peak_mb(), "faces": found}


def seconds(detect: Detect, image: NDArray[np.uint8]) -> float:
    """Processor seconds of one call: other work on the machine does not count."""
    began = time.process_time()
    detect(image)
    return time.process_time() - began


def peak_mb() -> float:
    """The most memory the process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measured_apart(form: str, args: argparse.Namespace) -> dict[str, float]:
    """`measure` in a fresh process."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.detectors",
        "--form",
        form,
        "--size",
        str(args.size),
        "--threads",
        str(args.threads),
    ]
    command += ["--repeats", str(args.repeats), *(["--yunet", args.yunet] if args.yunet else [])]
    environment = os.environ | {"OMP_NUM_THREADS": str(args.threads)}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def why_no_yunet(path: str | None) -> str | None:
    """The reason YuNet cannot run, or None."""
    if path is None:
        return "no ONNX file was given (--yunet)"
    if not Path(path).is_file():
        return f"there is no file {path}"
    return None if hasattr(cv2, "FaceDetectorYN") else "this OpenCV has no FaceDetectorYN"


def main() -> None:
    parser = common.options(__doc__, quick="", arms=False, threads=1)
    parser.add_argument("--yunet", help="ONNX file of YuNet, from OpenCV's model zoo")
    parser.add_argument("--size", type=int, default=640)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--form", choices=FORMS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.form:
        print(json.dumps(measure(args.form, args)))
        return
    missing = why_no_yunet(args.yunet)
    rows = []
    for form, name in FORMS.items():
        if form == "yunet" and missing:
            print(f"YuNet is skipped: {missing}")
            continue
        m = measured_apart(form, args)
        rows.append(f"| {name} | {m['ms']:.0f} | {m['mb']:.0f} | {m['peak']:.0f} | {m['faces']:.0f} |")
        print(rows[-1], flush=True)
    lines = [
        f"One {args.size} × {args.size} picture with one face, {args.threads} thread(s): median processor time of",
        f"{args.repeats} runs, memory added by running and the process's peak in MiB, faces found at 0.5.",
        "",
        "| | ms | added MiB | peak MiB | faces |",
        "| --- | --- | --- | --- | --- |",
        *rows,
    ]
    common.finish(args, "detector-speed", lines, ["mos"], people=False)


if __name__ == "__main__":
    main()
