"""Benchmarks: one protocol for all systems of a task, resumable, with intervals."""
