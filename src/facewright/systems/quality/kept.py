"""Old name of `facewright.systems.quality.retained`; it goes with the next minor version."""

from ...deprecation import renamed_names

_HERE = "facewright.systems.quality.retained"

__getattr__ = renamed_names(
    __name__,
    {
        "KeptModel": f"{_HERE}:RetainedModel",
        "KeptModels": f"{_HERE}:RetainedModels",
        "kept": f"{_HERE}:retained_fraction",
        "kept_after": f"{_HERE}:retained_after",
        "signals": f"{_HERE}:signals",
    },
)
