"""Names and shapes of the tensors in published files, by row of the catalogue, from the tests of their systems."""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from facewright.nn import stylegan2 as s2
from facewright.systems.base import system_class
from facewright.systems.parse.easyportrait import convert as easyportrait
from facewright.systems.parse.rtnet import convert as rtnet

Shapes = dict[str, tuple[int, ...]]
Layout = Callable[[Callable[[], Path]], Shapes]
"""Takes what finds the folder of the parity vectors, which only some need."""


def of(tests: str, pick: Callable[[Any], Shapes] = lambda tests: tests.published_shapes()) -> Layout:
    """The layout that the tests of a system write out."""
    return lambda folder: pick(importlib.import_module(f"tests.systems.{tests}"))


def listed(tests: str, name: str) -> Layout:
    """The layout of one of the files that the tests of a system list."""
    return of(tests, lambda module: module.FILES[name][0])


def nafnet(name: str) -> Layout:
    """NAFNet's tests list width and blocks."""
    return of(
        "enlarge.test_nafnet", lambda module: module.published_shapes(module.FILES[name][0], *module.FILES[name][1])
    )


def vector(name: str, prefix: str = "") -> Layout:
    """The layout of the network whose outputs are recorded."""

    def read(folder: Callable[[], Path]) -> Shapes:
        with np.load(folder() / f"{name}.npz") as archive:
            manifest = json.loads(str(archive["manifest"]))
        return {prefix + key: tuple(entry["shape"]) for key, entry in manifest.items()}

    return read


def undone(slug: str, theirs: Callable[[str], str], **options: Any) -> Layout:
    """The layout of a system's own network, whose names are turned back into the published ones."""

    def make(folder: Callable[[], Path]) -> Shapes:
        cls = system_class(slug)
        with torch.device("meta"):
            own = cls(dataclasses.replace(cls.Config(), **options)).state_dict()
        return {theirs(key): tuple(value.shape) for key, value in own.items()}

    return make


def _adaface(key: str) -> str:
    parts = {"stem": "input_layer", "head": "output_layer", "residual": "res_layer", "shortcut": "shortcut_layer"}
    return ".".join(parts.get(part, part) for part in key.removeprefix("backbone.").split("."))


def _rtnet(key: str) -> str:
    part, _, rest = key.partition(".")
    if part == "head":
        return f"decoder.{rtnet._with({ours: name for name, ours in rtnet._DEEPLAB.items()}, rest)}"
    if not rest.startswith("stages."):
        return f"encoder.{rest}"
    stage, block, inner = rest.removeprefix("stages.").split(".", 2)
    plain = stage == "0" and block != "0"
    inner = inner if plain else rtnet._with({ours: name for name, ours in rtnet._HYBRID.items()}, inner)
    return f"encoder.layer{int(stage) + 1}.{block}.{inner}"


def _segformer(key: str) -> str:
    rest = key.removeprefix("net.")
    heads = {"out": "conv_seg", "levels": "convs", "fuse": "fusion_conv"}
    head, _, inner = rest.partition(".")
    if head in heads:
        *place, number, leaf = inner.split(".") if head != "out" else (inner, "", "")
        names = [heads[head], *place, {"0": "conv", "1": "bn"}.get(number, ""), leaf]
        return ".".join(["decode_head", *filter(None, names)])
    part, stage, inner = inner.split(".", 2)
    if part != "stages":
        return f"backbone.layers.{stage}.{'0' if part == 'patches' else '2'}.{inner}"
    block, inner = inner.split(".", 1)
    for theirs, ours in easyportrait._BLOCK.items():
        inner = theirs + inner.removeprefix(ours) if inner.startswith(ours) else inner
    return f"backbone.layers.{stage}.1.{block}.{inner}"


