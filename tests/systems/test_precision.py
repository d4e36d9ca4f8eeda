"""Every system in bfloat16 sees what it sees in float32: its network at three sizes, its calls on a real picture."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from facewright.systems.base import System, system_class
from facewright.systems.detect.mos.network import MOS, MOSConfig
from facewright.systems.graph import GraphSystem
from facewright.tasks.card import cards

if TYPE_CHECKING:
    from facewright.face import Face

SIZES = {
    # what the configuration leaves free; at the largest, first maps have over 32,768 pixels
    "mos": [(64, 64), (97, 131), (640, 512)],
    "segface": [(64, 64), (132, 100), (512, 512)],
    "easyportrait": [(64, 64), (130, 98), (512, 512)],
    "printscan": [(64, 64), (96, 160), (512, 512)],
    "rtnet": [(33, 33), (129, 129), (513, 513)],
}
CHOOSES = {"codeformer", "refldm_vqgan", "restoreformer"}
"""Fresh codebooks are so dense that a rounding chooses another code: their encoders are compared."""
ROUNDED = dict.fromkeys(CHOOSES | {"pva"}, 0.04) | {"restorerid": 0.1}
"""How far rounding may take what is above the usual 3 %: PVA's U-Net and autoencoder are the deepest here; RestorerID
with drawn weights was measured at 8 %, with and without its modulations, which is not explained."""
EMBEDDED = [slug for slug, card in cards().items() if any(c.file for c in card.checkpoints)]
UNIFORM: dict[str, dict[str, Any]] = {
    "frgp": {"encoder_widths": (), "generator_widths": (), "narrow": 0.125, "light": ()},
    "gfpgan": {},
}
"""Changes without which a configuration is made for one size."""


def fresh(slug: str, **changes: Any) -> System:
    torch.manual_seed(0)
    cls = system_class(slug)
    if slug == "mos":
        model: System = MOS(MOSConfig("shufflenetv2", width=0.25, fpn=16, pose_hidden=8, deformable=True)).eval()
    else:
        model = cls(dataclasses.replace(cls.preset("compact"), **changes)).eval()
    if hasattr(model, "describe_categories"):
        model.describe_categories([torch.tensor([[2 + i, 99]]) for i in range(8)])  # type: ignore[operator]
    with torch.no_grad():
        for weight in model.parameters():
            if weight.abs().max() < 1e-2:  # layers that start as nothing would hide what is before them
                weight.normal_(std=0.05)
    return model


def error(rough: Any, exact: Any) -> float:
    """The largest root mean square difference of any output, relative to the output's own root mean square."""
    if isinstance(exact, Tensor):
        return float((rough.float() - exact).norm() / exact.norm()) if exact.is_floating_point() else 0.0
    return max(error(a, b) for a, b in zip(rough, exact) if b is not None)


def noise(model: System, size: tuple[int, int]) -> Tensor:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    return model.normalise(cv2.GaussianBlur(pixels, (0, 0), 1)[None])  # type: ignore[arg-type]


def cases() -> list[Any]:
    # a forest compares whole numbers; what runs a file of somebody else's has no network here
    learnt = [s for s in cards() if s != "landmark_forest" and not issubclass(system_class(s), GraphSystem)]
    return [(slug, size) for slug in learnt for size in SIZES.get(slug, [None])]


@pytest.mark.parametrize(("slug", "size"), cases())
@torch.inference_mode()
def test_network_under_autocast(slug: str, size: tuple[int, int] | None) -> None:
    model = fresh(slug)
    network: Any = model.net.encode if slug in CHOOSES else model  # type: ignore[union-attr]
    numbers = {"stylegan2": "style_dim", "template_inversion": "template_dim"}
    if slug in numbers:
        x = torch.randn(1, getattr(model.config, numbers[slug]))
    else:
        side = model.preprocess.size
        x = noise(model, size or ((side, side) if side else (96, 128)))
    exact = network(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert error(network(x), exact) < ROUNDED.get(slug, 0.03)


@pytest.mark.parametrize("size", [64, 128, 512])
@pytest.mark.parametrize("slug", ["frgp", "gfpgan"])
@torch.inference_mode()
def test_restorer_of_three_sizes_under_autocast(slug: str, size: int) -> None:
    model = fresh(slug, size=size, **UNIFORM[slug])
    x = noise(model, (size, size))
    exact = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert error(model(x), exact) < 0.03


@pytest.fixture(scope="module")
def face(astronaut: np.ndarray) -> Face:
    faces = system_class("mos").from_pretrained().detect(astronaut)  # type: ignore[operator]
    return faces[0]


def seen(model: Any, photo: np.ndarray, face: Face) -> np.ndarray:
    """What a call on pictures says of the face in a photo, in units of about 1."""
    task, unit = model.card().task, float(np.hypot(*(face.points5[1] - face.points5[0])))
    if task == "detect":
        found = min(model.detect(photo), key=lambda one: float(np.abs(one.box - face.box).sum()))
        return np.concatenate([found.points5.ravel() / unit, found.box / unit, [found.score]])
    if task == "landmarks":
        return model.locate(photo, [face])[0].points / unit
    if task == "synthesise":
        return model.sample(1, truncation=0.5, watermark=False) / 255
    if task == "opinion":
        return model.verify(photo, [face]) / 10
    if task == "damage":
        return model.find(photo)
    if task == "liveness":
        return model.live(photo, [face])
    if task == "enlarge":
        return model.enlarge(photo) / 255
    if task == "attributes":
        return np.array(list(model.describe_faces(photo, [face])[0].probabilities.values()))
    if task == "age":
        return np.array([model.estimate(photo, [face])[0].age / 100])
    if task == "action_units":
        return np.array([one.intensity for one in model.read_actions(photo, [face])[0].units.values()]) / 5
    crops = model.preprocess.crop.cut(photo, face).image[None]
    if task == "inpaint":
        hole = np.zeros(crops.shape[:3], bool)
        hole[:, 20:30, 20:30] = True
        return model.fill(crops, hole) / 255
    if task == "latents":
        return model.decode(model.encode(crops)) / 255
    if task == "forgery":
        return np.stack(list(model.examine(crops).shares.values()))
    calls = {"recognise": "embed", "restore": "restore", "parse": "probabilities", "quality": "score"}
    answer = getattr(model, calls[task])(crops)
    return answer / 255 if answer.dtype == np.uint8 else answer


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("slug", [slug for slug in EMBEDDED if slug != "landmark_forest"])
def test_calls_on_pictures(slug: str, scale: float, astronaut: np.ndarray, face: Face) -> None:
    if scale != 1 and cards()[slug].task == "synthesise":
        pytest.skip("it takes no picture")
    model: Any = system_class(slug).from_pretrained()
    photo = cv2.resize(
        astronaut, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    )
    there = dataclasses.replace(face, box=face.box * scale, points5=(face.points5 + 0.5) * scale - 0.5)
    found = {}
    for precision in ("fp32", "bf16"):
        model.precision = precision
        found[precision] = seen(model, photo, there)
    assert np.abs(found["bf16"] - found["fp32"]).mean() < 0.02
