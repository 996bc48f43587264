"""The global random generators: seeding, saving and giving back, without pickling."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, numpy and torch (every device); the seed is taken modulo 2^32."""
    seed_cpu(seed)
    torch.cuda.manual_seed_all(seed % 2**32)


def seed_cpu(seed: int) -> None:
    """The same without the devices: a tenth of the time, for use around every sample."""
    seed %= 2**32
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  the legacy generator is the global one that data sets draw from
    torch.default_generator.manual_seed(seed)


def capture_randomness() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """State of the global generators: torch's as uint8 tensors, numpy's and Python's as JSON values."""
    tensors = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        tensors |= {f"cuda-{i}": state.cpu() for i, state in enumerate(torch.cuda.get_rng_state_all())}
    name, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002
    version, internal, gauss_next = random.getstate()
    values = {
        "numpy": [name, np.asarray(keys).tolist(), position, has_gauss, gauss],
        "python": [version, list(internal), gauss_next],
    }
    return tensors, values


def restore_randomness(tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
    """Undo everything drawn since `capture_randomness`; devices that are not here are passed over."""
    torch.set_rng_state(tensors["torch"])
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            if f"cuda-{i}" in tensors:
                torch.cuda.set_rng_state(tensors[f"cuda-{i}"], i)
    name, keys, position, has_gauss, gauss = values["numpy"]
    np.random.set_state((name, np.asarray(keys, dtype=np.uint32), position, has_gauss, gauss))  # noqa: NPY002
    version, internal, gauss_next = values["python"]
    random.setstate((version, tuple(internal), gauss_next))


@contextmanager
def without_touching_randomness() -> Iterator[None]:
    """Give the global generators back as they were, whatever happens inside."""
    torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    try:
        yield
    finally:
        torch.set_rng_state(torch_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)
