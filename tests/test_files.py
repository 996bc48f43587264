"""Files appear whole or not at all."""

import hashlib
import os
from pathlib import Path

import pytest

from foveal import files
from foveal.files import file_sha256, sweep_partial_files, write_atomically


def test_writing_replaces_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "report.csv"
    write_atomically(path, "a long first content")
    assert write_atomically(path, "é") == 2
    assert path.read_bytes() == "é".encode()


def test_a_function_writes_beside_the_file_and_never_into_it(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(b"old")

    def write(partial: Path) -> None:
        assert partial.parent == tmp_path
        partial.write_bytes(b"newer")
        assert path.read_bytes() == b"old"

    assert write_atomically(path, write) == 5
    assert path.read_bytes() == b"newer"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_replacement_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.csv"
    write_atomically(path, b"old")

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"old"


def test_an_interrupted_function_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(b"old")

    def write(partial: Path) -> None:
        partial.write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, write)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"old"


def test_a_function_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "weights.bin", lambda partial: None)
    assert not list(tmp_path.iterdir())


def test_a_name_as_long_as_the_file_system_allows_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 251 + ".png")
    write_atomically(path, b"1")
    assert path.read_bytes() == b"1"


@pytest.mark.skipif(os.name != "posix", reason="permission bits are POSIX")
def test_files_are_as_readable_as_any_other(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_atomically(tmp_path / "written", b"1")
    assert (tmp_path / "written").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_sweeping_removes_only_what_a_killed_run_left(tmp_path: Path) -> None:
    (tmp_path / ".foveal-0123.partial").touch()
    (tmp_path / "kept.partial").touch()
    assert sweep_partial_files(tmp_path) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["kept.partial"]


def test_hash_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "eye.png").write_bytes(b"eye")
    assert file_sha256(tmp_path / "eye.png") == hashlib.sha256(b"eye").hexdigest()
