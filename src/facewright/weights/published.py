"""Published checkpoints to facewright's own files: opened safely, keys mapped, checked against the network, saved once.

A system that has published checkpoints has a module `convert` beside its network. Its function
`import_published(state)` returns the network with the checkpoint's weights in it.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import OutputError, UsageError, WeightsError
from ..tasks.card import cards, get_card
from .graphs import Outline, likeness, sketch
from .store import load_published

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType

    from torch import Tensor, nn

    from ..tasks.card import Card
    from .graphs import GraphSketch

_MISFIT = (KeyError, RuntimeError, ValueError, TypeError, AttributeError)
"""What a key map or a strict load raises on tensors of another network."""

_ALIKE = 0.6  # how alike a graph and a network must be for the network to be named

# Most special first: the first pattern that any key of a checkpoint begins with names it.
_TELLTALES = {
    "CodeFormer": r"(ft_layers|idx_pred_layer|fuse_convs_dict|feat_emb)\b",
    "CodeFormer's auto-encoder": r"(encoder|generator)\.blocks\.",
    "GFPGAN 1.0 (the original form)": r"(conv_body_first\.0\.|stylegan_decoder\.style_mlp\.2\.)",
    "GFPGAN": r"(stylegan_decoder|conv_body_)",
    "RestoreFormer++": r"decoder\.up\.4\.attn\.",
    "RestoreFormer or its dictionary": r"(encoder\.down|decoder\.up)\.5\.attn\.\d\.norm2",
    "a VQGAN": r"(quantize\.|decoder\.up\.)",
    "DFDNet": r"(VggExtract|MSDilate)\.",
    "GPEN": r"(ecd\d+|generator\.to_rgb1)\.",
    "a StyleGAN2 of BasicSR": r"(style_mlp|style_convs?1?)\.",
    "a StyleGAN2 of NVIDIA": r"synthesis\.b4\.",
    "a StyleGAN2 of rosinality": r"(input\.input|convs\.\d+\.conv\.modulation\.)",
    "a StyleGAN2 discriminator": r"(final_linear\.1|convs\.\d+\.skip|b4\.fc)\.",
    "FaceNet": r"(conv2d_1a|repeat_[123]|mixed_[67]a)\.",
    "a recogniser (IResNet)": r"layer1\.0\.prelu\.",
}


def import_checkpoint(
    slug: str, checkpoint: str | Path, output: str | Path, *, overwrite: bool = False, **options: Any
) -> Path:
    """Convert a published checkpoint of a system into a folder `from_pretrained` reads; returns the folder.

    `options` are for the system's `import_published`, for what the tensors cannot say. Raises UsageError when no
    published checkpoints of that system can be read, WeightsError when the file does not fit, UnsafeWeightsError when
    it holds code, OutputError when the folder exists.
    """
    card = get_card(slug)
    slug = card.slug
    module = _converter(card)
    if module is None:
        able = [c.slug for c in cards().values() if _converter(c) is not None]
        raise UsageError(f"{slug} has no published checkpoints to import; these have: {', '.join(able) or 'none'}")
    target = Path(output)
    _check_folder(target, overwrite=overwrite)
    try:
        if is_onnx(checkpoint) and hasattr(module, "import_onnx"):
            model = module.import_onnx(checkpoint, **options)
        else:
            model = _imported(card, partial(module.import_published, **options), checkpoint)
    except _MISFIT as error:
        raise WeightsError(f"{checkpoint} is not a checkpoint of {slug}: {error!r}") from error
    if model.slug != slug:
        raise WeightsError(f"{checkpoint} is a checkpoint of {model.slug}, not of {slug}")
    folder: Path = model.save_pretrained(target)
    return folder


def _imported(card: Card, convert: Any, checkpoint: str | Path) -> Any:
    """The network a checkpoint gives; a refusal names the file, what does not fit, and what the file may be instead."""
    state = load_published(checkpoint)
    try:
        return convert(state)
    except WeightsError as error:
        raise WeightsError(f"{checkpoint}: {error}") from error
    except _MISFIT as error:
        reason = str(error) if isinstance(error, ValueError) else repr(error).partition("\\n")[0]
        raise WeightsError(
            f"{checkpoint} is not a checkpoint of {card.slug}: {reason}{_details(card, state)}"
        ) from error


@dataclass(frozen=True, slots=True)
class Recognised:
    """What a checkpoint of unknown origin is: the systems it fits, and those it has some keys of, nearest first."""

    systems: tuple[str, ...]
    near: tuple[str, ...]


def recognise(checkpoint: str | Path) -> Recognised:
    """Which systems a checkpoint belongs to, told by its keys and shapes alone, whatever its name is.

    Raises WeightsError for a file that cannot be read, UnsafeWeightsError for one that holds code.
    """
    if is_onnx(checkpoint):
        return _recognised_graph(checkpoint)
    return recognise_tensors(load_published(checkpoint))


def recognise_tensors(state: Mapping[str, Tensor]) -> Recognised:
    """The same for the tensors of a checkpoint by their published names; only names and shapes are looked at."""
    shares = {card.slug: _share(_keys(module), state) for card, module in _converters() if _keys(module)}
    likely = [slug for slug, share in shares.items() if share == 1]
    fitting = tuple(slug for slug in likely if _fits(slug, state))
    near = sorted((slug for slug, share in shares.items() if share and slug not in fitting), key=lambda s: -shares[s])
    return Recognised(fitting, tuple(near))


def _recognised_graph(checkpoint: str | Path) -> Recognised:
    """The same for an ONNX file: every system that reads such files says whether it is one of its own."""
    graph = sketch(checkpoint)
    readers = [(card.slug, module) for card, module in _converters() if hasattr(module, "is_graph")]
    fitting = tuple(slug for slug, module in readers if module.is_graph(checkpoint))
    return Recognised(fitting, () if fitting else _near_graphs(graph))


def _near_graphs(graph: GraphSketch) -> tuple[str, ...]:
    """The systems that a graph looks like, likest first: by its picture, its size, its operators and its names."""
    from ..nn.memory import WithoutMemory
    from ..systems.base import system_class

    alike: dict[str, float] = {}
    for card, module in _converters():
        cls = system_class(card.slug)
        configs = [cls.Config(), *(cls.preset(name) for name in sorted({row.preset for row in card.published} - {""}))]
        for config in configs:
            side = cls.preprocess_for(config).size
            if side and graph.side and side != graph.side:
                continue
            with WithoutMemory():
                outline = Outline.of(cls(config), side, _keys(module))
            alike[card.slug] = max(alike.get(card.slug, 0.0), likeness(graph, outline))
    return tuple(sorted((slug for slug, share in alike.items() if share > _ALIKE), key=lambda slug: -alike[slug]))


def _converters() -> list[tuple[Card, ModuleType]]:
    found = ((card, _converter(card)) for card in cards().values())
    return [(card, module) for card, module in found if module is not None]


def _keys(module: ModuleType) -> tuple[str, ...]:
    return getattr(module, "KEYS", ())


def _share(patterns: tuple[str, ...], state: Mapping[str, Any]) -> float:
    """Which part of the patterns some key begins with."""
    return sum(any(re.match(pattern, key) for key in state) for pattern in patterns) / len(patterns)


def _fits(slug: str, state: Mapping[str, Tensor]) -> bool:
    """Whether a network of that system can be made of the tensors; tried without memory for them."""
    import torch

    module = _converter(get_card(slug))
    shapes = {key: value.to("meta") for key, value in state.items()}
    try:
        with torch.device("meta"):
            return module is not None and module.import_published(shapes).slug == slug
    except (*_MISFIT, WeightsError):
        return False


def is_onnx(path: str | Path) -> bool:
    """Whether a file is an ONNX graph, by its name or its first bytes (an IR version, then a producer or a graph)."""
    if Path(path).suffix.lower() == ".onnx":
        return True
    try:
        with open(path, "rb") as stream:
            head = stream.read(4)
    except OSError:
        return False
    return head[:1] == b"\x08" and len(head) == 4 and head[1] < 32 and head[2] in b"\x12\x3a\x1a\x22"


def nearest_model(keys: Mapping[str, Any]) -> str:
    """Which published network the keys of a checkpoint look most like."""
    bare = [key.removeprefix("vqvae.") for key in keys]
    for name, pattern in _TELLTALES.items():
        if any(re.match(pattern, key) for key in bare):
            return name
    return "no network known here"


def load_converted(
    model: nn.Module, converted: Mapping[str, Tensor], published: Mapping[str, Any], wanted: str
) -> None:
    """Load a converted checkpoint strictly.

    Raises WeightsError that says which tensors are missing, unknown or of another shape, and what the `published` keys
    look most like.
    """
    misfits = _misfits(model.state_dict(), converted)
    if misfits:
        raise WeightsError(
            f"this is not a complete checkpoint of {wanted} but is closest to {nearest_model(published)}: {misfits}"
        )
    model.load_state_dict(dict(converted))


def _misfits(own: Mapping[str, Tensor], converted: Mapping[str, Tensor], unknown: tuple[str, ...] = ()) -> str:
    """What of a converted checkpoint does not fit, "" when all does; `unknown` are keys that had no name of ours."""
    missing = sorted(set(own) - set(converted))
    surplus = sorted({*unknown, *(set(converted) - set(own))})
    wrong = sorted(k for k in set(own) & set(converted) if own[k].shape != converted[k].shape)
    if not (missing or surplus or wrong):
        return ""
    return (
        f"{len(missing)} tensors missing {missing[:3]}, {len(surplus)} unknown {surplus[:3]}, "
        f"{len(wrong)} of another shape {wrong[:3]}"
    )


def _details(card: Card, state: Mapping[str, Tensor]) -> str:
    """For a refusal: what does not fit the full-size network, as far as the key map tells, and the likeliest origin."""
    found = f"; it is closest to {nearest_model(state)}"
    convert = getattr(_converter(card), "convert_published", None)
    if convert is None:
        return found
    converted, unknown = _converted(convert, state)
    return f"{found}: {_misfits(_parameters(card), converted, unknown)}"


def _converted(convert: Any, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """What a key map makes of a checkpoint, and the keys it does not know."""
    try:
        return convert(state), ()
    except (*_MISFIT, WeightsError):
        converted: dict[str, Tensor] = {}
    unknown = []
    for key, value in state.items():
        try:
            converted |= convert({key: value})
        except (*_MISFIT, WeightsError):
            unknown.append(key)
    return converted, tuple(unknown)


def _parameters(card: Card) -> dict[str, Tensor]:
    """Shapes of the full-size network's parameters, without memory for them."""
    import torch

    from ..systems.base import system_class

    with torch.device("meta"):
        return dict(system_class(card.slug)().named_parameters())


def can_import(card: Card) -> bool:
    """Whether published checkpoints of a system can be read."""
    return _converter(card) is not None


def _converter(card: Card) -> ModuleType | None:
    """The module `convert` beside a system's network; None for a system without published checkpoints."""
    name = f"{card.entry.partition(':')[0].rpartition('.')[0]}.convert"
    return importlib.import_module(name) if importlib.util.find_spec(name) else None


def _check_folder(target: Path, *, overwrite: bool) -> None:
    if target.exists() and not target.is_dir():
        raise OutputError(f"{target} is a file; give a folder")
    if target.exists() and any(target.iterdir()) and not overwrite:
        raise OutputError(f"{target} exists; choose another folder or add --overwrite")
