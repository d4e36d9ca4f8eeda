"""Many clients at once against one server, as a markdown page.

    python -m benchmarks.serve_load --write --seconds 600
    python -m benchmarks.serve_load --seconds 120 --clients 50

Each client sends one photo after the other, of 0.1 to 12 megapixels, to be restored or looked at, and waits for its
result; where it is told that the server is busy, it waits as long as it is told, and sends another. A restored photo is
compared, byte by byte, with the file that the command writes. Before, one photo of a face is sent by itself, once a
second, and its time compared with that of the same call in a process, once a second too: a processor that has slept
is slower, for either of them.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from benchmarks.serving import Server, as_json, form, photo, serving

from reproductions import common

if TYPE_CHECKING:
    from collections.abc import Callable

SIZES = (0.1, 0.1, 0.3, 0.3, 1.0, 2.0, 6.0, 12.0)
"""Megapixels of the photos."""
ALONE = 20
"""Photos sent one by one, for the time of an idle server, after one that does not count."""
WINDOW = 30.0
"""Seconds over which the server's memory is averaged: it rises and falls with every photo at work."""


class Clients:
    """Threads that send photos until the time is over; `statuses` counts what they were told."""

    def __init__(self, server: Server, photos: list[bytes], expected: list[bytes], end: float) -> None:
        self.server, self.photos, self.expected, self.end = server, photos, expected, end
        self.statuses: Counter[int] = Counter()
        self.kinds: Counter[str] = Counter()
        self.wrong = 0
        self.times: list[float] = []
        self._lock = threading.Lock()

    def run(self, number: int) -> None:
        draw = random.Random(number)
        while time.monotonic() < self.end:
            which, edits = draw.randrange(len(self.photos)), draw.random() < 0.5
            start = time.monotonic()
            status, headers, body = self._send(which, edits)
            with self._lock:
                self.statuses[status] += 1
                if status == 200:
                    self.kinds["restored" if edits else "detected"] += 1
                    self.times.append(time.monotonic() - start)
                    self.wrong += edits and body != self.expected[which]
            if status == 429:
                time.sleep(min(float(headers.get("retry-after", 1)), max(0.0, self.end - time.monotonic())))

    def _send(self, which: int, edits: bool) -> tuple[int, Any, bytes]:
        """The answer to a photo: 200 with the picture or the result, or what stood in the way."""
        body, headers = form({}, {"source": (f"{which}.jpg", self.photos[which])})
        status, told, answer = self.server.ask("POST", f"/v1/{'restore' if edits else 'detect'}", body, headers)
        if status != 202:
            return status, told, answer
        job = as_json(answer)
        while job["state"] not in ("done", "failed", "cancelled"):
            status, told, answer = self.server.ask("GET", f"/v1/jobs/{job['id']}?wait=30")
            if status != 200:
                return status, told, answer
            job = as_json(answer)
        if job["state"] != "done":
            return job["problem"]["status"], told, answer
        return self.server.ask("GET", job["links"]["picture"]) if edits else (200, told, answer)


def expected_of(photos: list[bytes], folder: Path) -> list[bytes]:
    """What the command writes for each photo."""
    for number, content in enumerate(photos):
        (folder / "in").mkdir(exist_ok=True)
        (folder / "in" / f"{number}.jpg").write_bytes(content)
    command = [sys.executable, "-m", "facewright", "restore", str(folder / "in"), "-o", str(folder / "out")]
    subprocess.run([*command, "--device", "cpu"], check=True, capture_output=True)
    return [(folder / "out" / f"{number}.jpg").read_bytes() for number in range(len(photos))]


def once_a_second(call: Callable[[int], object]) -> list[float]:
    """Seconds of `ALONE` calls, begun once a second, after one that does not count."""
    times = []
    for number in range(ALONE + 1):
        start = time.perf_counter()
        call(number)
        times.append(time.perf_counter() - start)
        time.sleep(max(0.0, 1 - times[-1]))
    return times[1:]


