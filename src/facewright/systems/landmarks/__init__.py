"""Landmarks: the points of a face, from a crop around it."""
