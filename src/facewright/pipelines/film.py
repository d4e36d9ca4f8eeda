"""Old name of `facewright.pipelines.restore_video`; it goes with the next minor version."""

from ..deprecation import renamed_names

__getattr__ = renamed_names(
    __name__,
    {
        "FilmReport": "facewright.pipelines.restore_video:VideoRestoreResult",
        "restore_video": "facewright.pipelines.restore_video:restore_video",
    },
)
