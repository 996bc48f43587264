"""What is explained: photographs and volumes from files, prepared as the model itself wants them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from foveal.files import file_sha256
from foveal.models.classifier import Classifier
from foveal.models.mask_model import MaskModel
from foveal.models.pretrained import CONFIG, PretrainedModel, read_config
from foveal.models.segmenter import Segmenter
from foveal.models.shipped import list_shipped, shipped_model

if TYPE_CHECKING:
    from foveal.scans.discovery import ScanRef

VOLUME_ENDINGS = (".nii", ".nii.gz")
_MODELS: dict[str, type[PretrainedModel]] = {
    kind.__name__: kind for kind in (Classifier, Segmenter, MaskModel)
}
Place = Callable[[np.ndarray], np.ndarray]
"""From a map on the model's grid to one over the background."""


@dataclass(frozen=True)
class Subject:
    """One image or volume, ready for the model.

    Attributes:
        images: (1, C, H, W) or (1, C, X, Y, Z).
        background: (H', W', 3) uint8, the photograph to draw on; None draws on the image itself.
        place: puts a map over the background; None where both have one grid.
        affine: (4, 4) of a volume's voxels, kept in what is written.
    """

    images: Tensor
    background: np.ndarray | None = None
    place: Place | None = None
    affine: np.ndarray | None = None


@dataclass(frozen=True)
class Case:
    """A subject by name, read when its turn comes; it can be sent to another process.

    Attributes:
        name: safe as the name of a folder, and unique.
        read: from the model to the subject; raises what is wrong with the file.
        key: changes whenever the content does, so that finished maps are known again.
        file: it is read from, where it is.
    """

    name: str
    read: Callable[[nn.Module], Subject]
    key: Callable[[], str]
    file: Path | None = None


def tensor_case(name: str, images: Tensor, *, affine: np.ndarray | None = None) -> Case:
    """A case of images (1, C, ...) that are in memory already, as the model takes them."""
    import hashlib

    if images.ndim not in (4, 5) or len(images) != 1:
        raise ValueError(f"images of shape {tuple(images.shape)}; allowed: one image or volume, (1, C, ...)")
    digest = hashlib.sha256(images.detach().cpu().contiguous().numpy().tobytes()).hexdigest()
    subject = Subject(images.detach().cpu(), affine=affine)
    return Case(name, partial(_same, subject), partial(str, digest))


def file_cases(sources: Sequence[str | Path]) -> tuple[list[Case], list[tuple[Path, str]]]:
    """Cases of files, folders, globs and manifests, and what cannot be read, with the reason.

    Photographs are found as `find_scans` does; NIfTI volumes by their ending, in a folder or by name.

    Raises:
        FileNotFoundError: a source does not exist.
        ValueError: a source holds nothing to explain.
    """
    from foveal.scans.discovery import ScanRef, find_scans, unique_names

    refs: list[ScanRef] = []
    for source in sources:
        path = Path(source)
        if path.is_dir() and (volumes := [p for p in sorted(path.rglob("*")) if _is_volume(p)]):
            refs += [ScanRef(p, p.name) for p in volumes]
            try:
                refs += find_scans(path)
            except ValueError:
                continue  # volumes alone
        else:
            refs += find_scans(source)
    paths = list(dict.fromkeys(ref.path for ref in refs))
    names = dict(zip(paths, unique_names(paths, Path(_common(paths))), strict=True))
    failed = [(ref.path, ref.error) for ref in refs if ref.error]
    broken = {path for path, _ in failed}
    cases = [
        Case(_without_nii(names[path]), partial(read_subject, path), partial(file_sha256, path), path)
        for path in paths
        if path not in broken
    ]
    return cases, failed


def read_subject(file: str | Path, model: nn.Module) -> Subject:
    """Read a file as the model wants it.

    Raises:
        ScanError: the photograph cannot be read.
        ValueError: a file that does not suit the model, or without a field of view.
        ImportError: NIfTI without the extra `volumes`.
    """
    path = Path(file)
    if _is_volume(path):
        return _read_volume(path, model)
    if isinstance(model, MaskModel) and model.config.spatial_dims == 3:
        raise ValueError(f"{path} is no volume; the model takes volumes: {', '.join(VOLUME_ENDINGS)}")
    from foveal.scans.field_of_view import find_field_of_view, square_box
    from foveal.scans.reading import read_scan

    image = read_scan(path).image
    if isinstance(model, MaskModel):
        whole = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255
        if model.config.in_channels == 1:
            whole = whole.mean(dim=1, keepdim=True)
        return Subject(whole, background=image)
    field = find_field_of_view(image)
    if isinstance(model, Segmenter):
        from foveal.segmentation.frames import working_frame

        frame = working_frame(image, field, diameter=model.preprocess.working_diameter)
        return Subject(frame.image, image, partial(_place, field.mask, frame.box))
    if isinstance(model, Classifier):
        from foveal.scans.field_of_view import field_square

        square = field_square(image, field, size=model.config.size)
        images = torch.from_numpy(square).permute(2, 0, 1)[None].float() / 255
        if model.encoder.in_channels != 3:
            raise ValueError(
                f"the model takes images of {model.encoder.in_channels} channels; photographs have 3"
            )
        return Subject(images, image, partial(_place, field.mask, square_box(field)))
    raise ValueError(
        f"{type(model).__name__} does not tell how files are prepared; allowed: {', '.join(_MODELS)}"
    )


