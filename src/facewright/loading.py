"""Networks and pipelines by name, from the session of this process; heavy modules are imported only when needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .runtime.session import default_session
from .tasks.card import Card, cards
from .tasks.declare import NetworkChoice

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from .io.image import Photo
    from .metrics.calibration import ScoreCalibration
    from .pipelines.analyse import Analyser
    from .pipelines.identity import IdentityPipeline, Recogniser
    from .pipelines.restore import RestorePipeline
    from .systems.base import System
    from .tasks.analyse import Parser
    from .tasks.detect import Detector


def read(source: Any, *, page: int = 0, max_pixels: int = 200_000_000) -> Photo:
    """Read a photo from a path, bytes, a file, a PIL picture or an array; see `facewright.io.image.read`."""
    from .io.image import read as read_photo

    return read_photo(source, page=page, max_pixels=max_pixels)


def models(task: str | None = None) -> list[Card]:
    """The registered systems, optionally only those of one task."""
    return [card for card in cards().values() if task is None or task in card.tasks]


def create(
    name: str, *, pretrained: bool | str | Path = False, commercial: bool = False, preset: str | None = None
) -> System:
    """A system by its slug.

    Args:
        name: Slug or alias.
        pretrained: True for the default weights; or a checkpoint name, file, folder or hub repository. False gives
            fresh weights.
        commercial: Refuse weights whose licence does not allow commercial use (LicenceError).
        preset: Size of a network with fresh weights, such as "compact"; the paper's full size without. Weights bring
            their own size, so that both together are refused.

    Raises:
        UsageError: Unknown name or preset, or a preset beside pretrained weights.
        WeightsError: The weights are missing, damaged or of another system.
    """
    from .errors import UsageError
    from .systems.base import system_class
    from .weights.store import resolve

    cls = system_class(name)
    if pretrained is False:
        if commercial and cls.card().checkpoints:
            resolve(cls.card(), None, commercial=True)
        return cls(cls.preset(preset)) if preset else cls()
    if preset is not None:
        raise UsageError(f"weights of {name} bring their own size; omit preset={preset!r} or pretrained")
    return cls.from_pretrained(None if pretrained is True else pretrained, commercial=commercial)


def download(name: str, *, accept_licence: bool = False, trust_first_download: bool = False) -> Path:
    """Fetch published weights, check them and make them ready, as `facewright download`; later calls need no network.

    Args:
        name: A system for its default file, or SLUG/NAME for another one of its card.
        accept_licence: Accept a licence that is not free; remembered.
        trust_first_download: Fetch a file without a confirmed SHA-256, and pin what comes.

    Returns:
        The folder with the network.

    Raises:
        UsageError: Nobody has published weights of that name.
        LicenceError: The licence has to be accepted first.
        WeightsError: The file cannot be fetched, or is another than the published one.
    """
    from .weights import catalogue
    from .weights.terms import terms

    ((card, file),) = catalogue.select([name])
    with terms(accept_licence=accept_licence, trust_first_download=trust_first_download):
        return catalogue.obtain(card, file)


def degrade_photo(
    source: Any, preset: str = "gfpgan", *, seed: int = 0, **options: Any
) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    """Age or damage a photo reproducibly; returns (H, W, 3) uint8 RGB and every parameter that was drawn."""
    from .degrade import degrade_photo as degrade_pixels

    pixels, record = degrade_pixels(read(source).rgb(), preset, seed, **options)
    return pixels, record.to_dict()


def load_detector(device: str = "auto") -> Detector:
    """The face detector."""
    detector: Detector = default_session().detector(NetworkChoice(device=device))
    return detector


def load_parser(model: str = "", weights: str | None = None, device: str = "auto") -> Parser:
    """A face parser."""
    return _load("analyse", model, weights, device)  # type: ignore[no-any-return]


def load_recogniser(
    model: str = "", weights: str | None = None, device: str = "auto"
) -> tuple[Recogniser, ScoreCalibration | None]:
    """A system that embeds faces, and the calibration of its weights, if they have one."""
    from .pipelines.identity import calibration_of

    recogniser = _load("embed", model, weights, device)
    return recogniser, calibration_of(recogniser, weights)


def load_pipeline(
    model: str = "", weights: str | None = None, device: str = "auto", dtype: str = "auto"
) -> RestorePipeline:
    """The restore pipeline with its networks.

    Args:
        model: Slug of the restorer; "" for the default one.
        weights: File, folder or name of its weights.
        device: "auto" (CUDA when present), "cpu", "cuda" or "cuda:1".
        dtype: "auto", "fp32" or "bf16".
    """
    choice = NetworkChoice(model, weights, device, dtype)
    return default_session().pipeline("restore", choice)  # type: ignore[no-any-return]


def load_identity(model: str = "", weights: str | None = None, device: str = "auto") -> IdentityPipeline:
    """The recogniser with its calibration, the detector and the quality estimator."""
    from .pipelines.identity import load_pipeline as load
    from .tasks.declare import get_task

    return load(default_session(), get_task("embed"), NetworkChoice(model, weights, device))


def load_analyser(parser: str = "", weights: str | None = None, device: str = "auto") -> Analyser:
    """Detector, landmarker and face parser; `weights` are the parser's."""
    from .pipelines.analyse import load_analyser as load
    from .tasks.declare import get_task

    return load(default_session(), get_task("analyse"), NetworkChoice(parser, weights, device))


def _load(verb: str, model: str, weights: str | None, device: str) -> Any:
    from .tasks.declare import get_task

    return default_session().chosen(get_task(verb), NetworkChoice(model, weights, device))