def _fpn(key: str) -> str:
    rest = key.removeprefix("net.")
    head, _, inner = rest.partition(".")
    if head in ("laterals", "smooth"):
        level, leaf = inner.split(".")
        return f"neck.{'lateral_convs' if head == 'laterals' else 'fpn_convs'}.{level}.conv.{leaf}"
    if head == "scales":
        *place, number, leaf = inner.split(".")
        return ".".join(["decode_head.scale_heads", *place, {"0": "conv", "1": "bn"}[number], leaf])
    if head == "out":
        return f"decode_head.conv_seg.{inner}"
    stem = next(((theirs, ours) for theirs, ours in easyportrait._STEM.items() if inner.startswith(f"{ours}.")), None)
    return f"backbone.stem.{stem[0]}.{inner.removeprefix(f'{stem[1]}.')}" if stem else f"backbone.{inner}"


def segface(backbone: str, labels: str = "celebamask") -> Layout:
    """The backbone as SegFace's tests name it; the decoder, which is the same for all, from a recorded network."""

    def make(folder: Callable[[], Path]) -> Shapes:
        tests = importlib.import_module("tests.systems.parse.test_segface")
        config = tests.SegFaceConfig(backbone=backbone, labels=labels, warp=labels == "lapa")
        recorded = vector("segface-lapa" if labels == "lapa" else "segface-mobilenet")(folder)
        found = {key: shape for key, shape in recorded.items() if not key.startswith("backbone.")}
        found |= {key: tuple(value.shape) for key, value in tests.published_keys(config).items()}
        with torch.device("meta"):
            widths = [layer.weight.shape for layer in tests.SegFace(config).net.project]
        return found | {f"linear_c.{i}.proj.weight": tuple(shape) for i, shape in enumerate(widths)}

    return make


def stylegan2(name: Callable[[dict[str, Any]], dict[str, Any]], size: int) -> Layout:
    """The layout of a StyleGAN2 of configuration F, by the map that its tests hold to the published ones."""

    def make(folder: Callable[[], Path]) -> Shapes:
        cls = system_class("stylegan2")
        with torch.device("meta"):
            state = cls(cls.Config(size=size)).generator.state_dict()  # type: ignore[union-attr]
            return {key: tuple(value.shape) for key, value in name(state).items()}

    return make


def _large(tests: Any) -> Shapes:
    return tests.published_shapes(*tests.LARGE[:2])


_NAFNET = ("sidd-w32", "sidd-w64", "gopro-w32", "gopro-w64", "reds-w64")
_RTNET = {
    "rtnet50-fcn-11": {"trunk": "rtnet50", "classes": 11},
    "rtnet50-fcn-14": {"trunk": "rtnet50", "classes": 14},
    "rtnet101-fcn-14": {"trunk": "rtnet101", "classes": 14},
    "resnet50-fcn-14": {"trunk": "resnet50", "classes": 14},
    "resnet50-deeplabv3plus-14": {"trunk": "resnet50", "head": "deeplabv3plus", "classes": 14},
}
_SEGFACE = {
    "swinb-celeba-512": "swin_b",
    "convnext-celeba-512": "convnext_b",
    "mobilenet-celeba-512": "mobilenet_v3_l",
    "efficientnet-celeba-512": "efficientnet_v2_m",
    "resnet-celeba-512": "resnet101",
    "swinv2b-celeba-512": "swin_v2_b",
}

