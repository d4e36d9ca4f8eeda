"""TorchScript archives: their tensors come out as torch itself would give them, and nothing in them is run."""

from __future__ import annotations

import io
import pickle
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from facewright.errors import UnsafeWeightsError, WeightsError
from facewright.weights.store import load_published
from facewright.weights.torchscript import is_torchscript, load_torchscript

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class Part(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)
        self.register_buffer("halves", torch.arange(6.0).half().view(2, 3))
        self.sizes = [1, 2]
        self.scale = 0.5

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.linear(x)) * self.scale


class Whole(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.Sequential(Part(), nn.ReLU(), nn.Linear(4, 2, bias=False))
        self.token = nn.Parameter(torch.randn(2, 2).T)

    def forward(self, x: Tensor) -> Tensor:
        return self.parts(x)


@pytest.fixture(params=["script", "trace"])
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict[str, Tensor]]:
    torch.manual_seed(0)
    model = Whole().eval()
    program = torch.jit.script(model) if request.param == "script" else torch.jit.trace(model, torch.zeros(1, 3))
    program.save(str(tmp_path / "a.pt"))
    return tmp_path / "a.pt", model.state_dict()


def test_tensors_are_those_of_the_model(saved: tuple[Path, dict[str, Tensor]]) -> None:
    path, expected = saved
    assert is_torchscript(path)
    found = load_published(path)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value), key
        assert found[key].dtype == value.dtype


def test_plain_checkpoints_are_none(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.pt")
    assert not is_torchscript(tmp_path / "a.pt")
    assert not is_torchscript(tmp_path / "none")


def rewritten(path: Path, pickled: bytes) -> Path:
    """The archive with another pickle in it."""
    stream = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(stream, "w") as new:
        for name in old.namelist():
            new.writestr(name, pickled if name.endswith("/data.pkl") else old.read(name))
    path.write_bytes(stream.getvalue())
    return path


class Harm:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        import os

        return os.mkdir, (str(self.path),)


def test_code_in_the_pickle_is_not_run(saved: tuple[Path, dict[str, Tensor]], tmp_path: Path) -> None:
    path = rewritten(saved[0], pickle.dumps(Harm(tmp_path / "sign")))
    with pytest.raises(UnsafeWeightsError, match=r"asks for posix\.mkdir and was not opened further"):
        load_torchscript(path)
    assert not (tmp_path / "sign").exists()


def test_damaged_archive(saved: tuple[Path, dict[str, Tensor]]) -> None:
    with pytest.raises(WeightsError, match="not a readable TorchScript archive"):
        load_torchscript(rewritten(saved[0], b"\x80\x02garbage"))
