"""The page in a real Chromium, from the outside: a person drops a photo, looks, changes, saves.

Needs the package playwright and a Chromium of the system; nothing is downloaded. With axe-playwright-python, too, the
states of the page are checked for accessibility.
"""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from facewright.io.image import read
from facewright.serve import requests

from .conftest import eventually, held

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
if CHROMIUM is None:
    pytest.skip("there is no Chromium here (apt-get install chromium)", allow_module_level=True)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from .conftest import FakeSource

expect = sync_api.expect
expect.set_options(timeout=30_000)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def open_page(browser: Any, live_server: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """Start a server and open its page; at the end there must have been no error and no request to elsewhere."""
    wrong: list[str] = []
    contexts: list[Any] = []

    def make(*, width: int = 1280, height: int = 800, scheme: str = "light", **values: Any) -> Any:
        live = live_server(**values)
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if "Content Security" in message.text else None)
        page.on("request", lambda asked: None if asked.url.startswith((live.url, "blob:")) else wrong.append(asked.url))
        page.live = live
        page.goto(live.url)
        expect(page.locator("#task option").first).to_be_attached()
        return page

    yield make
    for context in contexts:
        context.close()
    assert wrong == []


@pytest.fixture
def photo(tmp_path: Path, photo_bytes: Callable[..., bytes]) -> Path:
    (tmp_path / "anna.png").write_bytes(photo_bytes())
    return tmp_path / "anna.png"


def restored(page: Any, *photos: Path) -> Any:
    """The page with the result of the first photo."""
    page.set_input_files("#files", [str(path) for path in photos])
    expect(page.locator("#summary")).to_have_text("1 of 1 face restored")
    expect(page.locator("#notice")).to_be_hidden()
    return page


def saved(page: Any, button: str) -> tuple[str, bytes]:
    with page.expect_download() as download:
        page.click(button)
    return download.value.suggested_filename, open(download.value.path(), "rb").read()


# --- photos in


def transfer(page: Any, content: bytes, name: str, kind: str) -> Any:
    return page.evaluate_handle(
        """([bytes, name, type]) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], name, {type}));
            return transfer;
        }""",
        [list(content), name, kind],
    )


def test_a_dropped_photo_is_restored(open_page: Callable[..., Any], photo: Path) -> None:
    page = open_page()
    data = transfer(page, photo.read_bytes(), "anna.png", "image/png")
    page.dispatch_event("body", "dragenter", {"dataTransfer": data})
    expect(page.locator("#drop")).to_be_visible()
    page.dispatch_event("body", "drop", {"dataTransfer": data})
    expect(page.locator("#drop")).to_be_hidden()
    expect(page.locator("#summary")).to_have_text("1 of 1 face restored")
    expect(page.locator("#say")).to_contain_text("anna.png")


def test_a_pasted_photo_is_restored(open_page: Callable[..., Any], photo: Path) -> None:
    page = open_page()
    data = transfer(page, photo.read_bytes(), "image.png", "image/png")
    page.evaluate(
        "data => document.dispatchEvent(new ClipboardEvent('paste', {clipboardData: data, bubbles: true}))", data
    )
    expect(page.locator("#summary")).to_have_text("1 of 1 face restored")


def test_several_photos_wait_in_a_queue_and_can_be_looked_at(
    open_page: Callable[..., Any], tmp_path: Path, photo_bytes: Callable[..., bytes]
) -> None:
    paths = [tmp_path / f"photo{n}.png" for n in range(4)]
    for n, path in enumerate(paths):
        path.write_bytes(photo_bytes(seed=n))
    page = restored(open_page(), *paths)
    expect(page.locator("#queue .thumb")).to_have_count(4)
    for n in range(4):
        expect(page.locator("#queue .thumb").nth(n)).to_have_attribute("aria-label", f"{n + 1}: photo{n}.png, done")
    page.locator("#queue .thumb").first.focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#queue .thumb").nth(1)).to_have_attribute("aria-current", "true")
    page.click("#remove")
    expect(page.locator("#queue .thumb")).to_have_count(3)


# --- looking


def clip(page: Any) -> str:
    return page.evaluate("document.querySelector('.over').style.clipPath")


