"""What the reproductions share: pictures of LFW, a small trainer, and the runner."""

from facewright.data.pairs import Pairs

from .faces import BOXED, SIZE, Faces, Images, Indices, Verification, load_faces, run, spread_out, verification_pairs
from .runner import Arms, arms_file, begin, finish, mean_std, options, table, verdict
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
    "table",
    "train",
    "verdict",
    "verification_pairs",
]
