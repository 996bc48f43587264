"""The weights that come with foveal."""

from __future__ import annotations

from pathlib import Path

from foveal.models.pretrained import WEIGHTS

_FOLDER = Path(__file__).parent / "weights"


def list_shipped() -> list[str]:
    """Names of the models that come with foveal, sorted."""
    return sorted(path.parent.name for path in _FOLDER.glob(f"*/{WEIGHTS}"))


def shipped_model(name: str) -> Path:
    """Folder of a model that comes with foveal, for `from_pretrained`.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in list_shipped():
        raise ValueError(f"no shipped model {name!r}; allowed: {', '.join(list_shipped()) or '(none)'}")
    return _FOLDER / name
