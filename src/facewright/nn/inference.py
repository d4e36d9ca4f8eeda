"""The form in which a convolutional network runs fastest at inference: batch norms folded, channels last, bfloat16."""

from __future__ import annotations

import copy
import threading
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn
from torch.fx.experimental.optimization import fuse

from .prelu import PReLU

if TYPE_CHECKING:
    from collections.abc import Callable


_tracing = threading.Lock()


class _Tracer(fx.Tracer):
    """Keeps our activation whole: its forward depends on whether gradients are wanted.

    While torch.fx traces, it replaces `Module.__call__` and `Module.__getattr__` of the whole process. What other
    threads run meanwhile passes through here and is let alone.
    """

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: Any) -> Any:
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        if threading.get_ident() != self._thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

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

    The network must be traceable by torch.fx and is left as it is. Other threads may run networks meanwhile.
    """
    evaluated = copy.deepcopy(network).eval()
    with _tracing:  # two traces at a time would leave the replaced methods behind
        traced = fx.GraphModule(evaluated, _Tracer().trace(evaluated))
    folded = fuse(traced, inplace=True, no_trace=True).requires_grad_(False)
    return folded.to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]
