"""Using a network never changes it: parameters and buffers have the same bits after every public call of every system.

A new public method is called here, too, as soon as its required arguments have names of `ARGUMENTS`; one that is meant
to change its network is named in `CHANGES_THE_NETWORK`.
"""

from __future__ import annotations

import hashlib
import inspect
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor

from facewright.errors import UsageError
from facewright.face import FaceQuality
from facewright.systems.base import System, system_class
from facewright.systems.graph import GraphSystem
from facewright.systems.synthesise.stylegan2.network import StyleGAN2, StyleGAN2Config
from facewright.tasks.card import cards

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import SimpleNamespace

CHANGES_THE_NETWORK = {
    *("adopt_prior", "calibrate", "fit", "load_dictionaries", "load_dictionary", "load_imagenet", "load_prior"),
    *("set_threshold", "update_mean_latent", "store_classifiers", "describe_categories"),
}
NEEDS_TRAINING = {"localise"}
CALLED_BY_OTHERS = {
    "pva": {"apart", "fill_by", "personalised", "predict", "sample", "words"},
    "restorerid": {"condition", "nobody", "predict", "sample", "strength_for"},
    "svfr": {"decode", "predict", "reference", "restore_film", "sample"},
}
"""`fill` or `restore` calls these; what `personalised` trains is a copy, which its own tests look at."""
GIVEN = {"generator"}
"""Parameters that are given though they need not be: their defaults are published files, which have to be fetched."""


def build(slug: str) -> System:
    """The shipped size with fresh weights, ready for use; with everything on that has a method of its own."""
    torch.manual_seed(0)
    cls = system_class(slug)
    config = cls.preset("compact")
    model: Any = cls(replace(config, wflw=True) if hasattr(config, "wflw") else config).eval()
    if hasattr(model, "describe_categories"):
        model.describe_categories([torch.tensor([[5, 99]])] * 8)
    if hasattr(model, "calibrate") and slug not in ("fpage", "lnet_anet", "mlcr"):  # whose tables are of other shapes
        model.calibrate(np.linspace(-3, 3, 500))
    return model


def tiny_generator(style_dim: int) -> StyleGAN2:
    torch.manual_seed(0)
    return StyleGAN2(StyleGAN2Config(size=32, narrow=0.125, style_dim=style_dim, mapping_layers=2)).eval()


