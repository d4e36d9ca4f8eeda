"""Jobs: queued with a bound, watched, cancelled, kept for a time, and not lost."""

from __future__ import annotations

import json
import shutil
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from facewright.serve.jobs import MOST_ATTEMPTS, Values, bytes_of
from facewright.serve.work import Made

from .conftest import eventually, held

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .conftest import FakeSource


def send(client: Any, photo: bytes, verb: str = "restore", query: str = "", **data: str) -> Any:
    return client.post(f"/v1/{verb}{query}", files={"source": ("a.png", photo)}, data=data)


def state(client: Any, job: dict[str, Any]) -> str:
    return client.get(job["links"]["self"]).json()["state"]


def folders(tmp_path: Path, folder: str = "state") -> list[Path]:
    return list((tmp_path / folder / "jobs").iterdir())


# --- the queue


def test_what_finds_no_place_is_told_when_to_come_back(
    make_client: Callable[..., Any], source: FakeSource, photo_bytes: Callable[..., bytes], tmp_path: Path
) -> None:
    client = make_client(workers=1, queue=2)
    photo = photo_bytes()
    with held(source):
        running = send(client, photo).json()
        assert source.restorer.entered.wait(20)
        waiting = [send(client, photo).json() for _ in range(2)]
        assert [client.get(job["links"]["self"]).json()["position"] for job in waiting] == [0, 1]
        refused = send(client, photo)
        assert (refused.status_code, refused.json()["code"]) == (429, "busy")
        assert 1 <= int(refused.headers["retry-after"]) <= 300
        assert len(folders(tmp_path)) == 3
        assert state(client, running) == "running"
    for job in (running, *waiting):
        assert client.get(f"{job['links']['self']}?wait=20").json()["state"] == "done"
    assert send(client, photo, query="?wait=20").status_code == 200


def test_room_on_the_disk_is_bounded(make_client: Callable[..., Any], photo_bytes: Callable[..., bytes]) -> None:
    client = make_client(max_disk_mb=1)
    photo = photo_bytes(1000, 800)  # more than a megabyte
    first = send(client, photo, query="?wait=20").json()
    refused = send(client, photo)
    assert (refused.status_code, refused.json()["code"]) == (429, "no_room")
    assert int(refused.headers["retry-after"]) >= 1
    assert client.delete(first["links"]["self"]).status_code == 204
    assert send(client, photo).status_code == 202


def test_photos_do_not_wait_behind_each_other_when_there_are_workers(
    make_client: Callable[..., Any], source: FakeSource, photo_bytes: Callable[..., bytes]
) -> None:
    client = make_client(workers=2)
    with held(source):
        send(client, photo_bytes())
        assert source.restorer.entered.wait(20)
        assert send(client, photo_bytes(), "detect", "?wait=20").json()["state"] == "done"


# --- watching


def events_of(text: str) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for block in text.strip().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if lines:
            found.append((lines["event"], json.loads(lines["data"])))
    return found


def test_events_tell_every_state_and_end_with_the_result(
    make_client: Callable[..., Any], source: FakeSource, photo_bytes: Callable[..., bytes]
) -> None:
    client = make_client(workers=1)
    with held(source):
        send(client, photo_bytes())
        job = send(client, photo_bytes()).json()
        assert source.restorer.entered.wait(20)
        threading.Timer(0.3, source.restorer.hold.set).start()
        answer = client.get(job["links"]["events"])
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = events_of(answer.text)
    states = [name for name, _ in events]
    assert states[0] == "queued"
    assert states[-1] == "done"
    assert states == sorted(states, key=("queued", "running", "done").index)
    stages = {document["progress"]["stage"] for name, document in events if name == "running"}
    assert stages & {"looking for faces", "restoring faces", "judging the damage"}
    assert events[-1][1]["result"]["summary"] == "1 of 1 face restored"
    assert all(document["result"] is None for _, document in events[:-1])
    assert "events" not in events[-1][1]["links"]


def test_waiting_ends_when_the_time_is_over(client: Any, source: FakeSource, photo_bytes: Callable[..., bytes]) -> None:
    with held(source):
        start = time.monotonic()
        answer = send(client, photo_bytes(), query="?wait=0.2")
        assert answer.status_code == 202
        assert time.monotonic() - start < 15
        assert answer.json()["result"] is None
    assert client.get("/v1/jobs/x?wait=61").status_code == 422


# --- cancelling and deleting


def test_a_waiting_job_is_cancelled_at_once_and_leaves_nothing(
    make_client: Callable[..., Any], source: FakeSource, photo_bytes: Callable[..., bytes], tmp_path: Path
) -> None:
    client = make_client(workers=1)
    with held(source):
        send(client, photo_bytes())
        job = send(client, photo_bytes()).json()
        assert source.restorer.entered.wait(20)
        answer = client.delete(job["links"]["self"])
        assert (answer.status_code, answer.json()["state"]) == (202, "cancelled")
        files = [f.name for f in (tmp_path / "state" / "jobs" / job["id"]).rglob("*") if f.is_file()]
        assert files == ["job.json"]
    assert client.delete(job["links"]["self"]).status_code == 204
    assert client.get(job["links"]["self"]).status_code == 404


