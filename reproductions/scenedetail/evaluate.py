"""What SceneDetail takes out of pictures it has never seen, against the input and OpenCV's non-local means.

    python -m reproductions.scenedetail.evaluate --write

The pictures are the middles of the validation split of the faceless backgrounds (`../shared/data`, or FACEWRIGHT_DATA).
Each kind of damage is drawn anew for every picture from a fixed seed. The last line is the time of a picture of 20
megapixels.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from facewright import create
from facewright.data.detection import load_backgrounds
from facewright.degrade import apply, sample
from facewright.metrics import gmsd, psnr

from .. import common

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Picture = NDArray[np.uint8]

BIG = (4000, 5000)


def noisy(sigma: float) -> Callable[[Picture, np.random.Generator], Picture]:
    """Gaussian noise of a strength in grey levels."""
    return lambda image, rng: np.clip(np.rint(image + rng.normal(0, sigma, image.shape)), 0, 255).astype(np.uint8)


def compressed(quality: int) -> Callable[[Picture, np.random.Generator], Picture]:
    """JPEG of a quality."""

    def damage(image: Picture, rng: np.random.Generator) -> Picture:
        _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)[..., ::-1].copy()

    return damage


def screened(image: Picture, rng: np.random.Generator) -> Picture:
    """A print screen of 45 degrees, light enough to see the picture."""
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    pitch = rng.uniform(3, 6)
    along, across = (rows + columns) / np.sqrt(2), (rows - columns) / np.sqrt(2)
    dots = np.cos(2 * np.pi * along / pitch) * np.cos(2 * np.pi * across / pitch)
    return np.clip(np.rint(image + 30 * dots[..., None]), 0, 255).astype(np.uint8)


def preset(name: str) -> Callable[[Picture, np.random.Generator], Picture]:
    """A degradation preset of the package."""
    return lambda image, rng: apply(image, sample(name, rng, len(image)))


DAMAGES: dict[str, Callable[[Picture, np.random.Generator], Picture]] = {
    "noise 5": noisy(5),
    "noise 15": noisy(15),
    "noise 25": noisy(25),
    "JPEG 50": compressed(50),
    "JPEG 20": compressed(20),
    "print screen": screened,
    "half": preset("half"),
    "soft": preset("soft"),
    "clean": lambda image, rng: image,
}


def square(image: Picture) -> Picture:
    """The middle of a picture, as wide as high."""
    side = min(image.shape[:2])
    top, left = ((length - side) // 2 for length in image.shape[:2])
    return np.ascontiguousarray(image[top : top + side, left : left + side])


def means(image: Picture) -> Picture:
    """Non-local means at its usual strength."""
    return np.asarray(cv2.fastNlMeansDenoisingColored(image, None, 5, 5, 7, 21), np.uint8)


def table(pictures: list[Picture]) -> list[str]:
    """A row per damage: PSNR and GMSD of the input and of both methods."""
    cleaner: Any = create("scenedetail", pretrained=True)
    lines = [
        "| damage | input, dB | non-local means | SceneDetail | GMSD input | non-local means | SceneDetail |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, damage in DAMAGES.items():
        rows = []
        for number, truth in enumerate(pictures):
            given = damage(truth, np.random.default_rng((5, number)))
            shown = (given, means(given), cleaner.enlarge(given))
            rows.append(
                [min(60.0, psnr(s, truth, data_range=255)) for s in shown]
                + [gmsd(s, truth, data_range=255) for s in shown]
            )
        numbers = np.mean(rows, 0)
        cells = [f"{v:.2f}" for v in numbers[:3]] + [f"{v:.3f}" for v in numbers[3:]]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def seconds_of_a_large_picture() -> float:
    """Of a picture of 20 megapixels, after a warm-up."""
    cleaner: Any = create("scenedetail", pretrained=True)
    image = np.random.default_rng(0).integers(0, 256, (*BIG, 3), np.uint8)
    cleaner.enlarge(image[:512, :512])
    start = time.perf_counter()
    cleaner.enlarge(image)
    return time.perf_counter() - start


def main() -> None:
    parser = common.options(__doc__, quick="", arms=False)
    parser.add_argument("--count", type=int, default=30, help="pictures")
    options = parser.parse_args()
    common.begin(options)
    pictures = [square(picture) for picture in load_backgrounds("val")[: options.count]]
    lines = table(pictures)
    lines += ["", f"{len(pictures)} pictures. 20 megapixels: {seconds_of_a_large_picture():.0f} s."]
    page = "\n".join(lines)
    head = "# SceneDetail: what is not a face\n\n" + (__doc__ or "").partition("\n\n")[2].rstrip() + "\n\n"
    common.finish(options, "scenedetail", head + page, ["scenedetail"], people=False, given=f"--count {options.count}")


if __name__ == "__main__":
    main()