def test_the_divider_moves_by_keyboard_and_pointer(open_page: Callable[..., Any], photo: Path) -> None:
    page = restored(open_page(), photo)
    assert clip(page) == "inset(0px 0px 0px 50%)"
    page.locator(".divider input").focus()
    for _ in range(10):
        page.keyboard.press("ArrowLeft")
    assert clip(page) == "inset(0px 0px 0px 40%)"
    box = page.locator(".divider").bounding_box()
    page.mouse.move(box["x"] + 22, box["y"] + 200)
    page.mouse.down()
    page.mouse.move(box["x"] + 122, box["y"] + 200)
    page.mouse.up()
    assert clip(page) not in ("inset(0px 0px 0px 40%)", "inset(0px 0px 0px 50%)")


def transforms(page: Any) -> list[str]:
    return page.evaluate("[...document.querySelectorAll('.layer img')].map(image => image.style.transform)")


def test_before_and_after_are_zoomed_and_moved_together(open_page: Callable[..., Any], photo: Path) -> None:
    page = restored(open_page(), photo)
    fitted = transforms(page)
    assert len(set(fitted)) == 1
    page.mouse.move(300, 300)
    page.mouse.wheel(0, -400)
    zoomed = transforms(page)
    assert len(set(zoomed)) == 1
    assert zoomed != fitted
    page.click("#side")
    assert page.locator(".pane").count() == 2
    page.click("#in")
    page.mouse.move(200, 400)
    page.mouse.down()
    page.mouse.move(150, 350)
    page.mouse.up()
    moved = transforms(page)
    assert len(set(moved)) == 1
    page.focus("#stage")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("+")
    assert len(set(transforms(page))) == 1
    assert transforms(page) != moved
    page.keyboard.press("0")
    page.click("#side")
    assert transforms(page) == fitted


def test_faces_are_numbered_and_can_be_left_out(
    open_page: Callable[..., Any], source: FakeSource, photo: Path, fakes: Any
) -> None:
    source.detector.faces = [fakes.face_at((60, 100), 30), fakes.face_at((180, 100), 30)]
    page = open_page()
    page.set_input_files("#files", str(photo))
    expect(page.locator("#summary")).to_have_text("2 of 2 faces restored")
    expect(page.locator(".face")).to_have_count(2)
    page.click(".face[data-index='1']")
    expect(page.locator("#faces li[data-index='1']")).to_have_attribute("data-current", "true")
    expect(page.locator(".face[data-index='1']")).to_have_attribute("aria-current", "true")
    expect(page.locator("#again-box")).to_be_hidden()
    page.uncheck("#face-1")
    page.click("#again")
    expect(page.locator("#summary")).to_contain_text("1 of 2 faces restored")
    expect(page.locator("#faces li[data-index='1']")).to_contain_text("not selected")
    page.click("#undo")
    expect(page.locator("#summary")).to_have_text("2 of 2 faces restored")


# --- strength, options, models


def test_strength_changes_without_a_network(open_page: Callable[..., Any], source: FakeSource, photo: Path) -> None:
    page = restored(open_page(), photo)
    calls, asked = source.restorer.calls, []
    page.on("request", lambda request: asked.append(request.url))
    page.evaluate("""() => {
        const range = document.querySelector('#strength');
        range.value = 0.5;
        range.dispatchEvent(new Event('input', {bubbles: true}));
        range.dispatchEvent(new Event('change', {bubbles: true}));
    }""")
    assert page.evaluate("document.querySelector('img.after').style.opacity") == "0.5"
    assert asked == []
    name, half = saved(page, "#save")
    assert name == "anna_restore.png"
    page.click("#undo")
    _, full = saved(page, "#save")
    before, middle, after = (read(data).rgb().astype(int) for data in (photo.read_bytes(), half, full))
    assert np.abs(middle - (before + after) / 2).max() <= 1
    assert np.abs(after - before).max() > 5
    assert source.restorer.calls == calls


def test_options_come_from_the_task(open_page: Callable[..., Any], photo: Path) -> None:
    page = open_page()
    expect(page.locator("#option-scratches")).to_be_hidden()
    page.check("#option-old_photo")
    expect(page.locator("#option-scratches")).to_be_visible()
    page.select_option("#option-grain", "none")
    page.select_option("#option-upscale", "2")
    page.set_input_files("#files", str(photo))
    expect(page.locator("#summary")).to_contain_text("1 of 1 face restored")
    _, report = saved(page, "#report")
    options = json.loads(report)["options"]
    assert (options["old_photo"], options["grain"], options["upscale"]) == (True, "none", 2)
    assert json.loads(report)["output_size"] == [480, 400]
    page.uncheck("#option-old_photo")
    page.click("#run")
    expect(page.locator("#undo")).to_be_enabled()
    assert json.loads(saved(page, "#report")[1])["options"]["old_photo"] is False