def alone(server: Server, content: bytes) -> list[float]:
    """Seconds of requests at an idle server."""

    def ask(number: int) -> None:
        body, headers = form({}, {"source": ("a.jpg", content)})
        status, _, _ = server.ask("POST", "/v1/restore", body, headers | {"Accept": "image/jpeg"}, timeout=600)
        assert status == 200

    return once_a_second(ask)


def in_process(content: bytes, folder: Path) -> list[float]:
    """Seconds of the same call from Python, networks loaded."""
    import facewright as fw

    source = folder / "alone.jpg"
    source.write_bytes(content)
    return once_a_second(lambda number: fw.restore(source, output=folder / f"alone-{number}.jpg", device="cpu"))


def memory_over(server: Server, seconds: float) -> float:
    """Megabytes that the server holds, on average over so many seconds."""
    held, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        held.append(server.memory())
        time.sleep(0.5)
    return float(np.mean(held))


def _two(times: list[float]) -> str:
    return " / ".join(f"{np.percentile(times, share):.2f}" for share in (50, 95))


def main() -> None:
    parser = common.options(__doc__, quick="", arms=False)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=600.0)
    options = parser.parse_args()
    common.begin(options)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        photos = [photo(size, seed) for seed, size in enumerate(SIZES)]
        expected = expected_of(photos, folder)
        here = in_process(photos[2], folder)
        with serving(folder / "state", folder / "log") as server:
            before = alone(server, photos[2])
            began = time.monotonic()
            clients = Clients(server, photos, expected, began + options.seconds)
            threads = [threading.Thread(target=clients.run, args=(n,), daemon=True) for n in range(options.clients)]
            for thread in threads:
                thread.start()
            window = min(WINDOW, options.seconds / 4)
            time.sleep(min(60.0, options.seconds / 2))
            first = memory_over(server, window)
            time.sleep(max(0.0, began + options.seconds - window - time.monotonic()))
            last = memory_over(server, window)
            for thread in threads:
                thread.join()
            seconds = time.monotonic() - began
        log = (folder / "log").read_text(errors="replace")
    errors = {status: count for status, count in clients.statuses.items() if status not in (200, 429)}
    lines = [
        "# A server under load",
        "",
        f"Made by `python -m benchmarks.serve_load --clients {options.clients} --seconds {options.seconds:g}`: photos",
        f"of {min(SIZES)} to {max(SIZES):g} megapixels, half to be restored and half to find faces in, against one",
        "server with its default options on two processors. Other programs ran beside it; the load average was",
        f"{os.getloadavg()[0]:.1f} at the end. The server keeps results in memory, up to `--max-memory-mb`, so its",
        "memory grows until that is full; a short run ends before.",
        "",
        "| what | measured |\n|---|---:|",
        f"| clients | {options.clients} |",
        f"| seconds until the last answer | {seconds:.0f} |",
        f"| photos restored | {clients.kinds['restored']} |",
        f"| photos in which faces were found | {clients.kinds['detected']} |",
        f"| told that the server is busy (429) | {clients.statuses[429]} |",
        f"| other answers | {sum(errors.values())}{f' {errors}' if errors else ''} |",
        f"| restored photos that differ from the command's | {clients.wrong} |",
        f"| tracebacks in the log | {log.count('Traceback')} |",
        f"| memory after the first minute, MB, mean of {window:.0f} s | {first:.0f} |",
        f"| memory before the end, MB, mean of {window:.0f} s (ratio) | {last:.0f} ({last / first:.2f}) |",
        f"| seconds of a result, p50 / p95 | {np.percentile(clients.times or [0], 50):.1f} / "
        f"{np.percentile(clients.times or [0], 95):.1f} |",
        f"| one photo a second: p50 / p95 of {ALONE} requests, s | {_two(before)} |",
        f"| the same from Python: p50 / p95, s | {_two(here)} |",
        f"| ratio of the two p95 | {np.percentile(before, 95) / np.percentile(here, 95):.2f} |",
        "",
    ]
    common.finish(options, "serve-load", lines, systems=("facedetail",), people=False)


if __name__ == "__main__":
    main()
