"""facewright: give the people in a photo or film their faces back, still themselves.

import facewright as fw

result = fw.restore("grandmother_1952.jpg")
result.save("grandmother.png")
result.compare().save("before_after.png")
"""

from .api import analyse, create, degrade_photo, detect, embed, load_pipeline, models, quality, read, restore, verify
from .errors import FacewrightError
from .face import Face, FaceCrop, Pose

__version__ = "0.1.0"

__all__ = [
    "Face",
    "FaceCrop",
    "FacewrightError",
    "Pose",
    "__version__",
    "analyse",
    "create",
    "degrade_photo",
    "detect",
    "embed",
    "load_pipeline",
    "models",
    "quality",
    "read",
    "restore",
    "verify",
]