def test_two_models_are_compared(open_page: Callable[..., Any], source: FakeSource, photo: Path) -> None:
    page = restored(open_page(), photo)
    page.select_option("#versus", "frgp/")
    expect(page.locator(".tag.right")).to_have_text("FRGP")
    expect(page.locator(".tag.left")).to_have_text("FaceDetail")
    assert "frgp" in source.asked
    expect(page.locator("#live")).to_be_hidden()
    page.select_option("#versus", "")
    expect(page.locator(".tag.left")).to_have_text("Before")


# --- saving


def test_picture_report_and_sheet_are_saved(open_page: Callable[..., Any], photo: Path) -> None:
    page = restored(open_page(), photo)
    name, picture = saved(page, "#save")
    assert (name, read(picture).format) == ("anna_restore.png", "PNG")
    page.select_option("#format", "JPEG")
    name, picture = saved(page, "#save")
    assert (name, read(picture).format) == ("anna_restore.jpg", "JPEG")
    name, sheet = saved(page, "#sheet")
    assert name == "anna_before_after.png"
    assert read(sheet).width > 300
    name, report = saved(page, "#report")
    assert name == "anna_report.json"
    assert json.loads(report)["source"] == "anna.png"


def test_who_leaves_takes_the_photos_along(open_page: Callable[..., Any], photo: Path, tmp_path: Path) -> None:
    page = restored(open_page(), photo)
    assert len(list((tmp_path / "live" / "jobs").iterdir())) == 1
    page.goto("about:blank")
    eventually(lambda: not any((tmp_path / "live" / "jobs").iterdir()))


# --- what goes wrong


def test_a_file_that_is_no_photo_is_said_so(open_page: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "note.png").write_text("hello")
    page = open_page()
    page.set_input_files("#files", str(tmp_path / "note.png"))
    expect(page.locator("#notice [role=alert]")).to_contain_text("note.png is neither a photo nor a video")
    expect(page.locator("#queue .thumb")).to_have_attribute("aria-label", "1: note.png, failed")
    expect(page.locator("#saving")).to_be_hidden()


def test_a_busy_server_is_asked_again(
    open_page: Callable[..., Any], source: FakeSource, photo: Path, tmp_path: Path
) -> None:
    page = open_page(workers=1, queue=1)
    with held(source):
        for _ in range(2):  # somebody else's: one is worked on, one waits
            page.request.post(
                f"{page.live.url}/v1/restore",
                multipart={"source": {"name": "b.png", "mimeType": "image/png", "buffer": photo.read_bytes()}},
            )
            assert source.restorer.entered.wait(30)
        page.set_input_files("#files", str(photo))
        expect(page.locator("#notice")).to_contain_text("The server is busy; trying again")
    expect(page.locator("#summary")).to_have_text("1 of 1 face restored")


def test_work_can_be_cancelled_and_a_dead_server_is_said_so(
    open_page: Callable[..., Any], source: FakeSource, photo: Path
) -> None:
    page = open_page()
    with held(source):
        page.set_input_files("#files", str(photo))
        assert source.restorer.entered.wait(30)
        expect(page.locator("#notice")).to_contain_text("Restoring faces")
        page.click("#notice button")
        expect(page.locator("#notice")).to_be_hidden()
    page.route("**/v1/**", lambda route: route.abort())
    page.click("#run")
    expect(page.locator("#notice [role=alert]")).to_contain_text("cannot be reached")
    page.unroute("**/v1/**")
    page.click("#notice button")
    expect(page.locator("#summary")).to_have_text("1 of 1 face restored")


# --- the other tasks


def test_faces_found_are_shown_and_drawn(open_page: Callable[..., Any], photo: Path) -> None:
    page = restored(open_page(), photo)
    page.select_option("#task", "analyse")
    expect(page.locator("#summary")).to_have_text("1 face found")
    expect(page.locator(".frame circle")).to_have_count(68)
    assert saved(page, "#sheet")[0] == "anna_marks.png"


