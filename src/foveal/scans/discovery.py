"""Which scans a folder, file, glob or manifest stands for, each under a name of its own."""

import fnmatch
import glob
import hashlib
import os
import re
import stat
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from foveal.scans.reading import has_dicom_preamble
from foveal.scans.scan import Laterality

# fmt: off
IMAGE_ENDINGS = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".btf", ".tf8", ".bmp", ".dib",
    ".ppm", ".pgm", ".pnm", ".dcm", ".dicom", ".dic",
})
# Never opened to look for a DICOM preamble.
OTHER_ENDINGS = frozenset({
    ".csv", ".tsv", ".parquet", ".txt", ".md", ".json", ".yaml", ".yml", ".xml", ".html", ".htm", ".pdf",
    ".doc", ".docx", ".xls", ".xlsx", ".zip", ".gz", ".tar", ".7z", ".py", ".ini", ".log", ".db", ".npy",
    ".npz", ".mat", ".h5", ".pt", ".safetensors", ".gif", ".webp", ".svg", ".mp4", ".avi", ".mov",
})
# fmt: on
# The table of contents of a DICOM disc: a DICOM file itself, but never a scan.
DICOM_DIRECTORY = "DICOMDIR"
MANIFEST_ENDINGS = frozenset({".csv", ".parquet"})
RESERVED_NAMES = frozenset(
    {"con", "prn", "aux", "nul"} | {f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10)}
)
# With an ending of ours this stays below the 255 bytes that file systems allow.
MAX_NAME_BYTES = 200


@dataclass(frozen=True)
class ScanRef:
    """A scan to be read.

    Attributes:
        path: the file (or, with an error, the link or folder that could not be followed).
        name: unique among the refs of one call, ignoring case, and safe as a file name.
        patient: from the manifest, as written there.
        laterality: from the manifest.
        error: why it cannot be read, found before opening it; None for all others.
    """

    path: Path
    name: str
    patient: str | None = None
    laterality: Laterality | None = None
    error: str | None = None


def find_scans(source: str | Path, *, endings: Collection[str] = IMAGE_ENDINGS) -> list[ScanRef]:
    """List the scans that a source stands for, in a fixed order.

    Sources:
        - a folder, with all folders below it. Taken are files with an image ending, and files with no
          ending or an unknown one that carry the DICOM preamble. Hidden files and folders are left
          out. Linked folders are entered, but every real folder only once. A link that leads back to
          a folder above it, a broken link and a folder that cannot be listed each become a ref with
          `error` set;
        - a manifest (.csv or .parquet, see `foveal.scans.manifest`), paths relative to its folder;
          a file that is missing becomes a ref with `error` set;
        - any other single file, whatever its ending;
        - a glob pattern with `*`, `?`, `[...]`, and `**` for any number of folders; of the matches
          the same files are taken as of a folder. Unfollowable links and folders are reported where
          they match, or always when the pattern holds `**`.

    Names are the file's name without its ending. Where two would be equal (ignoring case), the folders
    below the common one are put before them, joined by `__`; where that is not enough, the ending is
    put behind; last, a number.

    Args:
        source: see above.
        endings: in lower case, of the files that are taken; with others than the default no file is opened
            to look for a DICOM preamble.

    Raises:
        FileNotFoundError: the source does not exist.
        ValueError: nothing in it is a scan, or the manifest is invalid.
    """
    path = Path(source)
    if os.path.isdir(path):
        found = _Walk(path, endings).run()
        root = path
    elif os.path.isfile(path) and path.suffix.lower() in MANIFEST_ENDINGS:
        return _read_refs(path)
    elif os.path.lexists(path):
        return [ScanRef(path, safe_name(_stem(path)), error=_link_error(path))]
    elif glob.has_magic(str(source)):
        root, found = _match(str(source), endings)
    else:
        raise FileNotFoundError(
            f"{source} does not exist; allowed: a folder, an image, a glob or a .csv / .parquet manifest"
        )
    if not found:
        raise ValueError(
            f"{source} holds no scan; looked for files ending in {', '.join(sorted(endings))}"
            + (" and for DICOM files without an ending" if endings is IMAGE_ENDINGS else "")
        )
    names = unique_names([entry.path for entry in found], root)
    return [ScanRef(entry.path, name, error=entry.error) for entry, name in zip(found, names, strict=True)]


def unique_names(paths: Sequence[Path], root: Path) -> list[str]:
    """Names for outputs, one a path, as `find_scans` describes them.

    Args:
        paths: files, all different.
        root: the folder that the distinguishing folders are counted from.
    """

    def under_folders(path: Path) -> str:
        return "__".join((*_folders(path, root), _stem(path)))

    def with_ending(path: Path) -> str:
        return "__".join(part for part in (under_folders(path), path.suffix[1:]) if part)

    spellings: tuple[Callable[[Path], str], ...] = (_stem, under_folders, with_ending)
    names: dict[int, str] = {}
    taken: set[str] = set()
    waiting = list(range(len(paths)))
    for spell in spellings:
        groups = defaultdict(list)
        for index in waiting:
            groups[_key(safe_name(spell(paths[index])))].append(index)
        for key, group in groups.items():
            if len(group) == 1 and key not in taken:
                names[group[0]] = safe_name(spell(paths[group[0]]))
                taken.add(key)
        waiting = [index for index in waiting if index not in names]
    for index in waiting:
        number = 2
        while _key(name := safe_name(f"{with_ending(paths[index])}__{number}")) in taken:
            number += 1
        names[index] = name
        taken.add(_key(name))
    return [names[index] for index in range(len(paths))]


