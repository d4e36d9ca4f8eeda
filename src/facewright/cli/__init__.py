"""The command line: `facewright`."""

from .commands import app, main

__all__ = ["app", "main"]