def test_a_running_job_stops_before_its_next_network(
    client: Any, source: FakeSource, photo_bytes: Callable[..., bytes]
) -> None:
    with held(source):
        job = send(client, photo_bytes()).json()
        assert source.restorer.entered.wait(20)
        assert client.delete(job["links"]["self"]).status_code == 202
    ended = client.get(f"{job['links']['self']}?wait=20").json()
    assert ended["state"] == "cancelled"
    assert ended["progress"]["stage"] == "restoring faces"  # nothing ran after it
    assert client.get(f"{job['links']['self']}/picture").status_code == 404


def test_a_deleted_job_is_gone_with_its_files(client: Any, photo_bytes: Callable[..., bytes], tmp_path: Path) -> None:
    job = send(client, photo_bytes(), query="?wait=20").json()
    assert len(folders(tmp_path)) == 1
    assert client.delete(job["links"]["self"]).status_code == 204
    assert folders(tmp_path) == []
    for link in job["links"].values():
        assert client.get(link).status_code == 404


def test_results_expire(make_client: Callable[..., Any], photo_bytes: Callable[..., bytes], tmp_path: Path) -> None:
    client = make_client(keep=1)
    job = send(client, photo_bytes(), query="?wait=20").json()
    eventually(lambda: client.get(job["links"]["self"]).status_code == 404)
    eventually(lambda: folders(tmp_path) == [])


def test_what_was_sent_goes_when_it_is_of_no_more_use(
    client: Any, source: FakeSource, photo_bytes: Callable[..., bytes], tmp_path: Path
) -> None:
    photo = photo_bytes()
    pair = client.post("/v1/verify?wait=20", files={"first": ("a.png", photo), "second": ("b.png", photo)}).json()
    source.restorer.fail = MemoryError()
    failed = send(client, photo, query="?wait=20").json()["job"]
    for identity in (pair["id"], failed):
        files = [f.name for f in (tmp_path / "state" / "jobs" / identity).rglob("*") if f.is_file()]
        assert files == ["job.json"]


# --- limits


def test_work_that_takes_too_long_is_ended(
    make_client: Callable[..., Any], source: FakeSource, photo_bytes: Callable[..., bytes]
) -> None:
    client = make_client(max_seconds=0.2)
    with held(source):
        threading.Timer(0.5, source.restorer.hold.set).start()
        answer = send(client, photo_bytes(), query="?wait=20")
    assert (answer.status_code, answer.json()["code"]) == (413, "too_long")


def test_a_crowd_is_refused(
    make_client: Callable[..., Any], source: FakeSource, photo_bytes: Callable[..., bytes]
) -> None:
    client = make_client(max_faces=3)
    source.detector.faces *= 4
    answer = send(client, photo_bytes(), "detect", "?wait=20")
    assert (answer.status_code, answer.json()["code"]) == (413, "too_many_faces")
    assert "4 faces" in answer.json()["detail"]


@pytest.mark.parametrize(("data", "what"), [({}, "more than the limit"), ({"upscale": "4"}, "the result would have")])
def test_too_many_pixels_are_refused_before_they_are_decoded(
    make_client: Callable[..., Any], photo_bytes: Callable[..., bytes], data: dict[str, str], what: str
) -> None:
    client = make_client(max_megapixels=0.04 if not data else 0.5)
    answer = send(client, photo_bytes(), "restore", "?wait=20", **data)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_many_pixels")
    assert what in answer.json()["detail"]


# --- crashes and stops


def crashed(tmp_path: Path, folder: str = "crashed") -> Path:
    """The server's folder as a kill would leave it at this moment, for another server."""
    shutil.copytree(tmp_path / "state", tmp_path / folder)
    return tmp_path / folder / "jobs"


def test_after_a_crash_what_was_acknowledged_is_done(
    make_client: Callable[..., Any], source: FakeSource, photo_bytes: Callable[..., bytes], tmp_path: Path
) -> None:
    client = make_client(workers=1)
    done = send(client, photo_bytes(), query="?wait=20").json()
    picture = client.get(done["links"]["picture"]).content
    with held(source):
        jobs = [send(client, photo_bytes(), "restore", fidelity="0.5").json() for _ in range(3)]
        assert source.restorer.entered.wait(20)
        left = crashed(tmp_path)
    states = [json.loads((folder / "job.json").read_text())["state"] for folder in left.iterdir()]
    assert sorted(states) == ["done", "queued", "queued", "running"]
    (left / "half-written" / "in").mkdir(parents=True)
    second = make_client("crashed")
    for job in jobs:
        ended = second.get(f"{job['links']['self']}?wait=20").json()
        assert ended["state"] == "done"
        assert ended["result"]["options"]["fidelity"] == 0.5
        assert second.get(ended["links"]["picture"]).status_code == 200
    assert second.get(done["links"]["picture"]).content == picture
    assert second.get(f"{done['links']['picture']}?strength=0.5").status_code == 200
    assert not (left / "half-written").exists()


