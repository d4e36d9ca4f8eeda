"""`facewright -v` shows what was decided and what was skipped; without it the library is silent."""

from __future__ import annotations

import logging
import subprocess
import sys
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from facewright.cli import logs
from facewright.io.image import read

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def logger() -> Iterator[logging.Logger]:
    """The library's logger and the warnings, left as they were found."""
    logger, show = logging.getLogger("facewright"), warnings.showwarning
    before = logger.level, logger.handlers[:], logger.propagate
    with warnings.catch_warnings():
        yield logger
    logger.level, logger.handlers, logger.propagate = before
    logger.setLevel(before[0])
    warnings.showwarning = show


@pytest.mark.parametrize(("given", "shown"), [((), False), (("-v",), False), (("-vv",), True), (("-v", "-v"), True)])
def test_each_v_shows_more(given: tuple[str, ...], shown: bool, run: Any, tmp_path: Path) -> None:
    (tmp_path / "letter.doc").write_text("Dear Sir")
    _, _, err = run(*given, "detect", tmp_path)
    assert ("letter.doc: skipped, not a known kind of file" in err) is shown


def test_a_damaged_profile_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "photo.png"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path, icc_profile=b"this is not a profile")
    with caplog.at_level(logging.INFO, "facewright"):
        read(path)
    assert "a colour profile of 21 bytes cannot be parsed and is ignored" in caplog.text


def test_the_library_is_silent_by_itself(tmp_path: Path) -> None:
    (tmp_path / "letter.doc").write_text("Dear Sir")
    program = "import sys; from pathlib import Path; from facewright.io.kinds import survey; survey(Path(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_what_is_deprecated_is_one_line_without_any_option(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up(0)
    warnings.warn("the argument a of b is deprecated; use c", DeprecationWarning, stacklevel=1)
    assert capsys.readouterr().err == "facewright: the argument a of b is deprecated; use c\n"
