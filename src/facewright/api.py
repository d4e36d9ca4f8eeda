"""The calls behind `import facewright as fw`; heavy modules are imported when a call needs them."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import UsageError
from .tasks.card import Card, cards, get_card

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .face import Face
    from .io.image import Photo
    from .metrics.calibration import ScoreCalibration
    from .pipelines.analyse import Analyser, FaceAnalysis
    from .pipelines.film import FilmReport
    from .pipelines.identity import FaceEmbedding, IdentityPipeline, Recogniser, Verification
    from .pipelines.restore import RestorePipeline, RestoreResult
    from .systems.base import Detector, Parser, QualityEstimator, System
    from .systems.quality.reasons import FaceQuality


def read(source: Any, *, page: int = 0, max_pixels: int = 200_000_000) -> Photo:
    """Read a photo from a path, bytes, a file, a PIL picture or an array; see `facewright.io.image.read`."""
    from .io.image import read as read_photo

    return read_photo(source, page=page, max_pixels=max_pixels)


def models(task: str | None = None) -> list[Card]:
    """The registered systems, optionally only those of one task."""
    return [card for card in cards().values() if task is None or card.task == task]


def create(
    name: str, *, pretrained: bool | str | Path = False, commercial: bool = False, preset: str | None = None
) -> System:
    """A system by its slug.

    `pretrained` is True for the default weights, or names a checkpoint, file, folder or hub repository; False gives
    fresh weights, of the paper's full size or of a `preset` such as "compact". `commercial=True` refuses weights whose
    licence does not allow commercial use (LicenceError).
    """
    from .systems.base import system_class
    from .weights.store import resolve

    cls = system_class(name)
    if pretrained is False:
        if commercial and cls.card().checkpoints:
            resolve(cls.card(), None, commercial=True)
        return cls(cls.preset(preset)) if preset else cls()
    return cls.from_pretrained(None if pretrained is True else pretrained, commercial=commercial)


@lru_cache(maxsize=2)
def load_detector(device: str = "auto") -> Detector:
    """The face detector on a device, loaded once."""
    detector: Any = create("mos", pretrained=True).to(_device(device))
    return detector  # type: ignore[no-any-return]


@lru_cache(maxsize=4)
def load_pipeline(
    model: str = "frgp", weights: str | None = None, device: str = "auto", dtype: str = "auto"
) -> RestorePipeline:
    """The restore pipeline with its networks on a device, loaded once.

    `device` is "auto" (CUDA when present), "cpu", "cuda" or "cuda:1"; `dtype` is "auto", "fp32" or "bf16".
    """
    import torch

    from .pipelines.restore import RestorePipeline

    if dtype not in ("auto", "fp32", "bf16"):
        raise UsageError(f"dtype {dtype!r} is not possible; choose auto, fp32 or bf16")
    if get_card(model).task != "restore":
        raise UsageError(f"{model} is no restorer; choose one of {', '.join(c.slug for c in models('restore'))}")
    where = _device(device)
    restorer: Any = create(model, pretrained=weights or True).to(where)
    restorer.precision = dtype
    if where.type == "cpu":
        restorer.to(memory_format=torch.channels_last)
    recogniser: Any
    recogniser, calibration = load_recogniser("sface", None, device)
    assessor: Any = None if hasattr(restorer, "assess") else create("frgp", pretrained=True).to(where)
    detector, parser = load_detector(device), load_parser(device=device)
    return RestorePipeline(detector, restorer, recogniser, calibration, assessor, parser)


@lru_cache(maxsize=4)
def load_identity(model: str = "sface", weights: str | None = None, device: str = "auto") -> IdentityPipeline:
    """The recogniser with its calibration, the detector and the quality estimator on a device, loaded once."""
    from .pipelines.identity import IdentityPipeline

    recogniser, calibration = load_recogniser(model, weights, device)
    return IdentityPipeline(load_detector(device), recogniser, calibration, load_quality(device=device))


@lru_cache(maxsize=4)
def load_recogniser(
    model: str, weights: str | None = None, device: str = "auto"
) -> tuple[Recogniser, ScoreCalibration | None]:
    """A system that embeds faces, on a device, and the calibration of its weights, if they have one; loaded once."""
    from .systems.base import Embedder, system_class

    if not issubclass(system_class(model), Embedder):
        raise UsageError(f"{model} is no recogniser; choose one of {', '.join(c.slug for c in models('recognise'))}")
    recogniser: Any = create(model, pretrained=weights or True).to(_device(device))
    return recogniser, _calibration(model, weights, recogniser.weights_sha256)


@lru_cache(maxsize=2)
def load_quality(model: str = "vitfiqa", weights: str | None = None, device: str = "auto") -> QualityEstimator:
    """The quality estimator and the restorer that estimates the damage, on a device, loaded once."""
    from .pipelines.quality import QualityRater

    estimator: Any = _of_task(model, "quality", weights).to(_device(device))
    assessor: Any = create("frgp", pretrained=True).to(_device(device))
    return QualityRater(estimator, assessor)


def _of_task(model: str, task: str, weights: str | None) -> System:
    if get_card(model).task != task:
        raise UsageError(f"{model} is not for that; choose one of {', '.join(c.slug for c in models(task))}")
    return create(model, pretrained=weights or True)


def _calibration(model: str, weights: str | None, sha256: str | None) -> ScoreCalibration | None:
    """The calibration beside weights in a folder, or the one that came with embedded weights; None without one."""
    from .metrics.calibration import ScoreCalibration
    from .pipelines.identity import CALIBRATION_FILE
    from .weights.store import embedded_path

    embedded = [c for c in get_card(model).checkpoints if c.file and c.sha256 == sha256]
    places = [embedded_path(checkpoint).with_suffix(".calibration.json") for checkpoint in embedded]
    if weights is not None:
        place = Path(weights)
        places.append((place if place.is_dir() else place.parent) / CALIBRATION_FILE)
    for path in places:
        if path.is_file():
            return ScoreCalibration.from_json(path.read_text(encoding="utf-8"), source=str(path))
    return None


def _device(name: str) -> Any:
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"unknown device {name!r}; choose auto, cpu or cuda") from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device {name!r} is not supported; choose auto, cpu or cuda")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"there is no device {name!r} here; use --device cpu")
    return device


@lru_cache(maxsize=2)
def load_analyser(parser: str = "segface", weights: str | None = None, device: str = "auto") -> Analyser:
    """Detector, landmarker and face parser on a device, loaded once; `weights` are the parser's."""
    from .pipelines.analyse import Analyser

    where = _device(device)
    landmarker: Any = _of_task("facewarp", "landmarks", None).to(where)
    return Analyser(load_detector(device), landmarker, load_parser(parser, weights, device))


