"""FaceFill: fills holes in aligned faces on a processor."""
