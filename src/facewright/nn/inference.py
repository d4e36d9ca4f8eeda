"""The forms in which networks run fastest at inference: batch norms folded, channels last, bfloat16.

A form is a copy. `InferenceForms` makes each one once and again when the weights it was made from have changed.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING, Any, TypeVar, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.optimization import fuse

from .prelu import PReLU

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

M = TypeVar("M", bound=nn.Module)

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


def folded_copy(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy for inference: batch norms folded into the convolutions before them, weights in `dtype`, channels last.

    The network must be traceable by torch.fx and is left as it is. Other threads may run networks meanwhile.
    """
    evaluated = sharing_copy(network)
    with _tracing:  # two traces at a time would leave the replaced methods behind
        traced = fx.GraphModule(evaluated, _Tracer().trace(evaluated))
    return converted(fuse(traced, inplace=True, no_trace=True), dtype)


def plain_copy(network: M, dtype: torch.dtype) -> M:
    """A copy for inference of a network that has nothing to fold."""
    return converted(sharing_copy(network), dtype)


def sharing_copy(network: M) -> M:
    """A copy in evaluation mode whose modules are its own, while parameters and buffers are shared: not to write to.

    Other attributes of modules are shared, too; in a tenth of the time of `copy.deepcopy`.
    """
    twins: dict[int, nn.Module] = {}

    def twin(part: nn.Module) -> nn.Module:
        if id(part) not in twins:
            new = twins[id(part)] = part.__new__(type(part))
            new.__dict__ = part.__dict__.copy()
            new._parameters, new._buffers = part._parameters.copy(), part._buffers.copy()
            new._modules = {name: None if child is None else twin(child) for name, child in part._modules.items()}
        return twins[id(part)]

    return cast("M", twin(network).eval())


def converted(network: M, dtype: torch.dtype, read: Callable[[Tensor], object] = lambda tensor: None) -> M:
    """The network itself with new, frozen weights in `dtype`, channels last; the old ones are not written to.

    A module's `full_precision` names parameters and buffers of its own that stay as they are: coordinates, codebooks.
    `read` is called with every tensor that has been replaced.
    """
    tables = [(part, table) for part in network.modules() for table in (part._parameters, part._buffers)]
    uses = Counter(id(tensor) for _, table in tables for tensor in table.values())
    shared: dict[int, tuple[Tensor, Tensor]] = {}
    for part, table in tables:
        exempt = getattr(part, "full_precision", ())
        for name, old in table.items():
            if old is None or (name in exempt and table is part._buffers):
                continue
            new = shared[id(old)][1] if id(old) in shared else _frozen(old, old.dtype if name in exempt else dtype)
            if uses[id(old)] > 1:
                shared[id(old)] = old, new
            read(old)
            table[name] = new  # type: ignore[assignment]  # frozen, so a parameter is not wanted
    return network


def _frozen(old: Tensor, dtype: torch.dtype) -> Tensor:
    """A copy without gradients, floating numbers in a type, kernels channels last."""
    wanted = dtype if old.is_floating_point() else old.dtype
    order = torch.channels_last if old.dim() == 4 else torch.preserve_format
    new = old.detach().to(wanted, copy=True, memory_format=order)
    return nn.Parameter(new, requires_grad=False) if isinstance(old, nn.Parameter) else new


class AutocastCopy(nn.Module):
    """A copy that computes under autocast: for networks that say themselves what must stay in float32.

    Answers keep the types that autocast gives them. Modules of the `light` kinds, which autocast would convert anyway,
    keep their weights in `dtype`; the buffers of the others are shared. `read` as in `converted`.
    """

    def __init__(
        self,
        network: nn.Module,
        dtype: torch.dtype,
        light: tuple[type[nn.Module], ...] = (),
        read: Callable[[Tensor], object] = lambda tensor: None,
    ) -> None:
        super().__init__()
        twin = sharing_copy(network)
        for part in twin.modules() if light else ():
            if not isinstance(part, light):
                part.full_precision = (*part._parameters, *part._buffers)  # type: ignore[assignment]
        self.network = converted(twin, dtype if light else torch.float32, read)
        self.dtype = dtype

    def forward(self, x: Tensor, *inputs: Any, **options: Any) -> Any:
        with torch.autocast(x.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
            return self.network(x.float(), *inputs, **options)


class InferenceForms:
    """Forms of networks by type, each made once for the weights as they are. Threads may share it.

    Training, loading, moving and replacing weights or modules all count as a change. A form lives as long as its
    network and must not refer to it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of: WeakKeyDictionary[nn.Module, _Made] = WeakKeyDictionary()

    def get(self, network: nn.Module, dtype: torch.dtype, make: Callable[[torch.dtype], nn.Module]) -> nn.Module:
        """The network's form in `dtype`; `make(dtype)` makes it where there is none of these weights."""
        with self._lock:
            made = self._of.setdefault(network, _Made())
        with made.lock:
            if made.source is None or made.source.has_changed():
                made.source = _Source(network)
                made.forms = {}
            if dtype not in made.forms:
                with torch.inference_mode(False), torch.no_grad():
                    made.forms[dtype] = make(dtype)
            return made.forms[dtype]


class _Made:
    """The forms of one network and the weights they were made of."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.source: _Source | None = None
        self.forms: dict[torch.dtype, nn.Module] = {}


class _Source:
    """What a network consisted of at one time; asking whether it still does takes a tenth of walking through it."""

    def __init__(self, network: nn.Module) -> None:
        parts = list(network.modules())
        self._modules = [(part._modules, name, child) for part in parts for name, child in part._modules.items()]
        tables: list[Mapping[str, Tensor | None]] = [own for part in parts for own in (part._parameters, part._buffers)]
        named = [(own, name, tensor) for own in tables for name, tensor in own.items() if tensor is not None]
        self._tensors = [(own, name, t, t.data_ptr(), _version(t)) for own, name, t in named]

    def has_changed(self) -> bool:
        return any(own.get(name) is not part for own, name, part in self._modules) or any(
            own.get(name) is not t or t.data_ptr() != address or _version(t) != version
            for own, name, t, address, version in self._tensors
        )


def _version(tensor: Tensor) -> int:
    """How often a tensor was written to; those made in inference mode do not count it."""
    return 0 if tensor.is_inference() else tensor._version
