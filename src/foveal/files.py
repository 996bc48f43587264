"""Files that are whole or absent: atomic writes, content hashes, and what killed runs leave behind."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

_PREFIX, _SUFFIX = ".foveal-", ".partial"


def write_atomically(path: Path, content: bytes | str | Callable[[Path], object]) -> int:
    """Write a file through a temporary one in the same folder, so that a reader never sees half of it.

    The temporary name is short and does not contain `path.name`, which may already be as long as the file
    system allows.

    Args:
        path: the file to create or to replace; its folder exists.
        content: bytes, text that is written as UTF-8, or a function that writes the file it is given.

    Returns:
        Number of bytes written.

    Raises:
        OSError: the folder cannot be written, or the disk is full. Whatever is raised on the way, the
            temporary file is removed and an older file at `path` stays.
    """
    partial = path.parent / f"{_PREFIX}{uuid4().hex}{_SUFFIX}"
    try:
        if callable(content):
            content(partial)
        else:
            partial.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        size = partial.stat().st_size
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return size


def sweep_partial_files(folder: Path) -> int:
    """Remove what a killed run left behind in `folder` (not in its sub-folders); returns how many files."""
    left_over = list(folder.glob(f"{_PREFIX}*{_SUFFIX}"))
    for path in left_over:
        path.unlink(missing_ok=True)
    return len(left_over)


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes, read in pieces.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