@pytest.mark.parametrize("verb", ["liveness", "forensics", "quality", "embed"])
def test_every_task_shows_what_it_says_of_a_face(open_page: Callable[..., Any], photo: Path, verb: str) -> None:
    page = restored(open_page(), photo)
    page.select_option("#task", verb)
    expect(page.locator("#summary")).to_have_text("1 face found")
    (face,) = json.loads(saved(page, "#report")[1])["faces"]
    assert len(face["box"]) == 4
    page.locator(".face").first.click()
    answers = {"liveness": "Answerlive", "forensics": "Answercannot tell"}
    expect(page.locator("#faces")).to_contain_text(answers.get(verb, "Size"))


def test_two_photos_are_compared(
    open_page: Callable[..., Any], tmp_path: Path, photo_bytes: Callable[..., bytes]
) -> None:
    for n, name in enumerate(("one.png", "two.png")):
        (tmp_path / name).write_bytes(photo_bytes(seed=n))
    page = open_page()
    page.select_option("#task", "verify")
    expect(page.locator(".slot")).to_have_count(2)
    for name in ("one.png", "two.png"):
        page.set_input_files("#files", str(tmp_path / name))
    expect(page.locator("#summary")).to_have_text("Cannot tell")
    expect(page.locator("#remarks")).to_contain_text("has no known meaning")


def test_pictures_are_made(open_page: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    # no weights of a generator come along; the fake one needs none
    monkeypatch.setattr(requests, "ready_weights", lambda card: (requests.default_weights(card),))
    page = open_page()
    page.select_option("#task", "synthesise")
    page.fill("#option-count", "3")
    page.click("#run")
    expect(page.locator(".pictures img")).to_have_count(3)


# --- everybody


def test_a_token_is_asked_for(browser: Any, open_page: Callable[..., Any], photo: Path) -> None:
    from facewright.serve.tokens import Tokens, _hash

    page = open_page()
    guard = page.live.app.middleware_stack
    while not hasattr(guard, "tokens"):
        guard = guard.app
    guard.tokens = Tokens({"anna": _hash("a" * 40)})
    page.reload()
    expect(page.locator("#key")).to_be_visible()
    page.fill("#token", "wrong")
    page.keyboard.press("Enter")
    expect(page.locator("#key-wrong")).to_be_visible()
    page.fill("#token", "a" * 40)
    page.keyboard.press("Enter")
    expect(page.locator("#key")).to_be_hidden()
    expect(page.locator("#option-model")).to_be_visible()
    restored(page, photo)


def test_keys_alone_are_enough(open_page: Callable[..., Any], photo: Path) -> None:
    page = open_page()
    reached = []
    for _ in range(6):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.className"))
    assert reached[0] == "skip"
    assert {"task", "add", "theme", "choose"} <= set(reached)
    restored(page, photo)
    page.focus("#stage")
    names = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        names.add(page.evaluate("document.activeElement.id || document.activeElement.className"))
    assert {"undo", "side", "boxes", "versus", "face", "strength", "save", "format", "report", "sheet"} - names <= {
        "undo"
    }


@pytest.mark.parametrize(("width", "height"), [(390, 844), (320, 600)])
def test_a_phone_shows_it_without_scrolling_sideways(
    open_page: Callable[..., Any], photo: Path, width: int, height: int
) -> None:
    page = open_page(width=width, height=height)
    restored(page, photo)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    box = page.locator("#viewer").bounding_box()
    assert box["height"] > 0.4 * height


def test_dark_and_light_can_be_chosen_and_stay(open_page: Callable[..., Any]) -> None:
    page = open_page(scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    page.click("#theme")
    light = page.evaluate(ground)
    assert dark != light
    page.reload()
    assert page.evaluate(ground) == light


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(open_page: Callable[..., Any], photo: Path, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")

    def check(page: Any, state: str) -> None:
        # axe cannot run as an inline script under the page's own policy, so it is evaluated from outside
        found = axe.Axe().run(page).response["violations"]
        assert [(state, one["id"], [node["target"] for node in one["nodes"]]) for one in found] == []

    page = open_page(scheme=scheme)
    check(page, "empty")
    restored(page, photo)
    check(page, "restored")
    page.click("#side")
    page.check("#option-old_photo")
    page.click("details summary")
    check(page, "side by side, all options")
    page.select_option("#task", "verify")
    check(page, "two photos")
    page.set_viewport_size({"width": 390, "height": 844})
    check(page, "phone")


def test_it_is_there_at_once(open_page: Callable[..., Any]) -> None:
    page = open_page()
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    assert paint < 5000  # a second on an idle machine; tests share theirs
    sizes = page.evaluate("performance.getEntriesByType('resource').filter(r => r.name.includes('/page/')).length")
    assert sizes <= 6
