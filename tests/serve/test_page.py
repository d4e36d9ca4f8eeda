"""The page: what can be said of its files without a browser."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import facewright.serve

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = Path(facewright.serve.__file__).with_name("page")
TEXTS = {file.name: file.read_text(encoding="utf-8") for file in PAGE.iterdir()}


class Document(HTMLParser):
    """Elements of a page in order, as (name, attributes)."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))


@pytest.fixture(scope="module")
def document() -> Document:
    return Document(TEXTS["index.html"])


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_nothing_comes_from_elsewhere(name: str) -> None:
    outside = re.findall(r"""(?:https?:)?//[\w.-]+\.\w+|@import|url\([^)]*\)""", TEXTS[name])
    assert [found for found in outside if "www.w3.org/" not in f"{found}/"] == []


def test_the_page_is_small() -> None:
    assert sum(len(text.encode()) for text in TEXTS.values()) < 100_000


def test_scripts_ask_only_for_elements_that_are_there(document: Document) -> None:
    given = [attributes["id"] for _, attributes in document.elements if attributes.get("id")]
    assert len(given) == len(set(given))
    asked = set(re.findall(r'\$\("([\w-]+)"\)', TEXTS["app.js"]))
    assert asked <= set(given)
    linked = {a.get("for") or a.get("aria-labelledby") or a.get("form") for _, a in document.elements}
    assert {name for name in linked if name} <= set(given)


def test_everything_one_can_use_has_a_name(document: Document) -> None:
    labelled = {attributes.get("for") for name, attributes in document.elements if name == "label"}
    for name, attributes in document.elements:
        if name in ("input", "select"):
            assert attributes.get("aria-label") or attributes.get("id") in labelled, attributes
        if name == "button":
            assert (
                attributes.get("type") == "button" or attributes.get("form") or "primary" in (attributes["class"] or "")
            )


def test_no_script_and_no_style_stands_in_the_page(document: Document) -> None:
    """The policy of the page allows neither."""
    for name, attributes in document.elements:
        assert not any(key.startswith("on") for key in attributes), attributes
        assert "style" not in attributes
        assert name != "style"
        assert name != "script" or attributes.get("src")
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", "".join(TEXTS.values())
    )


def test_every_file_is_served_with_its_type(client: Any) -> None:
    types = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
    for name, text in TEXTS.items():
        answer = client.get("/" if name == "index.html" else f"/page/{name}")
        assert answer.text == text
        assert answer.headers["content-type"].startswith(types[name.rpartition(".")[2]])
        assert answer.headers["cache-control"] == "no-cache"
    assert client.get("/page/index.html").status_code == 404


def test_colours_can_be_read() -> None:
    """Contrast of texts on their grounds, in both themes, by the WCAG's formula: at least 4.5."""
    themes = [_colours(block) for block in re.findall(r":root[^{]*\{([^}]*)\}", TEXTS["style.css"])]
    assert len(themes) == 3
    assert themes[1] == themes[2]  # dark by choice, dark by the system
    for colours in themes:
        for text in ("ink", "soft", "accent", "good", "bad"):
            for ground in ("paper", "raised"):
                assert _contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
        assert _contrast(colours["accent-ink"], colours["accent"]) >= 4.5
        assert _contrast(colours["soft"], colours["stage"]) >= 4.5


def _colours(block: str) -> dict[str, str]:
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{3,6});", block))


def _luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
    levels = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in levels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    high, low = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_the_form_has_a_control_for_every_option(client: Any, make_client: Callable[..., Any]) -> None:
    """Every kind of schema that tasks have is one that `form.js` knows."""
    known = {"boolean", "number", "integer", "string", "array", "null"}
    for task in client.get("/v1/tasks").json()["tasks"]:
        for name, schema in task["form"]["properties"].items():
            kinds = schema.get("anyOf", [schema])
            assert all(kind.get("type") in known or "enum" in kind for kind in kinds), (task["verb"], name)
