"""Which masks are measured, and what is known of each: field of view, photograph, disc, fovea, scale."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from foveal.measurement.landmarks import Disc, Laterality
from foveal.scans.discovery import IMAGE_ENDINGS, MANIFEST_ENDINGS, ScanRef, find_scans
from foveal.scans.stored_samples import MASK_ENDINGS
from foveal.screening.landmark_tables import (
    DISC_COLUMNS,
    FOVEA_COLUMNS,
    LANDMARK_COLUMNS,
    ByName,
    Known,
    known_of_rows,
    read_landmarks,
)
from foveal.screening.records import Failure


@dataclass(frozen=True)
class MaskSources:
    """Where to look for what belongs to the masks; files belong by their names, see `ByName`.

    Attributes:
        images: folder, glob or file of the photographs.
        fields: folder, glob or file of masks of the field of view.
        disc: folder, glob or file of masks of the optic disc, or a table (see `read_landmarks`).
        fovea: folder, glob or file of masks of the fovea, or a table.
        landmarks: a table of discs, foveas, lateralities and spacings.
    """

    images: Path | None = None
    fields: Path | None = None
    disc: Path | None = None
    fovea: Path | None = None
    landmarks: Path | None = None


@dataclass(frozen=True)
class MaskItem:
    """One mask and what is known of it; a path stands for a file that is still to be read.

    Attributes:
        path: of the mask.
        name: of its row, unique.
        patient: as the manifest tells it.
        laterality: as a table tells it.
        image: its photograph.
        field: mask of its field of view.
        disc: the optic disc, or the mask of it.
        fovea: (row, column) in pixels, or the mask of it.
        spacing_mm: (row, column) millimetres a pixel, as a table tells it.
    """

    path: Path
    name: str
    patient: str | None = None
    laterality: Laterality | None = None
    image: Path | None = None
    field: Path | None = None
    disc: Disc | Path | None = None
    fovea: tuple[float, float] | Path | None = None
    spacing_mm: tuple[float, float] | None = None

    @property
    def files(self) -> list[Path]:
        """All files that decide its measures."""
        return [
            path
            for path in (self.path, self.image, self.field, self.disc, self.fovea)
            if isinstance(path, Path)
        ]


def find_masks(source: str | Path, sources: MaskSources) -> tuple[list[MaskItem | Failure], list[str]]:
    """List the masks that a source stands for, with all that belongs to each.

    Args:
        source: folder, file, glob, or a manifest that may also have the columns of `read_landmarks`.
        sources: of what belongs to the masks.

    Returns:
        The masks, or why one cannot be measured, in a fixed order; and what the user should know.

    Raises:
        OSError: a source is not there.
        ValueError: a table is wrong, or nothing of a source belongs to any mask.
    """
    refs = find_scans(source, endings=MASK_ENDINGS)
    rows = _manifest_rows(Path(source), len(refs))
    images = _files("--images", sources.images, refs, MASK_ENDINGS | IMAGE_ENDINGS)
    fields = _files("--fields", sources.fields, refs, MASK_ENDINGS)
    discs = _files_or_table("--disc", sources.disc, refs, DISC_COLUMNS)
    foveas = _files_or_table("--fovea", sources.fovea, refs, FOVEA_COLUMNS)
    table = None
    if sources.landmarks is not None:
        table = _Group("--landmarks", sources.landmarks, read_landmarks(sources.landmarks, LANDMARK_COLUMNS))
    items: list[MaskItem | Failure] = []
    for ref, row in zip(refs, rows, strict=True):
        if ref.error:
            items.append(Failure(str(ref.path), ref.name, "find", ref.error))
            continue
        item = MaskItem(ref.path, ref.name, ref.patient, ref.laterality)
        try:
            item = _with(item, "known", row)
            for group, what in ((table, "known"), (discs, "disc"), (foveas, "fovea")):
                item = _with(item, what, group.find(ref) if group else None)
            for group, what in ((images, "image"), (fields, "field")):
                item = _with(item, what, group.find(ref) if group else None)
            # Some densities relative to a field of view and some to the frame would not compare.
            if fields and item.field is None:
                raise ValueError(f"no field of view in {sources.fields} has its name")
            if images and item.image is None and item.field is None:
                raise ValueError(f"no photograph in {sources.images} has its name")
        except ValueError as error:
            items.append(Failure(str(ref.path), ref.name, "find", str(error)))
            continue
        items.append(item)
    groups = [group for group in (images, fields, discs, foveas, table) if group is not None]
    return items, [note for group in groups for note in group.notes(len(refs))]


class _Group:
    """What one option names: by the masks' names, or, one file for one mask, whatever its name is."""

    def __init__(self, option: str, source: Path, found: ByName, only: Path | None = None) -> None:
        self.option, self.source, self.found, self.only = option, source, found, only
        self.lacking: list[str] = []

    def find(self, ref: ScanRef) -> Path | Known | None:
        """What belongs to a mask, or None.

        Raises:
            ValueError: several files do.
        """
        if self.only is not None:
            return self.only
        try:
            found = self.found.find(ref.path.stem)
        except ValueError as error:
            raise ValueError(f"{self.option}: {error}") from None
        if found is None:
            self.lacking.append(ref.path.stem)
        return found

    def notes(self, masks: int) -> list[str]:
        """What of the source belongs to no mask, and which masks lack it.

        Raises:
            ValueError: nothing belongs to any mask.
        """
        if self.only is not None:
            return []
        unused = self.found.unused
        if self.lacking and not self.found.used:
            there = f"there is {unused[0]!r}" if unused else "there is nothing"
            raise ValueError(
                f"{self.option} {self.source}: nothing in it has the name of a mask; masks are called "
                f"{self.lacking[0]!r}, and {there}"
            )
        notes = []
        if self.lacking:
            count = f"{len(self.lacking)} of {masks}"
            notes.append(f"{self.option} has nothing for {count} masks, e.g. {self.lacking[0]}")
        if unused:
            notes.append(f"{self.option} has entries of no mask: {len(unused)}, e.g. {unused[0]}")
        return notes


