"""facewright eval: measure systems by one protocol; facewright dictionary: what DFDNet restores with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import OutputError, UsageError, WeightsError
from ..progress import bar
from .weights import may_fetch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from ..evaluation.restore import EvaluationModels
    from ..systems.restore.dfdnet.network import DFDNet
    from ..tasks.restore import Restorer

eval_app = typer.Typer(
    name="eval", help="Evaluate systems under one protocol.", no_args_is_help=True, rich_markup_mode=None
)
dictionary_app = typer.Typer(
    name="dictionary",
    help="Build or import the dictionaries of eyes, noses and mouths for DFDNet.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")]
Folder = Annotated[Path, typer.Option("-o", "--output", help="Output folder.", show_default=False)]
NetworkFolder = Annotated[
    Path, typer.Option("-o", "--output", help="Output folder for the network.", show_default=False)
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Overwrite existing outputs.")]

LABELLED_SIZE, PHOTO_SIZE = 256, 512


@eval_app.callback()
def evaluation() -> None:
    """Evaluate systems under one protocol."""


@eval_app.command("restore")
@may_fetch
def evaluate_restorers(
    output: Folder,
    model: Annotated[list[str] | None, typer.Option(help="Restorer, or restorer=weights; repeatable.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of sharp photos; default: labelled faces.")] = None,
    faces: Annotated[int, typer.Option(min=2, help="Maximum number of faces.")] = 100,
    severity: Annotated[list[str] | None, typer.Option(help="Degradation preset; repeatable.")] = None,
    size: Annotated[
        int | None, typer.Option(min=192, help="Side of the crops in pixels; default: 256, or 512 with --data.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same damage.")] = 0,
    sheet: Annotated[int, typer.Option(min=0, help="Number of faces on the contact sheet.")] = 4,
    device: Device = "auto",
) -> None:
    """Restore damaged faces with every model and score them against the truth; run it again to resume."""
    from ..evaluation.restore import SEVERITIES, TABLES, Settings, evaluate, photo_faces, validation_faces

    models = _evaluation_models(device)
    side = size or (PHOTO_SIZE if data else LABELLED_SIZE)
    source = str(data.resolve()) if data else "the labelled validation split"
    settings = Settings(source, side, models.name, tuple(severity or SEVERITIES), seed)
    restorers = dict(_restorer(text, device) for text in model or ["frgp"])
    chosen = photo_faces(data, models.detector, faces, side) if data else validation_faces(faces, side)
    with bar("restore") as advance:
        evaluate(chosen, restorers, models, settings, output, sheet_faces=sheet, on_progress=advance)
    typer.echo((output / TABLES).read_text(encoding="utf-8"))


def _restorer(text: str, device: str) -> tuple[str, Callable[[], Restorer]]:
    """The row of a restorer given as `slug` or `slug=weights`, and how it is loaded."""
    from ..loading import load_pipeline
    from ..tasks.card import get_card

    slug, _, weights = text.partition("=")
    if get_card(slug).task != "restore":
        raise UsageError(f"{slug} is not a restorer; see 'facewright models --task restore'")
    name = f"{slug} {Path(weights).name}" if weights else slug
    return name, lambda: load_pipeline(slug, weights or None, device).restorer


def _evaluation_models(device: str) -> EvaluationModels:
    from ..evaluation.restore import EvaluationModels
    from ..loading import load_detector, load_parser, load_recogniser
    from ..metrics.lpips import LPIPS
    from ..metrics.perceptual import ParserFeatures

    # not the embedded recogniser: the embedded restorer learned from its eyes
    recogniser: Any = load_recogniser("vitfiqa", device=device)[0]
    detector: Any = load_detector(device)
    parser: Any = load_parser(device=device)
    names = [f"{judge.slug} {(judge.weights_sha256 or 'fresh')[:12]}" for judge in (detector, recogniser, parser)]
    lpips = None
    try:
        lpips = LPIPS.from_files("alex")
        names.append("LPIPS (alex)")
    except WeightsError:
        names.append("no LPIPS (its weights are not here)")
    return EvaluationModels(detector, recogniser, lpips, ParserFeatures(parser), ", ".join(names))


@dictionary_app.command("build")
@may_fetch
def build_dictionary(
    photos: Annotated[Path, typer.Argument(help="Folder of sharp photos.", show_default=False)],
    output: NetworkFolder,
    model: Annotated[Path | None, typer.Option(help="DFDNet that gets the dictionaries, e.g. an imported one.")] = None,
    vgg: Annotated[Path | None, typer.Option(help="VGG-19 weights (torchvision layout) for a new DFDNet.")] = None,
    atoms: Annotated[int, typer.Option(min=1, help="Entries per dictionary.")] = 512,
    faces: Annotated[int | None, typer.Option(min=1, help="Maximum number of faces.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the clustering.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Build dictionaries by clustering eyes, noses and mouths; without a model or VGG, with the embedded recogniser."""
    from ..evaluation.restore import photo_faces
    from ..loading import load_detector
    from ..systems.restore.dfdnet.network import batched, build_dictionaries

    _check_folder(output, overwrite=overwrite)
    network = _network(model, vgg)
    found = photo_faces(photos, load_detector(), faces, network.config.size)

    with bar("features") as advance:

        def crops() -> Iterator[NDArray[np.uint8]]:
            for number, face in enumerate(found, start=1):
                yield face.image
                advance(number, len(found))

        dictionaries = build_dictionaries(network, batched(crops()), atoms, seed=seed)
    network.load_dictionaries(dictionaries)
    typer.echo(f"{network.save_pretrained(output)}: {atoms} atoms from {len(found)} faces")