def load_model(name_or_folder: str | Path) -> PretrainedModel:
    """A saved classifier, segmenter or mask model by its folder, or a shipped one by its name.

    Raises:
        ValueError: neither, or a folder with another kind of model.
        OSError: the folder is incomplete.
    """
    folder = model_folder(name_or_folder)
    kind = read_config(folder).get("foveal_model")
    if kind not in _MODELS:
        raise ValueError(
            f"{folder} holds a {kind or 'model of an unknown kind'}; allowed: {', '.join(_MODELS)}"
        )
    return _MODELS[kind].from_pretrained(folder)


def model_folder(name_or_folder: str | Path) -> Path:
    """The folder of a saved model, or of a shipped one by its name."""
    folder = Path(name_or_folder)
    if (folder / CONFIG).is_file():
        return folder
    if str(name_or_folder) in list_shipped():
        return shipped_model(str(name_or_folder))
    raise ValueError(
        f"{name_or_folder} is neither the folder of a saved model nor a shipped one; shipped are "
        f"{', '.join(list_shipped()) or '(none)'}"
    )


def class_names(model: nn.Module) -> tuple[str, ...]:
    """Names of a model's outputs; numbers where it has none."""
    config: Any = getattr(model, "config", None)
    names = getattr(config, "classes", None)
    if names is None and isinstance(model, MaskModel):
        return tuple(str(index) for index in range(model.config.outputs))
    return tuple(names or ())


def _read_volume(path: Path, model: nn.Module) -> Subject:
    if not (isinstance(model, MaskModel) and model.config.spatial_dims == 3):
        raise ValueError(f"{path} is a volume; a {type(model).__name__} takes photographs")
    nibabel = nifti()
    try:
        found: Any = nibabel.load(path)
        values = np.asarray(found.dataobj, dtype=np.float32)
    except (OSError, ValueError, EOFError, nibabel.filebasedimages.ImageFileError) as error:
        raise ValueError(f"{path} cannot be read as NIfTI: {error}") from error
    channels = model.config.in_channels
    volume = values[..., None] if values.ndim == 3 else values
    if volume.ndim != 4 or volume.shape[3] != channels:
        raise ValueError(f"{path} has the shape {values.shape}; allowed: (X, Y, Z), or (X, Y, Z, {channels})")
    return Subject(torch.from_numpy(volume).movedim(-1, 0)[None].contiguous(), affine=found.affine)


def nifti() -> Any:
    """The library of NIfTI files.

    Raises:
        ImportError: it is not installed; tells the extra.
    """
    try:
        import nibabel
    except ImportError as error:
        raise ImportError('NIfTI volumes need nibabel: pip install "foveal[volumes]"') from error
    return nibabel


def _place(mask: np.ndarray, box: tuple[int, int, int, int], values: np.ndarray) -> np.ndarray:
    """A map over a square of the photograph as one over the whole, 0 outside the field of view."""
    from torch.nn import functional as F

    from foveal.scans.field_of_view import place_back

    side = (box[2] - box[0], box[3] - box[1])
    large = F.interpolate(
        torch.from_numpy(values)[None, None], size=side, mode="bilinear", align_corners=False
    )
    return np.where(mask, place_back(large[0, 0].numpy(), box, mask.shape), 0).astype(np.float32)


def _same(subject: Subject, _model: nn.Module) -> Subject:
    return subject


def _is_volume(path: Path) -> bool:
    return path.name.lower().endswith(VOLUME_ENDINGS) and path.is_file()


def _without_nii(name: str) -> str:
    return name[:-4] if name.lower().endswith(".nii") else name


def _common(paths: Sequence[Path]) -> str:
    import os

    return os.path.commonpath([path.parent.absolute() for path in paths]) if paths else "."
