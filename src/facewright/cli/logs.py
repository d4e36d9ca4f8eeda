"""What `-v` shows: decisions, fallbacks and skipped files, one line each on standard error."""

from __future__ import annotations

import logging
import warnings

LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)
"""By how often `-v` was given."""


def set_up(verbosity: int) -> None:
    """Show facewright's log from the level of `verbosity` on, and what is deprecated in any case."""
    logger = logging.getLogger("facewright")
    logger.setLevel(LEVELS[min(verbosity, len(LEVELS) - 1)])
    for handler in logger.handlers[:]:
        logger.removeHandler(handler)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    logger.addHandler(handler)
    logger.propagate = False
    warnings.filterwarnings("always", r".* is deprecated; use ", DeprecationWarning)
    warnings.showwarning = _show  # type: ignore[assignment]  # of our own parameter names


def _show(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: object) -> None:
    """Warnings as lines of the log: people at the command line need no source code, nor what libraries tell authors."""
    ours = issubclass(category, DeprecationWarning)
    level, where = (logging.WARNING, "") if ours else (logging.INFO, f" ({filename}:{lineno})")
    logging.getLogger("facewright").log(level, "%s%s", message, where)