def test_a_job_that_ends_the_server_is_given_up_at_last(
    make_client: Callable[..., Any], source: FakeSource, photo_bytes: Callable[..., bytes], tmp_path: Path
) -> None:
    client = make_client()
    with held(source):
        job = send(client, photo_bytes()).json()
        assert source.restorer.entered.wait(20)
        file = crashed(tmp_path) / job["id"] / "job.json"
    record = json.loads(file.read_text())
    assert (record["state"], record["attempts"]) == ("running", 1)
    file.write_text(json.dumps({**record, "attempts": MOST_ATTEMPTS}))
    second = make_client("crashed")
    ended = second.get(f"{job['links']['self']}?wait=20").json()
    assert (ended["state"], ended["problem"]["code"]) == ("failed", "gave_up")


def test_what_was_at_work_when_the_server_was_killed_comes_last(
    make_client: Callable[..., Any], source: FakeSource, photo_bytes: Callable[..., bytes], tmp_path: Path
) -> None:
    client = make_client(workers=1)
    with held(source):
        suspect, other = (send(client, photo_bytes()).json()["id"] for _ in range(2))
        assert source.restorer.entered.wait(20)
        jobs = crashed(tmp_path)
    second = make_client("crashed", workers=1)
    for identity in (suspect, other):
        assert second.get(f"/v1/jobs/{identity}?wait=20").json()["state"] == "done"
    ended = [json.loads((jobs / identity / "job.json").read_text())["ended"] for identity in (suspect, other)]
    assert ended[0] > ended[1]


def test_a_stop_lets_running_jobs_end_and_leaves_the_others_to_the_next_start(
    make_client: Callable[..., Any], source: FakeSource, photo_bytes: Callable[..., bytes]
) -> None:
    client = make_client(workers=1)
    with held(source):
        jobs = [send(client, photo_bytes()).json() for _ in range(2)]
        assert source.restorer.entered.wait(20)
        threading.Timer(0.3, source.restorer.hold.set).start()
        client.__exit__(None, None, None)
        client.portal = None
    calls = source.restorer.calls
    second = make_client(workers=1)
    assert [second.get(f"{job['links']['self']}?wait=20").json()["state"] for job in jobs] == ["done", "done"]
    assert source.restorer.calls == calls + 1


def test_a_stop_interrupts_what_does_not_end_and_does_not_count_it(
    make_client: Callable[..., Any], source: FakeSource, photo_bytes: Callable[..., bytes], tmp_path: Path
) -> None:
    client = make_client(workers=1, grace=0)
    with held(source):
        job = send(client, photo_bytes()).json()
        assert source.restorer.entered.wait(20)
        threading.Timer(1.0, source.restorer.hold.set).start()
        client.__exit__(None, None, None)
        client.portal = None
    record = json.loads((tmp_path / "state" / "jobs" / job["id"] / "job.json").read_text())
    assert (record["state"], record["attempts"]) == ("queued", 0)
    second = make_client(workers=1)
    assert second.get(f"{job['links']['self']}?wait=20").json()["state"] == "done"


def test_a_server_of_ones_own_forgets_what_has_ended(
    make_client: Callable[..., Any], photo_bytes: Callable[..., bytes], tmp_path: Path
) -> None:
    client = make_client(forget=True)
    send(client, photo_bytes(), query="?wait=20")
    client.__exit__(None, None, None)
    client.portal = None
    assert folders(tmp_path) == []


def test_a_folder_belongs_to_one_server(make_client: Callable[..., Any]) -> None:
    from facewright.errors import UsageError

    make_client()
    with pytest.raises(UsageError, match="used by another server"):
        make_client()


def test_nobody_else_can_read_the_folder(client: Any, photo_bytes: Callable[..., bytes], tmp_path: Path) -> None:
    job = send(client, photo_bytes(), query="?wait=20").json()
    for folder in (tmp_path / "state", tmp_path / "state" / "jobs" / job["id"]):
        assert folder.stat().st_mode & 0o077 == 0 or (tmp_path / "state").stat().st_mode & 0o077 == 0


# --- memory


def test_kept_results_are_bounded_and_the_last_used_ones_stay() -> None:
    import numpy as np

    values = Values(1000)
    for name in "abc":
        values.put(name, Made(None, value=np.zeros(300, np.uint8)))
    assert values.get("a") is not None
    values.put("d", Made(None, value=np.zeros(300, np.uint8)))
    assert [values.get(name) is not None for name in "abcd"] == [True, False, True, True]
    values.put("large", Made(None, value=np.zeros(2000, np.uint8)))
    assert values.get("large") is None
    assert values.bytes == 900
    for name in "acd":
        values.drop(name)
    assert values.bytes == 0


def test_shared_arrays_are_counted_once() -> None:
    import numpy as np

    array = np.zeros((10, 10), np.float32)
    assert bytes_of(Made({"a": array}, value=[array, (array, b"12345")])) == 405
