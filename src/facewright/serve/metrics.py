"""Numbers about the server in Prometheus' form; none says anything about a picture, a person or a client."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ..nn.memory import resident_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from .lanes import Lane

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 1800, 7200)


class Metrics:
    """The server's counters; one registry each, so that several servers fit into a process."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "facewright_requests", "Requests answered", ("method", "route", "status"), registry=registry
        )
        self.seconds = Histogram(
            "facewright_request_seconds", "Time to answer a request", ("route",), buckets=_SECONDS, registry=registry
        )
        self.jobs = Counter("facewright_jobs", "Jobs ended", ("task", "state"), registry=registry)
        self.job_seconds = Histogram(
            "facewright_job_seconds", "Time of a job's work", ("task",), buckets=_SECONDS, registry=registry
        )
        self.faces = Counter("facewright_faces", "Faces found", registry=registry)
        self.batches = Histogram(
            "facewright_batch_faces", "Faces that went through a network together", buckets=range(1, 33),
            registry=registry,
        )  # fmt: skip
        self.refused = Counter("facewright_refused", "Requests and jobs refused", ("code",), registry=registry)

    def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        """A gauge whose value is asked for when it is read."""
        Gauge(f"facewright_{name}", text, registry=self.registry).set_function(value)

    def watch_lane(self, lane: Lane) -> None:
        """How many jobs of a lane wait and run."""
        self.watch(f"{lane.name}_jobs_waiting", f"{lane.name} jobs in the queue", lambda: lane.waiting)
        self.watch(f"{lane.name}_jobs_running", f"{lane.name} jobs at work", lambda: lane.busy)

    def watch_memory(self) -> None:
        """How much memory the process holds, where the system says so."""
        try:
            resident_bytes()
        except OSError:
            return
        self.watch("resident_bytes", "Memory of the process", resident_bytes)

    def text(self) -> bytes:
        """Everything, as Prometheus reads it."""
        return generate_latest(self.registry)
