"""The container file: what it copies is there, and what it runs is what the program takes."""

from __future__ import annotations

import json
import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def instructions() -> list[tuple[str, str]]:
    """Instruction and the rest, continued lines joined."""
    text = (ROOT / "Containerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in joined]


def values(instructions: list[tuple[str, str]], name: str) -> list[str]:
    return [rest for instruction, rest in instructions if instruction == name]


def test_what_is_copied_is_there_and_not_left_out(instructions: list[tuple[str, str]]) -> None:
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [part for rest in values(instructions, "COPY") if "--from" not in rest for part in rest.split()[:-1]]
    assert copied
    for name in copied:
        assert (ROOT / name).exists()
        assert name in let_in
    assert let_in == set(copied)


def test_nothing_runs_as_root_and_only_volumes_are_written(instructions: list[tuple[str, str]]) -> None:
    order = [name for name, _ in instructions]
    assert values(instructions, "USER") == ["10001"]
    assert order.index("USER") < order.index("ENTRYPOINT")
    assert not any(name == "RUN" for name in order[order.index("USER") :])
    volumes = set(json.loads(values(instructions, "VOLUME")[0]))
    environment = dict(pair.split("=", 1) for pair in values(instructions, "ENV")[0].split())
    command = json.loads(values(instructions, "CMD")[0])
    assert {environment["FACEWRIGHT_HOME"], command[command.index("--state") + 1]} == volumes
    assert environment["HOME"] == "/tmp"
    assert "FACEWRIGHT_TOKEN" not in environment
    assert all(PurePosixPath(volume).is_absolute() for volume in volumes)


def test_its_command_is_one_that_the_program_takes(
    instructions: list[tuple[str, str]], run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from facewright.serve import server

    given = []
    monkeypatch.setattr(server, "serve", lambda options, on_listening: given.append(options))
    assert json.loads(values(instructions, "ENTRYPOINT")[0]) == ["facewright"]
    code, _, error = run(*json.loads(values(instructions, "CMD")[0]))
    assert (code, error) == (0, "")
    assert (given[0].host, given[0].port, given[0].state) == ("0.0.0.0", 8000, "/state")
    assert not given[0].is_local  # so it does not start without a token
    assert values(instructions, "EXPOSE") == ["8000"]


def test_its_health_check_is_answered(instructions: list[tuple[str, str]], make_client: Callable[..., object]) -> None:
    check = values(instructions, "HEALTHCHECK")[0]
    path = re.search(r"127\.0\.0\.1:8000(/[a-z]+)", check)
    assert path is not None
    client = make_client(tokens={"anna": "secret"})
    assert client.get(path[1]).status_code == 200  # type: ignore[attr-defined]