def safe_name(text: str) -> str:
    """Make a text usable as a file name on every common file system, keeping letters of all scripts.

    Separators, control characters and those that Windows forbids become `_`; names that Windows
    reserves get one in front; long ones are cut and end in a digest of the whole.
    """
    name = text.encode("utf-8", "replace").decode("utf-8")
    name = re.sub(r'[\\/:*?"<>|\x00-\x1f\x7f]', "_", name).rstrip(". ").lstrip(" ")
    if not name or name.startswith(".") or name.split(".")[0].casefold() in RESERVED_NAMES:
        name = f"_{name}"
    if len(name.encode()) > MAX_NAME_BYTES:
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]
        name = name.encode()[: MAX_NAME_BYTES - 10].decode(errors="ignore") + f"__{digest}"
    return name


@dataclass(frozen=True)
class _Entry:
    path: Path
    error: str | None = None


@dataclass
class _Walk:
    """One walk over a folder. Real folders first, links after, so that a file's own path wins."""

    root: Path
    endings: Collection[str]
    found: list[_Entry] = field(default_factory=list)
    visited: set[str] = field(default_factory=set)
    links: list[Path] = field(default_factory=list)

    def run(self) -> list[_Entry]:
        self._enter(self.root)
        while self.links:
            link = self.links.pop(0)
            target = os.path.realpath(link)
            if _is_inside(os.path.realpath(link.parent), target):
                self.found.append(_Entry(link, f"link leads back to {target}, a folder above it"))
            else:
                self._enter(link)
        return sorted(self.found, key=lambda entry: entry.path.relative_to(self.root).parts)

    def _enter(self, folder: Path) -> None:
        pending = [folder]
        while pending:
            folder = pending.pop()
            real = os.path.realpath(folder)
            if real in self.visited:
                continue
            self.visited.add(real)
            try:
                with os.scandir(folder) as entries:
                    names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
            except OSError as error:
                self.found.append(_Entry(folder, f"folder cannot be listed: {error.strerror or error}"))
                continue
            for name in names:
                path = folder / name
                error_text = _link_error(path)
                if error_text is not None:
                    if path.suffix.lower() in self.endings or path.suffix.lower() not in OTHER_ENDINGS:
                        self.found.append(_Entry(path, error_text))
                elif os.path.isdir(path):
                    (self.links if os.path.islink(path) else pending).append(path)
                elif _is_taken(path, self.endings):
                    self.found.append(_Entry(path))


def _is_inside(path: str, folder: str) -> bool:
    return os.path.commonpath([path, folder]) == folder


def _link_error(path: Path) -> str | None:
    """Why a link cannot be followed; None for a link that can, and for everything that is no link."""
    if not os.path.islink(path):
        return None
    try:
        path.stat()
    except OSError as error:
        return f"link to {os.readlink(path)} cannot be followed: {error.strerror or error}"
    return None


def _is_taken(path: Path, endings: Collection[str]) -> bool:
    ending = path.suffix.lower()
    if ending in endings:
        return True
    if endings is not IMAGE_ENDINGS or ending in OTHER_ENDINGS or path.name.upper() == DICOM_DIRECTORY:
        return False
    try:
        return stat.S_ISREG(path.stat().st_mode) and has_dicom_preamble(path)
    except OSError:  # what cannot be opened and does not look like an image is none of ours
        return False


def _match(pattern: str, endings: Collection[str]) -> tuple[Path, list[_Entry]]:
    """The folder that a glob starts in, and its matches.

    Python's own `**` follows looping links some forty levels deep, so the walk is ours.
    """
    parts = Path(pattern).parts
    fixed = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    root = Path(*parts[:fixed])
    if not root.is_dir():
        raise FileNotFoundError(f"{pattern}: the folder {root} does not exist")
    wanted = parts[fixed:]
    return root, [
        entry
        for entry in _Walk(root, endings).run()
        if _matches(entry.path.relative_to(root).parts, wanted) or (entry.error and "**" in wanted)
    ]


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_matches(parts[skip:], pattern[1:] or "*") for skip in range(len(parts)))
    return bool(parts) and fnmatch.fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _read_refs(manifest: Path) -> list[ScanRef]:
    from foveal.scans.manifest import read_manifest

    frame = read_manifest(manifest)
    if frame.empty:
        raise ValueError(f"{manifest} lists no scan; allowed: at least one row")
    paths = [manifest.parent / path for path in frame["path"]]
    names = unique_names(paths, manifest.parent)
    columns = [
        frame[column] if column in frame else [None] * len(frame) for column in ("patient", "laterality")
    ]
    return [
        ScanRef(path, name, patient or None, laterality or None, error=_absence(path))
        for path, name, patient, laterality in zip(paths, names, *columns, strict=True)
    ]


def _absence(path: Path) -> str | None:
    return _link_error(path) or (
        None if os.path.exists(path) else "listed in the manifest, but does not exist"
    )


def _stem(path: Path) -> str:
    """Name without its ending. `.55` of a DICOM UID is no ending."""
    return path.name if path.suffix[1:].isdigit() else path.stem


def _folders(path: Path, root: Path) -> Iterator[str]:
    relative = Path(os.path.relpath(path.parent, root))
    yield from (part for part in relative.parts if part not in ("..", os.sep))


def _key(name: str) -> str:
    """Equal for names that a case-insensitive or normalising file system takes for the same."""
    return unicodedata.normalize("NFC", name).casefold()
