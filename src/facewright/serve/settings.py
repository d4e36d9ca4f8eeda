"""What the server is told: where it listens, who may use it, and how much."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Annotated

from ..tasks.declare import Checked, Opt

MB = 1_000_000


@dataclass(frozen=True, slots=True)
class ServeOptions(Checked):
    """Options of `facewright serve`; times in seconds, sizes in megabytes of a million bytes."""

    host: Annotated[str, Opt("Address to listen on; one that other machines reach needs --tokens.")] = "127.0.0.1"
    port: Annotated[int, Opt("Port; 0 takes a free one.", low=0, high=65535)] = 8000
    tokens: Annotated[str | None, Opt("File with the hashes of access tokens; --new-token adds one.")] = None
    state: Annotated[str | None, Opt("Folder for uploads and results; what is in it survives a restart.")] = None
    keep: Annotated[float, Opt("Seconds for which a result is kept.", low=1)] = 3600.0
    device: Annotated[str, Opt("auto, cpu, cuda, cuda:1.")] = "auto"
    workers: Annotated[int, Opt("Photos processed at the same time.", low=1, high=64)] = 2
    video_workers: Annotated[int, Opt("Videos processed at the same time.", low=1, high=16)] = 1
    queue: Annotated[int, Opt("Jobs that may wait; further ones are told when to come back.", low=1)] = 64
    batch_wait: Annotated[
        float, Opt("Seconds a face waits for those of other photos, to go through a network together.", low=0, high=1)
    ] = 0.0
    max_mb: Annotated[float, Opt("Largest photo file.", low=0.001)] = 64.0
    max_video_mb: Annotated[float, Opt("Largest video file.", low=0.001)] = 4000.0
    max_megapixels: Annotated[float, Opt("Largest photo, and largest result.", low=0.001)] = 64.0
    max_faces: Annotated[int, Opt("Most faces in a photo.", low=1)] = 200
    max_seconds: Annotated[float, Opt("Longest work on a photo.", low=0.01)] = 300.0
    max_video_seconds: Annotated[float, Opt("Longest work on a video.", low=0.01)] = 21600.0
    max_disk_mb: Annotated[float, Opt("Room for uploads and results.", low=1)] = 8000.0
    max_memory_mb: Annotated[
        float, Opt("Memory for results whose strength and format can be changed without a network.", low=0)
    ] = 512.0
    connections: Annotated[int, Opt("Connections at the same time.", low=1)] = 512
    patience: Annotated[float, Opt("Seconds after which a silent client is given up.", low=0.05)] = 20.0
    grace: Annotated[float, Opt("Seconds that running jobs get when the server is stopped.", low=0)] = 30.0
    allow_host: Annotated[
        tuple[str, ...], Opt("Further names under which the server is asked, behind a proxy; separated by commas.")
    ] = ()
    allow_origin: Annotated[
        tuple[str, ...], Opt("Other sites whose pages may use the API (CORS); separated by commas.")
    ] = ()

    @property
    def is_local(self) -> bool:
        """Whether only programs of this machine can reach the address."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def photo_bytes(self) -> int:
        return round(self.max_mb * MB)

    @property
    def video_bytes(self) -> int:
        return round(self.max_video_mb * MB)

    @property
    def disk_bytes(self) -> int:
        return round(self.max_disk_mb * MB)

    @property
    def memory_bytes(self) -> int:
        return round(self.max_memory_mb * MB)

    @property
    def pixels(self) -> int:
        return round(self.max_megapixels * 1e6)