@lru_cache(maxsize=2)
def load_parser(model: str = "segface", weights: str | None = None, device: str = "auto") -> Parser:
    """A face parser on a device, loaded once."""
    parser: Any = _of_task(model, "parse", weights).to(_device(device))
    return parser  # type: ignore[no-any-return]


def analyse(source: Any, *, min_score: float = 0.7, device: str = "auto") -> list[FaceAnalysis]:
    """Boxes, 5 and 68 landmarks, pose and the parts of every face of a photo, in reading order."""
    return load_analyser(device=device)(read(source), min_score=min_score)


def detect(source: Any) -> list[Face]:
    """The faces of a photo in reading order."""
    from .pipelines.restore import reading_order

    return reading_order(load_detector().detect(read(source).rgb()))


def embed(
    source: Any, *, model: str = "sface", weights: str | None = None, device: str = "auto"
) -> list[FaceEmbedding]:
    """Identity embeddings of the faces of a photo, in reading order."""
    return load_identity(model, weights, device).embed(read(source))


def verify(
    first: Any,
    second: Any,
    *,
    far: float = 1e-3,
    largest: bool = False,
    model: str = "sface",
    weights: str | None = None,
    device: str = "auto",
) -> Verification:
    """Whether two photos show the same person: `same`, `different` or `cannot tell`, and why.

    `far` is the accepted share of different people taken for one: 0.01, 0.001 or 0.0001. A photo with several faces
    is refused (UsageError) unless `largest` chooses.
    """
    return load_identity(model, weights, device).verify(read(first), read(second), far=far, largest=largest)


def quality(source: Any, *, device: str = "auto") -> list[tuple[Face, FaceQuality]]:
    """How much damage has left of each face, 0–100 (`FaceQuality.number`), and what is wrong; in reading order."""
    from .pipelines.restore import reading_order

    rgb = read(source).rgb()
    faces = reading_order(load_detector(device).detect(rgb))
    return list(zip(faces, load_quality(device=device).rate(rgb, faces)))


def restore(
    source: Any,
    output: str | Path | None = None,
    *,
    model: str = "frgp",
    weights: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    overwrite: bool = False,
    **options: Any,
) -> RestoreResult | FilmReport:
    """Restore the faces of a photo or film.

    A photo gives a `RestoreResult` (and is saved when `output` is given). A film needs `output` and gives a
    `FilmReport`. `options` are the fields of `facewright.pipelines.restore.RestoreOptions`.
    """
    from .pipelines.restore import RestoreOptions

    try:
        chosen = RestoreOptions(**options)
    except TypeError as error:
        raise UsageError(f"{error}; see facewright.pipelines.restore.RestoreOptions") from error
    pipeline = load_pipeline(model, weights, device, dtype)
    if isinstance(source, str | Path) and _is_video(source):
        from .pipelines.film import restore_video

        if output is None:
            raise UsageError(f"{source} is a film; say where the restored one goes with output=")
        return restore_video(source, output, pipeline, chosen, overwrite=overwrite)
    result = pipeline(read(source), chosen)
    if output is not None:
        result.save(output, overwrite=overwrite)
    return result


def _is_video(path: str | Path) -> bool:
    from .io.video import is_video

    return Path(path).is_file() and is_video(path)


def degrade_photo(
    source: Any, preset: str = "gfpgan", *, seed: int = 0, **options: Any
) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    """Age or damage a photo reproducibly; returns (H, W, 3) uint8 RGB and every parameter that was drawn."""
    from .degrade import degrade_photo as degrade_pixels

    pixels, record = degrade_pixels(read(source).rgb(), preset, seed, **options)
    return pixels, record.to_dict()
