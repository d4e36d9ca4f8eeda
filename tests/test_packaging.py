"""What a user installs: pins, versions that agree, and the check of the built wheel."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import tomllib
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import facewright

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WHEEL = "facewright-0.1.0-py3-none-any.whl"
INFO = "facewright-0.1.0.dist-info"


@pytest.fixture(scope="module")
def check_wheel() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_wheel", ROOT / "tools" / "check_wheel.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version.partition(";")[0].strip() for name, version in found}


def direct_requirements() -> list[Requirement]:
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    found = [Requirement(text) for group in groups for text in group]
    return [r for r in found if r.name != PROJECT["name"]]


@pytest.mark.parametrize("requirement", direct_requirements(), ids=lambda r: r.name)
def test_every_direct_dependency_is_pinned_to_a_version_it_allows(requirement):
    version = pins().get(canonicalize_name(requirement.name))
    assert version is not None, f"{requirement.name} is not in constraints.txt"
    assert requirement.specifier.contains(version)


def test_the_version_is_the_same_everywhere():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    cited = re.search(r"^version: (\S+)$", citation, re.MULTILINE)
    logged = re.search(r"^## \[(\d[^\]]*)\]", changelog, re.MULTILINE)
    assert cited is not None
    assert logged is not None
    assert {PROJECT["version"], cited[1], logged[1]} == {facewright.__version__}


# --- the check of the wheel ------------------------------------------------------------------------------------------


def card(slug: str, data: bytes) -> dict:
    point = {
        "name": "compact",
        "file": f"systems/task/{slug}/compact.safetensors",
        "sha256": hashlib.sha256(data).hexdigest(),
        "size_bytes": len(data),
        "licence": "research use only",
        "training_data": ["somebody's photos"],
    }
    return {"slug": slug, "checkpoints": [point]}


def contents() -> dict[str, bytes]:
    """A small wheel with nothing wrong."""
    header = b'{"__metadata__":{}}'
    weights = len(header).to_bytes(8, "little") + header
    metadata = (
        "Metadata-Version: 2.4\nName: facewright\nVersion: 0.1.0\nLicense-Expression: Apache-2.0\n"
        "Requires-Python: >=3.11\nRequires-Dist: torch>=2.6\n\n" + "What it does. " * 100
    )
    files = {
        "facewright/__init__.py": b"",
        "facewright/cli/commands.py": b"def main(): ...",
        "facewright/py.typed": b"",
        "facewright/metrics/niqe_pristine.npz": b"PK",
        "facewright/render/assets/skin.npz": b"PK",
        "facewright/systems/task/distilledface/compact.calibration.json": b"{}",
        f"{INFO}/METADATA": metadata.encode(),
        f"{INFO}/entry_points.txt": b"[console_scripts]\nfacewright = facewright.cli:main\n",
        f"{INFO}/licenses/LICENSE": b"Apache",
        f"{INFO}/licenses/NOTICE": b"weights",
    }
    for slug in ("distilledface", "facedetail", "facewarp", "frgp", "mos", "segface", "vitfiqa"):
        files[f"facewright/systems/task/{slug}/card.json"] = json.dumps(card(slug, weights)).encode()
        files[f"facewright/systems/task/{slug}/compact.safetensors"] = weights
    return files


def build(folder: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(folder / WHEEL, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return folder / WHEEL


def test_a_sound_wheel_passes(check_wheel, tmp_path):
    assert check_wheel.problems(build(tmp_path, contents())) == []


@pytest.mark.parametrize(
    ("name", "data", "complaint"),
    [
        ("facewright/py.typed", None, "py.typed is missing"),
        ("facewright/metrics/niqe_pristine.npz", None, "niqe_pristine.npz is missing"),
        ("facewright/systems/task/mos/compact.safetensors", None, "named by the card of mos, is missing"),
        ("facewright/systems/task/mos/compact.safetensors", b"changed", "is not the file its card describes"),
        ("facewright/systems/task/mos/old.safetensors", b"", "is on no card"),
        ("facewright/systems/task/mos/card.json", b'{"slug": "mos", "checkpoints": []}', "mos has no embedded weights"),
        ("tests/test_x.py", b"", "does not belong to the package"),
        ("facewright/tests/test_x.py", b"", "is for developers"),
        ("facewright/data/someone.jpg", b"", "is a picture"),
        ("facewright/systems/task/mos/model.pth", b"", "may be a pickle"),
        ("facewright/paths.py", b'ROOT = "/home/someone/photos"', "names a path of the build machine"),
        (f"{INFO}/entry_points.txt", None, "the command facewright is missing"),
        (f"{INFO}/licenses/NOTICE", None, "NOTICE is missing"),
        (f"{INFO}/METADATA", b"Name: facewright\nVersion: 0.1.0\nLicense-Expression: MIT\n\n", "given as MIT"),
        (f"{INFO}/METADATA", b"Name: facewright\nVersion: 0.1.0\nRequires-Dist: timm>=1\n\n", "depends on timm"),
    ],
)
def test_a_wheel_with_one_thing_wrong_is_refused(check_wheel, tmp_path, name, data, complaint):
    files = contents()
    files.pop(name, None)
    if data is not None:
        files[name] = data
    found = check_wheel.problems(build(tmp_path, files))
    assert any(complaint in line for line in found), found


def test_a_path_in_the_header_of_weights_is_found(check_wheel, tmp_path):
    header = b'{"__metadata__":{"source":"/root/runs/frgp"}}'
    data = len(header).to_bytes(8, "little") + header + b"/home/x in the numbers does not count"
    files = contents() | {"facewright/systems/task/frgp/compact.safetensors": data}
    files["facewright/systems/task/frgp/card.json"] = json.dumps(card("frgp", data)).encode()
    assert [line for line in check_wheel.problems(build(tmp_path, files)) if "path" in line]


def test_a_file_kept_out_by_an_ignore_rule_is_found(check_wheel, tmp_path):
    source = tmp_path / "facewright"
    (source / "cache").mkdir(parents=True)
    (source / "cache" / "__init__.py").touch()
    (source / "cli").mkdir()
    (source / "cli" / "commands.py").touch()
    found = check_wheel.problems(build(tmp_path, contents()), source)
    assert found == ["facewright/cache/__init__.py is in the source tree but not in the wheel"]


def test_addresses_and_relative_paths_are_no_machine_paths(check_wheel, tmp_path):
    texts = b"see https://example.org/home/x, ../tmp/y, $HOME/tmp/z, ~/work/a, docs/opt/b"
    assert check_wheel.problems(build(tmp_path, contents() | {"facewright/notes.py": texts})) == []
