"""How EasyPortrait trains its SegFormer and FPN: pixel cross entropy, AdamW and a faster head, as published."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ..parser_training import ParserTraining

if TYPE_CHECKING:
    from .network import EasyPortrait


class EasyPortraitTraining(ParserTraining):
    """`ParserTraining` with the published rates: the head learns ten times faster than the backbone."""

    backbones: ClassVar[tuple[str, ...]] = ("net.encoder.", "net.backbone.")

    def __init__(
        self, model: EasyPortrait, *, lr: float = 6e-5, weight_decay: float = 0.01, head_rate: float = 10.0
    ) -> None:
        super().__init__(model, lr=lr, weight_decay=weight_decay, head_rate=head_rate)
