"""What reproductions and benchmarks share: the runner, a small trainer, and pictures of LFW (loaded when asked for)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .runner import Arms, Verdict, arms_file, begin, finish, mean_std, options, summary, table, verdict

if TYPE_CHECKING:
    from facewright.data.pairs import Pairs

    from .faces import (
        BOXED,
        SIZE,
        Faces,
        Images,
        Indices,
        Verification,
        load_faces,
        run,
        spread_out,
        verification_pairs,
    )
    from .training import (
        MAX_GRAD_NORM,
        MOMENTUM,
        SHIFT,
        WARM_UP,
        Epochs,
        SmallResNet,
        augmented,
        channels_last,
        decayed,
        half,
        signed,
        train,
    )
else:

    def __getattr__(name: str) -> Any:
        for module in ("faces", "training"):
            if name in __all__ and hasattr(found := import_module(f".{module}", __name__), name):
                return getattr(found, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "BOXED",
    "MAX_GRAD_NORM",
    "MOMENTUM",
    "SHIFT",
    "SIZE",
    "WARM_UP",
    "Arms",
    "Epochs",
    "Faces",
    "Images",
    "Indices",
    "Pairs",
    "SmallResNet",
    "Verdict",
    "Verification",
    "arms_file",
    "augmented",
    "begin",
    "channels_last",
    "decayed",
    "finish",
    "half",
    "load_faces",
    "mean_std",
    "options",
    "run",
    "signed",
    "spread_out",
    "summary",
    "table",
    "train",
    "verdict",
    "verification_pairs",
]
