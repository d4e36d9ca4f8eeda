"""How action units occur together: the graph over which MLCR's classifiers learn from each other."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ....errors import UsageError

EMOTIONET = ("AU1", "AU2", "AU4", "AU5", "AU6", "AU9", "AU12", "AU17", "AU20", "AU25", "AU26", "AU43")
BP4D = ("AU1", "AU2", "AU4", "AU6", "AU7", "AU10", "AU12", "AU14", "AU15", "AU17", "AU23", "AU24")

_EMOTIONET_RELATIONS = """
1 .321 .1009 .1415 -.1146 -.0541 -.1153 .072 .0487 -.0573 .1102 -.0162
.1462 1 -.0456 .1585 -.0611 .0145 -.0564 -.0062 .1656 -.0384 -.0042 -.0507
.2747 -.0039 1 .0597 -.1383 .7287 -.1474 .3877 .5237 -.0237 .035 .2182
.0774 .2054 -.023 1 -.0802 .0351 -.0657 .0521 .1632 -.0368 .002 -.0695
-.198 -.1422 -.222 -.2011 1 -.1838 .4955 -.2111 -.2372 .2497 -.0222 -.1519
-.027 .0215 .1253 .028 -.0498 1 -.0362 .1797 .3331 -.0055 -.0355 .0965
-.4097 -.3267 -.4494 -.3731 .4877 -.423 1 -.4276 -.5 .1519 -.2145 -.3563
-.0187 -.0338 .0119 .0022 -.0938 .1265 -.0686 1 .1021 -.0733 -.0678 -.0114
.0069 .0411 .0261 .0322 -.0135 .0957 -.0071 .0501 1 .0101 .0004 .002
-.0113 .0917 -.0433 .0639 .4284 .271 .4112 -.1922 .4314 1 .4628 -.0227
.1981 .0925 .0122 .0845 -.0165 -.0536 -.0303 -.0474 .0212 .1338 1 .0008
-.0686 -.0962 -.0366 -.1043 -.104 .05 -.0993 -.0272 -.0764 -.0918 -.0776 1
"""
_BP4D_RELATIONS = """
1 .5023 .1244 -.009 .0047 .0597 .013 -.0066 -.0281 .0163 -.0173 -.0569
.427 1 -.073 .0356 -.0142 .0543 .0853 .018 -.036 -.0176 .0035 -.0284
.1204 -.0832 1 -.0467 .0568 -.0638 -.2152 -.0352 -.0136 .0551 .0402 .0585
-.0135 .0624 -.0719 1 .5378 .5095 .5442 .2497 .2127 .0363 .116 -.0299
.0069 -.0248 .0872 .5359 1 .3964 .3516 .1961 .224 .0795 .0999 .0222
.0864 .0925 -.0953 .4945 .3861 1 .5204 .2519 .2033 .0068 .056 -.1353
.0192 .1483 -.3285 .5391 .3496 .5312 1 .2237 .1548 -.0238 .0828 -.119
-.0099 .0316 -.0543 .2501 .1971 .2599 .2261 1 .196 .1693 .2014 .3139
-.0237 -.0358 -.0119 .1205 .1273 .1186 .0885 .1108 1 .2318 .2372 .1748
.0221 -.028 .0771 .033 .0725 .0064 -.0218 .1535 .3716 1 .3502 .5557
-.0144 .0034 .0344 .0645 .0557 .032 .0464 .1117 .2327 .2143 1 .2738
-.0439 -.0258 .0466 -.0155 .0115 -.0721 -.0621 .162 .1595 .3165 .2547 1
"""


def published_relations(units: tuple[str, ...]) -> Tensor | None:
    """The (U, U) matrix published for EmotioNet's or BP4D's units, in their order; None for other units."""
    known: dict[tuple[str, ...], str] = {EMOTIONET: _EMOTIONET_RELATIONS, BP4D: _BP4D_RELATIONS}
    text = known.get(units)
    return None if text is None else torch.from_numpy(np.array(text.split(), np.float32).reshape(12, 12))


def relations_of(labels: Tensor) -> Tensor:
    """How much likelier a unit is present where another one is than where it is not.

    (N, U) labels of 1 present, −1 absent and 0 unknown to the (U, U) matrix of P(i | j) − P(i | not j), i in rows, 1 on
    the diagonal, over the pictures where both are known. Raises UsageError where a unit is never or always present
    among them, for then nothing can be said.
    """
    present, absent = (labels == 1).double(), (labels == -1).double()
    known = present + absent
    with_j, without_j = known.T @ present, known.T @ absent
    if not (with_j > 0).all() or not (without_j > 0).all():
        raise UsageError(
            "relations between action units need each of them present on some pictures and absent on others"
        )
    matrix = present.T @ present / with_j - present.T @ absent / without_j
    matrix.fill_diagonal_(1)
    return matrix.float()


def adjacency_of(relations: Tensor) -> Tensor:
    """The graph's weights D^−½ Aᵀ D^−½ (U, U) of A = |relations| with the row sums D.

    The sign of a relation is lost: two units that exclude each other are as close as two that come together. The
    published code has it so.
    """
    weights = relations.abs()
    scale = weights.sum(1).rsqrt()
    return scale[:, None] * weights.T * scale
