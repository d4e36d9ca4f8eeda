"""Tasks over HTTP: what goes in, what comes out, and what is refused."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter

from facewright.io.image import read
from facewright.io.provenance import read_provenance
from facewright.runtime.session import Session
from facewright.serve import requests
from facewright.serve.documents import job_type
from facewright.tasks.declare import Shape, option_fields, tasks
from facewright.tasks.restore import RestoreOptions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import SimpleNamespace

    from .conftest import FakeSource

VERBS = [verb for verb, task in tasks().items() if task.served]


def form_of(verb: str, photo: bytes) -> dict[str, Any]:
    """The least form a task can be asked with."""
    inputs: dict[Shape, dict[str, Any]] = {
        Shape.PAIR: {"first": ("a.png", photo), "second": ("b.png", photo)},
        Shape.GENERATE: {"count": (None, "2")},
    }
    form = inputs.get(tasks()[verb].shape, {"source": ("a.png", photo)})
    return form | {"boxes": (None, "100,60,120,80")} if verb == "inpaint" else form


@pytest.mark.parametrize("verb", VERBS)
def test_every_task_gives_a_job_whose_result_has_the_declared_type(
    client: Any, photo_bytes: Callable[..., bytes], verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "check_ready", lambda card, weights: None)  # also those that have no weights yet
    answer = client.post(f"/v1/{verb}?wait=30", files=form_of(verb, photo_bytes()))
    assert answer.status_code == 200, answer.text
    job = answer.json()
    assert (job["task"], job["state"]) == (verb, "done")
    TypeAdapter(job_type(tasks()[verb])).validate_python(job, strict=False)
    assert job["result"] is not None
    for link in job["links"].values():
        assert client.get(link).status_code == 200, link


def test_without_waiting_a_job_is_given_at_once(client: Any, photo_bytes: Callable[..., bytes]) -> None:
    answer = client.post("/v1/detect", files={"source": ("a.png", photo_bytes())})
    assert answer.status_code == 202
    place = answer.headers["location"]
    assert place == answer.json()["links"]["self"]
    job = client.get(f"{place}?wait=30").json()
    assert job["state"] == "done"
    assert [face["box"] for face in job["result"]["faces"]] == [[76.0, 44.0, 164.0, 156.0]]
    assert job["result"]["size"] == [240, 200]


def test_the_picture_has_the_bytes_that_python_writes(
    client: Any, source: FakeSource, photo_bytes: Callable[..., bytes], tmp_path: Path, monkeypatch: Any
) -> None:
    """As `facewright restore photo.jpg -o restored.jpg`, to the last bit."""
    photo = photo_bytes(format="JPEG", quality=90)
    answer = client.post("/v1/restore?wait=30", files={"source": ("photo.jpg", photo)}, data={"fidelity": "0.5"})
    over_http = client.get(answer.json()["links"]["picture"]).content
    session = Session()
    monkeypatch.setattr(session, "network", source.network)
    (tmp_path / "photo.jpg").write_bytes(photo)
    result = session.pipeline("restore")(read(tmp_path / "photo.jpg"), RestoreOptions(fidelity=0.5))
    result.save(tmp_path / "restored.jpg")
    assert over_http == (tmp_path / "restored.jpg").read_bytes()
    assert over_http != photo
    report = result.report(tmp_path / "restored.jpg")
    given = answer.json()["result"]
    assert {k: v for k, v in given.items() if k != "seconds"} == json.loads(
        json.dumps({k: v for k, v in report.items() if k != "seconds"})
    )


def test_a_photo_that_needs_nothing_comes_back_byte_by_byte(
    client: Any, source: FakeSource, photo_bytes: Callable[..., bytes]
) -> None:
    source.detector.faces = []
    photo = photo_bytes(format="JPEG", quality=70)
    job = client.post("/v1/restore?wait=30", files={"source": ("photo.jpg", photo)}).json()
    assert client.get(job["links"]["picture"]).content == photo


def test_asked_for_a_picture_the_answer_is_the_picture(client: Any, photo_bytes: Callable[..., bytes]) -> None:
    files = {"source": ("photo.jpg", photo_bytes(format="JPEG"))}
    as_png = client.post("/v1/restore", files=files, headers={"Accept": "image/png"})
    assert (as_png.status_code, as_png.headers["content-type"]) == (200, "image/png")
    assert Image.open(io.BytesIO(as_png.content)).format == "PNG"
    assert "filename*=UTF-8''photo.png" in as_png.headers["content-disposition"]
    as_it_is = client.post("/v1/restore", files=files, headers={"Accept": "image/*"})
    assert as_it_is.headers["content-type"] == "image/jpeg"


def test_options_are_those_of_the_declaration(client: Any, photo_bytes: Callable[..., bytes]) -> None:
    data = {
        "upscale": "2",
        "strength": "0.25",
        "faces": ["0", "0"],
        "skip": "",
        "boxes": ["0,0,240,200", "[1, 2, 3, 4]"],
        "points": "[[120, 100]]",
        "force": "true",
        "watermark": "false",
        "seed": "7",
        "grain": "none",
    }
    answer = client.post("/v1/restore?wait=30", files={"source": ("a.png", photo_bytes())}, data=data)
    options = answer.json()["result"]["options"]
    expected = {"upscale": 2, "strength": 0.25, "force": True, "watermark": False, "seed": 7, "grain": "none"}
    assert {name: options[name] for name in expected} == expected
    assert options["faces"] == [0, 0]
    assert options["boxes"] == [[0.0, 0.0, 240.0, 200.0], [1.0, 2.0, 3.0, 4.0]]
    assert options["points"] == [[120.0, 100.0]]
    assert answer.json()["result"]["output_size"] == [480, 400]


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("strength", "2", "strength 2.0 is outside 0…1"),
        ("strength", "much", "strength"),
        ("strength", "nan", "outside"),
        ("upscale", "3", "upscale"),
        ("faces", "one", "faces"),
        ("faces", "[" * 5000, "faces"),
        ("boxes", "1,2", "boxes"),
        ("seed", "-1", "seed -1 is not possible"),
        ("scratches", "false", "no scratches is part of old_photo; add old_photo"),
        ("page", "-1", "page"),
        ("format", "EXE", "format"),
        ("quality", "0", "quality"),
        ("model", "sface", "sface is not a restorer"),
        ("model", "../../etc/passwd", "unknown model"),
        ("weights", "/etc/passwd", "weights"),
        ("weights", "owner/repository", "weights"),
        ("background", "frgp", "background"),
        ("device", "cuda", "has no field device"),
        ("damage_mask", "/etc/passwd", "send the file itself"),
        ("nonsense", "1", "has no field nonsense"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_field(
    client: Any, photo_bytes: Callable[..., bytes], field: str, value: str, said: str
) -> None:
    answer = client.post("/v1/restore", files={"source": ("a.png", photo_bytes())}, data={field: value})
    assert answer.status_code == 422, answer.text
    problem = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert said in problem["detail"]
    assert problem["status"] == 422


def test_networks_without_weights_here_are_not_fetched(
    client: Any, source: FakeSource, photo_bytes: Callable[..., bytes], monkeypatch: Any, tmp_path: Path
) -> None:
    monkeypatch.setenv("FACEWRIGHT_HOME", str(tmp_path / "home"))
    answer = client.post("/v1/restore", files={"source": ("a.png", photo_bytes())}, data={"model": "gfpgan"})
    assert (answer.status_code, answer.json()["code"]) == (422, "no_weights")
    assert "facewright download gfpgan" in answer.json()["detail"]
    assert source.asked == []
    models = {m["slug"]: m for t in client.get("/v1/tasks").json()["tasks"] for m in t["networks"].get("model", ())}
    assert not models["gfpgan"]["ready"]
    assert models["facedetail"]["ready"]


def test_a_picture_as_an_option_is_sent_and_never_named(client: Any, photo_bytes: Callable[..., bytes]) -> None:
    mask = io.BytesIO()
    Image.fromarray(np.pad(np.full((20, 20), 255, np.uint8), ((90, 90), (110, 110)))).save(mask, "PNG")
    files = {"source": ("a.png", photo_bytes()), "damage_mask": ("mask.png", mask.getvalue())}
    job = client.post("/v1/restore?wait=30", files=files, data={"old_photo": "true", "tones": "false"}).json()
    assert job["state"] == "done", job
    assert job["result"]["options"]["damage_mask"] == "mask.png"
    assert job["result"]["repairs"]
    backdrop = {"source": ("a.png", photo_bytes()), "background": ("beach.png", photo_bytes(seed=3))}
    replaced = client.post("/v1/portrait?wait=30", files=backdrop).json()
    assert replaced["state"] == "done", replaced
    for word in ("keep", "blur"):
        done = client.post(
            "/v1/portrait?wait=30", files={"source": ("a.png", photo_bytes())}, data={"background": word}
        )
        assert done.json()["state"] == "done"


def test_an_option_of_several_pictures_takes_them_all(
    client: Any, source: FakeSource, photo_bytes: Callable[..., bytes]
) -> None:
    photos = [("references", (name, photo_bytes(seed=i))) for i, name in enumerate(("her.png", "again.png"))]
    sent = [("source", ("a.png", photo_bytes())), *photos]
    given: list[Any] = []

    def restore_by(crops: np.ndarray, references: Any, *, seed: int | None = None) -> np.ndarray:
        given.append(references)
        return crops

    source.restorer.restore_by = restore_by  # type: ignore[attr-defined]
    source.others["frgp"] = source.restorer
    source.others["distilledface"] = source.by_task["recognise"]
    done = client.post("/v1/restore?wait=30", files=sent).json()
    assert done.get("state") == "done", done
    assert done["result"]["options"]["references"] == ["her.png", "again.png"]
    assert {name for face in done["result"]["faces"] for name in face["references"]["used"]} <= {"her.png", "again.png"}
    text = client.post("/v1/restore", files={"source": ("a.png", photo_bytes())}, data={"references": "/etc/passwd"})
    assert (text.status_code, "send the file itself" in text.json()["detail"]) == (422, True)
    twice = [*sent[:1], *(("damage_mask", ("m.png", photo_bytes())) for _ in range(2))]
    assert "send damage_mask once" in client.post("/v1/restore", files=twice).json()["detail"]


def test_a_removed_background_becomes_a_png_unless_another_format_is_asked_for(
    client: Any, photo_bytes: Callable[..., bytes]
) -> None:
    files = {"source": ("a.jpg", photo_bytes(format="JPEG"))}
    job = client.post("/v1/portrait?wait=30", files=files, data={"background": "remove"}).json()
    picture = client.get(job["links"]["picture"])
    assert picture.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(picture.content)).mode == "RGBA"
    refused = client.post("/v1/portrait?wait=30", files=files, data={"background": "remove", "format": "JPEG"})
    assert refused.status_code == 422
    assert "transparent" in refused.json()["detail"]


# --- what can be asked of a result


def test_strength_and_format_change_without_a_network(
    client: Any, source: FakeSource, photo_bytes: Callable[..., bytes]
) -> None:
    job = client.post("/v1/restore?wait=30", files={"source": ("a.png", photo_bytes())}).json()
    calls = source.restorer.calls
    top = job["links"]["self"]

    def picture(query: str) -> np.ndarray:
        answer = client.get(f"{top}/picture?{query}")
        assert answer.status_code == 200, answer.text
        return read(answer.content).rgb().astype(int)

    full, half, none = (picture(f"strength={s}") for s in (1, 0.5, 0))
    assert np.array_equal(none, read(photo_bytes()).rgb())
    assert np.abs(half - (full + none) / 2).max() <= 1
    assert np.abs(full - none).max() > 5
    as_webp = client.get(f"{top}/picture?format=webp&quality=80")
    assert as_webp.headers["content-type"] == "image/webp"
    assert client.get(f"{top}/picture?format=exe").status_code == 422
    assert client.get(f"{top}/picture?strength=2").status_code == 422
    assert client.get(f"{top}/sheet?strength=0.5").headers["content-type"] == "image/png"
    assert source.restorer.calls == calls


def test_what_is_no_longer_in_memory_is_made_again(
    make_client: Callable[..., Any], source: FakeSource, photo_bytes: Callable[..., bytes]
) -> None:
    client = make_client(max_memory_mb=0)
    job = client.post("/v1/restore?wait=30", files={"source": ("a.png", photo_bytes())}).json()
    calls = source.restorer.calls
    first = client.get(job["links"]["picture"]).content
    again = client.get(f"{job['links']['picture']}?strength=1").content
    assert source.restorer.calls == calls + 1
    assert np.array_equal(read(first).pixels, read(again).pixels)


def test_before_and_after_lie_on_each_other(client: Any, photo_bytes: Callable[..., bytes]) -> None:
    files = {"source": ("a.png", photo_bytes(format="TIFF"))}
    job = client.post("/v1/restore?wait=30", files=files, data={"upscale": "2"}).json()
    sizes = {}
    for which in ("before", "after"):
        answer = client.get(job["links"][which])
        assert answer.headers["content-type"] == "image/jpeg"
        sizes[which] = Image.open(io.BytesIO(answer.content)).size
    assert sizes == {"before": (480, 400), "after": (480, 400)}
    small = Image.open(io.BytesIO(client.get(f"{job['links']['after']}?side=100").content))
    assert small.size == (100, 83)


def test_a_file_says_what_was_done_and_can_leave_out_where_it_was_taken(
    client: Any, photo_bytes: Callable[..., bytes]
) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8825)[2] = (48.0, 8.0, 0.0)
    exif[0x010F] = "Maker"
    files = {"source": ("a.jpg", photo_bytes(format="JPEG", exif=exif))}
    kept = client.post("/v1/restore", files=files, headers={"Accept": "image/jpeg"}).content
    record = read_provenance(read(kept))
    assert record is not None
    assert record.action == "restored"
    assert Image.open(io.BytesIO(kept)).getexif().get_ifd(0x8825)
    without = client.post(
        "/v1/restore", files=files, data={"drop_gps": "true", "provenance": "0"}, headers={"Accept": "image/jpeg"}
    ).content
    assert read_provenance(read(without)) is None
    assert not Image.open(io.BytesIO(without)).getexif().get_ifd(0x8825)
    assert Image.open(io.BytesIO(without)).getexif()[0x010F] == "Maker"


# --- what is sent


@pytest.mark.parametrize(
    ("content", "name", "status", "code"),
    [
        (b"", "empty.jpg", 422, "unreadable"),
        (b"hello, world", "note.txt", 415, "unsupported"),
        (b"PK\x03\x04" + bytes(100), "album.zip", 415, "unsupported"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "broken.png", 422, "unreadable"),
        (b"\xff\xd8\xff" + bytes(50), "broken.jpg", 422, "unreadable"),
    ],
)
def test_files_that_are_no_photo_are_refused_in_a_sentence(
    client: Any, content: bytes, name: str, status: int, code: str, tmp_path: Path
) -> None:
    answer = client.post("/v1/detect?wait=30", files={"source": (name, content)})
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert str(tmp_path) not in answer.text
    assert name in answer.json()["detail"]


def test_videos_go_only_to_tasks_that_take_them(client: Any) -> None:
    video = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(100)
    answer = client.post("/v1/detect", files={"source": ("wedding.mp4", video)})
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported")
    assert "wedding.mp4 is a video" in answer.json()["detail"]


def test_a_missing_or_surplus_file_is_refused(client: Any, photo_bytes: Callable[..., bytes]) -> None:
    photo = photo_bytes()
    missing = client.post("/v1/verify", files={"first": ("a.png", photo)})
    assert missing.status_code == 422
    assert "second" in missing.json()["detail"]
    twice = client.post("/v1/detect", files=[("source", ("a.png", photo)), ("source", ("b.png", photo))])
    assert twice.status_code == 422
    surplus = client.post("/v1/detect", files={"source": ("a.png", photo), "other": ("b.png", photo)})
    assert "has no field other" in surplus.json()["detail"]
    as_text = client.post("/v1/restore", files={"source": ("a.png", photo), "strength": ("s.png", photo)})
    assert "strength is not a picture" in as_text.json()["detail"]


def test_all_pages_of_a_tiff_are_restored(client: Any, fakes: SimpleNamespace) -> None:
    pages = [Image.fromarray(fakes.textured(200, 240, seed=n)) for n in range(3)]
    file = io.BytesIO()
    pages[0].save(file, "TIFF", save_all=True, append_images=pages[1:])
    job = client.post("/v1/restore?wait=30", files={"source": ("album.tif", file.getvalue())}).json()
    assert len(job["result"]["pages"]) == 3
    assert read(client.get(job["links"]["picture"]).content).pages == 3
    assert "after" not in job["links"]
    one = client.post("/v1/restore?wait=30", files={"source": ("album.tif", file.getvalue())}, data={"page": "1"})
    assert "pages" not in one.json()["result"]


def test_made_pictures_are_fetched_one_by_one(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "check_ready", lambda card, weights: None)  # no weights of a generator come along
    job = client.post("/v1/synthesise?wait=30", data={"count": 2, "seed": 5}).json()
    pictures = [client.get(link).content for name, link in job["links"].items() if name.startswith("picture-")]
    assert len(pictures) == 2
    assert read(pictures[0]).pixels.shape == (64, 64, 3)
    assert client.get(f"{job['links']['self']}/pictures/2").status_code == 404
    assert client.post("/v1/synthesise?wait=30").json()["result"]["files"] == ["stylegan2-0-0.png"]


# --- the server


def test_the_page_can_be_made_from_what_the_server_says(client: Any) -> None:
    document = client.get("/v1/tasks").json()
    assert [task["verb"] for task in document["tasks"]] == VERBS
    for task in document["tasks"]:
        own = [field.name for field in option_fields(tasks()[task["verb"]].options)]
        assert task["own"] == own
        assert set(own) <= set(task["form"]["properties"])
        assert all(schema.get("description") for schema in task["form"]["properties"].values())
        assert "--" not in json.dumps(task["form"])
    assert document["limits"]["faces"] == 200


def test_health_readiness_and_metrics(client: Any, photo_bytes: Callable[..., bytes]) -> None:
    assert client.get("/healthz").status_code == 200
    assert client.get("/readyz").status_code == 200
    client.post("/v1/detect?wait=30", files={"source": ("secret-name.png", photo_bytes())})
    client.get("/v1/jobs/unknown")
    text = client.get("/metrics").text
    assert 'facewright_jobs_total{state="done",task="detect"} 1.0' in text
    assert 'facewright_requests_total{method="GET",route="/v1/jobs/{job}",status="404"} 1.0' in text
    assert "facewright_faces_total 1.0" in text
    assert "facewright_photo_jobs_waiting 0.0" in text
    assert "secret-name" not in text


def test_unknown_places_and_methods_are_problems_too(client: Any) -> None:
    for method, path, status in (("GET", "/nothing", 404), ("GET", "/v1/restore", 405), ("POST", "/v1/jobs/x", 405)):
        answer = client.request(method, path)
        assert answer.status_code == status
        assert answer.json()["status"] == status
    assert client.get("/docs").status_code == 404  # the usual ones fetch scripts from elsewhere
    assert client.get("/redoc").status_code == 404


def test_an_unforeseen_error_says_nothing(
    client: Any, source: FakeSource, photo_bytes: Callable[..., bytes], caplog: Any
) -> None:
    source.restorer.fail = RuntimeError("cannot open /home/anna/secret.jpg")
    answer = client.post("/v1/restore?wait=30", files={"source": ("a.png", photo_bytes())})
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert "anna" not in answer.text
    assert "anna" not in caplog.text
    assert "RuntimeError" in caplog.text
    assert "pipelines/restore.py:" in caplog.text
    source.restorer.fail = MemoryError()
    answer = client.post("/v1/restore?wait=30", files={"source": ("a.png", photo_bytes())})
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
