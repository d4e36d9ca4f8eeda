"""Enrol and search identities."""

from ..errors import GalleryError
from .crypto import create_key
from .records import Match, Person, RecogniserId, Sample
from .store import Gallery

__all__ = ["Gallery", "GalleryError", "Match", "Person", "RecogniserId", "Sample", "create_key"]
