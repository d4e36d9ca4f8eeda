"""Old names that work for one more minor version, each with a DeprecationWarning that says what to write instead."""

from __future__ import annotations

import functools
import importlib
import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def warn_renamed(old: str, new: str, *, stacklevel: int = 3) -> None:
    """Warn whoever called the caller that `old` is now `new`."""
    warnings.warn(f"{old} is deprecated; use {new}", DeprecationWarning, stacklevel=stacklevel)


def renamed_names(module: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """A module's `__getattr__` that still gives its old names.

    Args:
        module: The module's `__name__`.
        names: New name by old name, in the same module or as "package.module:name".
    """

    def getattribute(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        home, _, new = names[name].rpartition(":")
        warn_renamed(f"{module}.{name}", f"{home or module}.{new}")
        return getattr(importlib.import_module(home or module), new)

    return getattribute


def renamed_arguments(**names: str) -> Callable[[F], F]:
    """Decorate a function, or a class, that still takes keywords by their old names: `renamed_arguments(old="new")`."""

    def decorate(target: F) -> F:
        if inspect.isclass(target):
            target.__init__ = _renaming(target.__init__, target.__name__, names)  # type: ignore[method-assign]
            return target
        return _renaming(target, target.__name__, names)

    return decorate


def _renaming(function: F, label: str, names: Mapping[str, str]) -> F:
    @functools.wraps(function)
    def call(*args: Any, **values: Any) -> Any:
        for old in values.keys() & names.keys():
            new = names[old]
            if new in values:
                raise TypeError(f"{label}() got both {old!r} and {new!r}, which is its new name")
            warn_renamed(f"the argument {old} of {label}", new)
            values[new] = values.pop(old)
        return function(*args, **values)

    return call  # type: ignore[return-value]


def renamed_attribute(new: str) -> Any:
    """A property that gives the attribute `new`; assign it to the old name in the class body."""

    class Renamed(property):
        def __set_name__(self, owner: type, name: str) -> None:
            self.label = f"{owner.__name__}.{name}"

    def get(instance: Any) -> Any:
        warn_renamed(prop.label, new)
        return getattr(instance, new)

    get.__doc__ = f"Old name of `{new}`."
    prop = Renamed(get)
    return prop
