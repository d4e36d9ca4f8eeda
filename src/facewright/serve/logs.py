"""What the server writes about itself: routes, times and places in the code; no path, name, picture or token."""

from __future__ import annotations

import logging
import sys
import traceback
from pathlib import Path

LOG = logging.getLogger("facewright.serve")
_PACKAGE = Path(__file__).resolve().parents[1]


def prepare() -> None:
    """One line an event on standard error; libraries, which may name files, say nothing below an error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    LOG.handlers = [handler]
    LOG.setLevel(logging.INFO)
    LOG.propagate = False
    logging.getLogger("facewright").setLevel(logging.ERROR)  # what else the library says may name files
    for name in ("uvicorn.access", "uvicorn.error", "python_multipart"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)


def unexpected(where: str, error: BaseException) -> None:
    """Note an error nobody foresaw: its kind and the places of this package it passed, without its text, in which a
    path or a piece of somebody's file may stand."""
    places = [
        f"{Path(frame.filename).resolve().relative_to(_PACKAGE).as_posix()}:{frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).resolve().is_relative_to(_PACKAGE)
    ]
    LOG.error("unexpected %s in %s at %s", type(error).__name__, where, " ".join(places[-6:]) or "another library")