def digest(model: System) -> dict[str, str]:
    """SHA-256 of every parameter and buffer, saved or not."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {
        name: hashlib.sha256(t.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()).hexdigest()
        for name, t in tensors
    }


def random_crops(model: System, count: int = 2) -> np.ndarray:
    side = model.preprocess.size or 96
    return np.random.default_rng(1).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


class Arguments:
    """Arguments by the name of the parameter; `tensor` where it is annotated as one."""

    def __init__(self, model: System, fakes: SimpleNamespace) -> None:
        self.model = model
        self.photo = fakes.textured(160, 200)
        self.faces = [fakes.face_at((70, 80), 30.0), fakes.face_at((140, 90), 20.0, angle=20.0)]

    def __call__(self, method: str, parameter: inspect.Parameter) -> Any:
        model, name, slug = self.model, parameter.name, self.model.slug
        features: dict[str, Callable[[], Any]] = {
            "refine": lambda: torch.randn(1, model.config.dim, *[model.config.size // 4] * 2),
            "angles_at": lambda: model.features(model.normalise(self.photo[None, :128, :192]))[0],  # type: ignore[operator]
            "decide": lambda: [torch.randn(2, model.config.features) for _ in range(2)],
            "is_familiar": lambda: np.zeros((2, model.features)),
            "score": lambda: np.zeros((2, model.features)),
            "votes": lambda: torch.zeros(1, 2, model.features.out_features),  # type: ignore[union-attr, arg-type]
            "vote": lambda: torch.zeros(2, model.heads[0].in_features),  # type: ignore[index, union-attr]
            "by_task": lambda: torch.zeros(2, model.heads[0].in_features),  # type: ignore[index, union-attr]
            "locate": lambda: model.encoder(model.normalise(random_crops(model))),  # type: ignore[operator]
        }
        known: dict[str, Callable[[], Any]] = {
            "crops": lambda: self._crops(parameter),
            "fixed": lambda: model.fixed(model.normalise(random_crops(model))),  # type: ignore[operator]
            "messages": lambda: np.zeros((2, model.config.bits), np.int64),
            "tasks": lambda: torch.zeros(2, dtype=torch.long),
            "deepest": lambda: torch.zeros(2, model.config.widths[-1], 4, 4),
            "style": lambda: torch.zeros(2, model.config.style_dim),
            "templates": lambda: np.zeros((2, model.config.template_dim), np.float32),
            "generator": lambda: (
                torch.Generator() if slug in ("pva", "restorerid") else tiny_generator(model.config.style_dim)
            ),
            "hole": lambda: model.normalise(random_crops(model))[:, :1].gt(0).float(),
            "holes": lambda: random_crops(model)[..., 0] > 127,
            "code": lambda: torch.zeros(2, model.config.code),
            "recogniser": lambda: system_class("distilledface").from_pretrained(),
            "crop": lambda: random_crops(model)[0],
            "photo": lambda: self.photo,
            "picture": lambda: self.model.normalise(self.photo[None, :128, :192]),
            "pictures": lambda: self._crops(parameter),
            "frames": lambda: self._crops(parameter)[None] if parameter.annotation == "Tensor" else random_crops(model),
            "faces": lambda: self.faces,
            "boxes": lambda: np.stack([face.box for face in self.faces]),
            "count": lambda: 2,
            "latents": lambda: self._latents(method),
            "latent": lambda: self._latent(),
            "given": lambda: self._latent(),
            "noisy": lambda: self._latent(),
            "start": lambda: self._latent(),
            "time": lambda: torch.zeros(2, dtype=torch.long),
            "references": lambda: self._references(method),
            "quality": lambda: FaceQuality(0.5, 50.0),
            "a": lambda: model.embed(random_crops(model)),  # type: ignore[operator]
            "b": lambda: model.embed(random_crops(model)[::-1]),  # type: ignore[operator]
            "level": lambda: 0,
            "view": lambda: 0,
            "size": lambda: 64,
            "logits": lambda: _zeros(parameter, (2, getattr(model.config, "ages", 4))),
            "scores": lambda: np.zeros(len(model.config.attributes)),
            "units": lambda: np.zeros(len(model.config.units)),
            "expressions": lambda: np.zeros(7),
            "height": lambda: 128,
            "width": lambda: 192,
            "max_side": lambda: 320,
            "cell": lambda: torch.zeros(1, dtype=torch.long),
            "anchor": lambda: torch.zeros(1, dtype=torch.long),
            "features": lambda: features[method](),
            "images": lambda: self._pictures(parameter, [self.photo[:128, :192], self.photo[:128, :192]]),
            "image": lambda: self._picture(method, parameter),
        }
        return known[name]()

    def _generator(self) -> Any:
        if self.model.slug in ("pva", "restorerid"):
            return torch.Generator()
        return tiny_generator(self.model.config.style_dim)

    def _latents(self, method: str) -> Any:
        model: Any = self.model
        if method == "remember":
            return self._latent()[:, None]
        return model.encode(random_crops(model)) if method == "decode" else model.latents(2)

    def _latent(self) -> Tensor:
        layout = self.model.config.latents.layout
        return torch.randn(2, layout.code_dim, *[layout.size // layout.stride] * 2)

    def _references(self, method: str) -> Any:
        crops = random_crops(self.model)
        if method == "restore_by":
            return [crops, crops]
        return self._latent()[:, None] if method == "sample" else self.model.normalise(crops)[:, None]

    def _crops(self, parameter: inspect.Parameter) -> Any:
        if self.model.card().task == "attack":
            return np.zeros((2, 112, 112, 3), np.uint8)  # what the attacked recogniser takes
        crops = random_crops(self.model)
        return self.model.normalise(crops) if parameter.annotation == "Tensor" else crops

    def _pictures(self, parameter: inspect.Parameter, pictures: list[np.ndarray]) -> Any:
        return self.model.normalise(np.stack(pictures)) if parameter.annotation == "Tensor" else pictures

    def _picture(self, method: str, parameter: inspect.Parameter) -> Any:
        if method == "angles_at":
            return torch.zeros(1, dtype=torch.long)
        return self.model.normalise(random_crops(self.model)) if parameter.annotation == "Tensor" else self.photo


def _zeros(parameter: inspect.Parameter, shape: tuple[int, ...]) -> Any:
    return torch.zeros(shape) if parameter.annotation == "Tensor" else np.zeros(shape)


def public_methods(model: System) -> Iterator[str]:
    for name in dir(type(model)):
        method = inspect.getattr_static(type(model), name)
        if not name.startswith("_") and not hasattr(System, name) and inspect.isfunction(method):
            yield name


@pytest.mark.parametrize("slug", [slug for slug in cards() if not issubclass(system_class(slug), GraphSystem)])
def test_no_public_call_changes_a_bit(slug: str, fakes: SimpleNamespace) -> None:
    model = build(slug)
    arguments, before, called = Arguments(model, fakes), digest(model), []
    for name in public_methods(model):
        if name in CHANGES_THE_NETWORK | NEEDS_TRAINING | CALLED_BY_OTHERS.get(slug, set()):
            continue
        method = getattr(model, name)
        parameters = inspect.signature(method).parameters
        needed = [arguments(name, p) for p in parameters.values() if p.default is inspect.Parameter.empty]
        free = {n: arguments(name, p) for n, p in parameters.items() if n in GIVEN and p.default is None}
        with torch.no_grad():
            method(*needed, **free)
            if "seed" in parameters:
                call_with_seed(method, needed, free)
        assert digest(model) == before, name
        called.append(name)
    assert called
    if cards()[slug].task == "restore":
        assert "restore" in called


def call_with_seed(method: Callable[..., Any], needed: list[Any], free: dict[str, Any]) -> None:
    """A seed changes the result or is refused; the latter is said."""
    try:
        method(*needed, **free, seed=7)
    except UsageError as error:
        assert "draws no noise" in str(error)  # noqa: PT017


@pytest.mark.parametrize("slug", [slug for slug, card in cards().items() if card.task == "restore"])
def test_seeded_crops_do_not_depend_on_their_place_in_a_batch(slug: str) -> None:
    model: Any = build(slug)
    model.precision = "fp32"
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("noise_strength"):
                parameter.fill_(0.5)
            elif "to_rgbs" in name and name.endswith("conv.weight"):
                parameter.mul_(1e3 if float(parameter.abs().max()) < 1e-2 else 1)  # residual heads start near nothing
    crops = random_crops(model, 3)
    draws = slug in ("refldm", "restorerid", "svfr") or hasattr(getattr(model, "generator", None), "draw_noise")
    if slug == "gpen" or not draws:  # its noise is features
        with pytest.raises(UsageError, match="draws no noise"):
            model.restore(crops, seed=11)
        return
    together, trained = model.restore(crops, seed=11), model.restore(crops)
    assert np.abs(together.astype(int) - trained).max() > 2
    for i in range(3):
        alone = model.restore(crops[i : i + 1], seed=11)[0].astype(int)
        assert np.abs(alone - together[i]).max() <= 1
        assert np.array_equal(alone, model.restore(crops[i : i + 1], seed=11)[0])
    assert np.abs(together.astype(int) - model.restore(crops, seed=12)).max() > 2


def test_the_digest_sees_a_change_of_one_buffer() -> None:
    model = build("gfpgan")
    before = digest(model)
    noise: Tensor = model.get_buffer("generator.noises.noise0")
    noise[0, 0, 0, 0] += 1e-3
    assert {k for k, v in digest(model).items() if v != before[k]} == {"generator.noises.noise0"}