def _files(
    option: str, source: Path | None, masks: Sequence[ScanRef], endings: frozenset[str]
) -> _Group | None:
    if source is None:
        return None
    try:
        refs = find_scans(source, endings=endings)
    except (OSError, ValueError) as error:
        raise ValueError(f"{option}: {error}") from None
    broken = next((ref for ref in refs if ref.error), None)
    if broken:
        raise ValueError(f"{option}: {broken.path}: {broken.error}")
    only = refs[0].path if len(masks) == len(refs) == 1 and source.is_file() else None
    return _Group(option, source, ByName([(ref.path.stem, ref.path) for ref in refs]), only)


def _files_or_table(
    option: str, source: Path | None, masks: Sequence[ScanRef], columns: Sequence[str]
) -> _Group | None:
    if source is not None and source.suffix.lower() in MANIFEST_ENDINGS:
        return _Group(option, source, read_landmarks(source, columns))
    return _files(option, source, masks, MASK_ENDINGS)


def _with(item: MaskItem, what: str, found: Path | Known | None) -> MaskItem:
    """The item with what was found: a file, or what a row of a table tells."""
    if isinstance(found, Path):
        return replace(item, **{what: found})  # type: ignore[arg-type]
    told = {} if found is None else {name: getattr(found, name) for name in Known.__dataclass_fields__}
    return replace(item, **{name: value for name, value in told.items() if value is not None})


def _manifest_rows(source: Path, number: int) -> list[Known | None]:
    if source.suffix.lower() not in MANIFEST_ENDINGS or not source.is_file():
        return [None] * number
    from foveal.scans.manifest import read_manifest

    return list(known_of_rows(read_manifest(source), str(source)))