LAYOUTS: dict[str, Layout] = {
    "adaface/ir50-webface4m": undone("adaface", lambda key: f"net.{_adaface(key)}", backbone="ir50"),
    "adaface/ir101-webface12m": undone("adaface", lambda key: f"model.{_adaface(key)}", backbone="ir101"),
    "arcface/ir-se50": undone("arcface", _adaface, backbone="ir_se50"),
    "bisenet/bisenet": of("parse.test_bisenet"),
    "bopbtl/detection": of("damage.test_bopbtl"),
    "clip/vit-l-14": of("features.test_clip", lambda tests: tests.openai_shapes()),
    "clip/vit-b-16": of("features.test_clip", lambda tests: tests.openai_shapes(768, 12, 16, 512, 512)),
    "codeformer/codeformer": vector("codeformer"),
    "ddcolor/modelscope": of("colourise.test_ddcolor", _large),
    "ddcolor/artistic": of("colourise.test_ddcolor", _large),
    "ddcolor/tiny": of("colourise.test_ddcolor", lambda tests: tests.published_shapes(*tests.TINY[:2])),
    "drunet/colour": of("enlarge.test_drunet"),
    "easyportrait/segformer-fp-512": undone("easyportrait", _segformer, classes=8),
    "easyportrait/segformer-ps-512": undone("easyportrait", _segformer, classes=2),
    "easyportrait/fpn-fp-512": undone("easyportrait", _fpn, network="fpn_resnet50", classes=8),
    "easyportrait/fpn-ps-512": undone("easyportrait", _fpn, network="fpn_resnet50", classes=2),
    "facenet/vggface2": of("recognise.test_facenet"),
    "facenet/casia-webface": of("recognise.test_facenet"),
    "fan/2dfan4": of("landmarks.test_fan"),
    "fan/2dfan4-2017": of("landmarks.test_fan"),
    **{f"gfpgan/v1.{minor}": vector("gfpgan-v1-clean") for minor in (2, 3, 4)},
    "gfpgan/v1.0": of("restore.test_gfpgan", lambda tests: tests.original_shapes()),
    "gpen/bfr-512": of("restore.test_gpen"),
    "minifasnet/v2": of("liveness.test_minifasnet", lambda tests: tests.published_shapes(tests.V2, weighed=False)),
    "minifasnet/v1se": of("liveness.test_minifasnet", lambda tests: tests.published_shapes(tests.V1SE, weighed=True)),
    "mos/mos-m": vector("mos", "module."),
    "mos/mos-s": vector("mos-s", "module."),
    **{f"nafnet/{name}": nafnet(name) for name in _NAFNET},
    "parsenet/parsenet": of("parse.test_parsenet"),
    **{
        f"realesrgan/{name}": listed("enlarge.test_realesrgan", like)
        for name, like in {
            "general-x4v3": "general-x4v3",
            "general-wdn-x4v3": "general-x4v3",
            "x4plus": "x4plus",
            "x2plus": "x2plus",
        }.items()
    },
    "refldm/refldm": of("restore.test_refldm", lambda tests: tests.published_file()),
    "refldm_vqgan/vqgan": of("latents.test_refldm_vqgan"),
    "restoreformer/restoreformer++": vector("restoreformer", "vqvae."),
    "restoreformer/restoreformer": vector("restoreformer-v1", "vqvae."),
    "restoreformer/restoreformer-gfpgan": vector("restoreformer-v1"),
    "retinaface/mobilenet0.25": of("detect.test_retinaface", lambda tests: tests.published_shapes("mobilenet")),
    "retinaface/resnet50": of("detect.test_retinaface", lambda tests: tests.published_shapes("resnet50")),
    **{f"rtnet/{name}": undone("rtnet", _rtnet, **options) for name, options in _RTNET.items()},
    "scunet/psnr": of("enlarge.test_scunet"),
    "scunet/gan": of("enlarge.test_scunet"),
    **{f"segface/{name}": segface(backbone) for name, backbone in _SEGFACE.items()},
    **{f"segface/swinb-lapa-{size}": segface("swin_b", "lapa") for size in (224, 256, 448, 512)},
    **{
        f"swinir/{name}": listed("enlarge.test_swinir", name)
        for name in ("real-m-gan", "real-m-psnr", "real-l-gan", "denoise-25")
    },
    "sixdrepnet/300w-lp": of("pose.test_sixdrepnet", lambda tests: tests.published_shapes(tests.branches)),
    "stylegan2/ffhq-512-basicsr": stylegan2(s2.to_basicsr, 512),
    "stylegan2/ffhq-1024-ada": stylegan2(s2.to_nvidia, 1024),
    "stylegan2/ffhq-1024-tensorflow": stylegan2(s2.to_nvidia, 1024),
}
"""Of every file that can be fetched and is no ONNX graph."""
