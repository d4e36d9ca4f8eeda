"""How RestoreFormer is trained: first its dictionary on good faces, then the restorer that asks it.

Both stages minimise what `CodebookTraining` says (arXiv 2308.07228, sections 3.2 and 3.3, and the published code). The
paper's identity term and its discriminators of eyes and mouth, which need networks of others, are not part of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ....errors import UsageError
from ..codebook_training import CodebookTraining
from .network import RestoreFormer

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn


class DictionaryTraining(CodebookTraining):
    """Stage one: a network without cross-attention reconstructs good faces and learns the codebook."""

    source = "hq"

    def __init__(self, model: RestoreFormer, **options: float) -> None:
        if model.config.cross_at:
            raise UsageError("a dictionary is trained without cross-attention: set cross_at to () in the configuration")
        super().__init__(model, **options)  # type: ignore[arg-type]


class RestorationTraining(CodebookTraining):
    """Stage two: starts from the dictionary in folder or file `dictionary`; attention of the decoder learns faster."""

    source = "lq"

    def __init__(
        self, model: RestoreFormer, *, dictionary: str | Path, attention_lr: float = 10.0, **options: float
    ) -> None:
        if not model.config.cross_at:
            raise UsageError("a restorer asks its dictionary: name sides in cross_at of the configuration")
        super().__init__(model, **options)  # type: ignore[arg-type]
        model.load_dictionary(RestoreFormer.from_pretrained(dictionary))
        self.attention_lr = attention_lr

    def groups(self) -> list[dict[str, object]]:
        asking: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                (asking if "decoder" in name and ".attention" in name else others).append(parameter)
        return [{"params": others}, {"params": asking, "lr": self.attention_lr * self.lr}]