@dictionary_app.command("import")
def import_dictionary(
    folder: Annotated[Path, typer.Argument(help="Folder of published .npy dictionaries.", show_default=False)],
    output: NetworkFolder,
    model: Annotated[Path, typer.Option(help="DFDNet that gets the dictionaries.", show_default=False)],
    overwrite: Overwrite = False,
) -> None:
    """Add the published dictionaries (DictionaryCenter512) to an imported network."""
    from ..systems.restore.dfdnet.convert import convert_dictionaries
    from ..systems.restore.dfdnet.network import DFDNet

    _check_folder(output, overwrite=overwrite)
    network = DFDNet.from_pretrained(model, dictionaries=False)
    network.load_dictionaries(convert_dictionaries(_arrays(folder), network.config))
    typer.echo(f"{network.save_pretrained(output)}: {network.config.atoms} atoms")


def _check_folder(folder: Path, *, overwrite: bool) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())) and not overwrite:
        raise OutputError(f"{folder} exists; choose another folder or add --overwrite")


def _network(model: Path | None, vgg: Path | None) -> DFDNet:
    from ..loading import create
    from ..systems.restore.dfdnet.network import DFDNet, DFDNetConfig
    from ..weights.store import load_published

    if model and vgg:
        raise UsageError("--model already has its own features; omit --vgg")
    if model:
        return DFDNet.from_pretrained(model, dictionaries=False)
    network = DFDNet(replace(DFDNetConfig() if vgg else DFDNetConfig.compact(), atoms=0)).eval()
    features: Any = network.extractor.network
    if vgg:
        features.load_torchvision(load_published(vgg))
    else:
        recogniser: Any = create("distilledface", pretrained=True)
        features.load_state_dict(recogniser.backbone.state_dict())
    return network


def _arrays(folder: Path) -> dict[str, Any]:
    """The arrays of a folder as half-precision tensors; pickled ones are refused."""
    import numpy as np
    import torch

    found = {}
    for path in sorted(folder.glob("*.npy")):
        try:
            found[path.name] = torch.from_numpy(np.load(path, allow_pickle=False).astype(np.float16))
        except (OSError, ValueError, TypeError) as error:
            raise WeightsError(f"{path} is not a plain numpy array ({error}); fetch it again") from error
    if not found:
        raise WeightsError(f"{folder} holds no .npy dictionaries; give the folder DictionaryCenter512")
    return found
