"""The form in which a convolutional network runs fastest at inference: batch norms folded, channels last, bfloat16."""

from __future__ import annotations

import copy

import torch
from torch import fx, nn
from torch.fx.experimental.optimization import fuse

from .prelu import PReLU


class _Tracer(fx.Tracer):
    """Keeps our activation whole: its forward depends on whether gradients are wanted."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, PReLU) or super().is_leaf_module(m, module_qualified_name)


def has_bf16(device: torch.device) -> bool:
    """Whether bfloat16 arithmetic is native there, and so faster than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return device.type == "cpu" and supported is not None and bool(supported())


def deployed(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy for inference: batch norms folded into the convolutions before them, weights in `dtype`, channels last.

    The network must be traceable by torch.fx and is left as it is.
    """
    evaluated = copy.deepcopy(network).eval()
    traced = fx.GraphModule(evaluated, _Tracer().trace(evaluated))
    folded = fuse(traced, inplace=True, no_trace=True).requires_grad_(False)
    return folded.to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]
