"""facewright: restore the faces in photos and videos.

import facewright as fw

result = fw.restore("grandmother_1952.jpg")
result.save("grandmother.png")
result.compare().save("before_after.png")
"""

import logging as _logging
from typing import Any

from . import api as _api
from .api import *  # noqa: F403
from .errors import FacewrightError
from .face import Face, FaceCrop, Pose
from .loading import create, degrade_photo, download, load_pipeline, models, read
from .processors import prepare as _prepare_processors
from .runtime.session import Session

__version__ = "0.1.0"

__all__ = [
    "Face",
    "FaceCrop",
    "FacewrightError",
    "Pose",
    "Session",
    "__version__",
    "create",
    "degrade_photo",
    "download",
    "load_pipeline",
    "models",
    "read",
]
__all__ += _api.__all__

_logging.getLogger(__name__).addHandler(_logging.NullHandler())  # silent unless the program sets up logging
_prepare_processors()  # nothing so far has loaded torch


def __getattr__(name: str) -> Any:
    """Functions of tasks that were plugged in from elsewhere."""
    from .runtime.runners import function
    from .tasks.declare import tasks

    if not name.startswith("_") and name in tasks():
        return function(tasks()[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
