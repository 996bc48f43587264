"""The catalogue of state-space vision models that two surveys tell of (arXiv 2406.03430, 2410.02362)."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, model_validator

from foveal.markdown import table
from foveal.settings import Settings, unknown_name

Task = Literal[
    "classification", "segmentation", "change-detection", "landmarks", "survival", "restoration",
    "reconstruction", "registration", "synthesis", "fusion", "forecasting", "dose-prediction",
]  # fmt: skip
Modality = Literal[
    "natural", "video", "motion", "remote-sensing", "CT", "MRI", "PET", "X-ray", "ultrasound", "endoscopy",
    "microscopy", "dermoscopy", "fundus", "OCT", "histopathology", "genomics",
]  # fmt: skip
Place = Literal["backbone", "encoder", "bottleneck", "decoder", "skip", "branch", "aggregator"]
Core = Literal["s4", "s4d", "s5", "mamba", "mamba2", "retention"]
Partner = Literal["convolution", "attention", "recurrence", "graph"]
Learning = Literal["supervised", "semi-supervised", "weakly supervised", "self-supervised", "multimodal"]
FILE = Path(__file__).with_name("state_space_models.yaml")


class StateSpaceModel(Settings):
    """One published model; what is not known of it is None.

    The names of scans, encoders, networks and recipes are those that foveal has.
    """

    name: str
    paper: str = Field(pattern=r"^\d{4}\.\d{5}$", description="arXiv number")
    code: str | None = Field(None, pattern=r"^[\w.-]+/[\w.-]+$", description="owner/name on GitHub")
    licence: str | None = Field(None, description="of the code")
    tasks: tuple[Task, ...] = Field(min_length=1)
    modalities: tuple[Modality, ...] | None = None
    dimensions: tuple[Literal[1, 2, 3], ...] | None = Field(None, description="axes of the grid of tokens")
    core: Core = Field("mamba", description="what runs along a route")
    scan: tuple[str, ...] | None = Field(None, description="of foveal.blocks.scan_routes; _r for a reverse")
    block: str | None = None
    place: tuple[Place, ...] | None = Field(None, description="where in the network the state space sits")
    partners: tuple[Partner, ...] = Field((), description="what it is combined with")
    learning: Learning = "supervised"
    encoder: str | None = Field(None, description="of create_encoder")
    network: str | None = Field(None, description="of create_network")
    model: Literal["BagClassifier", "RegistrationModel", "RestorationModel"] | None = Field(
        None, description="of foveal.models, around the network or in place of one"
    )
    recipe: str | None = Field(None, description="of foveal verify")

    @model_validator(mode="after")
    def _names_exist(self) -> StateSpaceModel:
        known = _known_names()
        named: list[tuple[str, str | None]] = [
            ("encoder", self.encoder), ("network", self.network), ("recipe", self.recipe)
        ]  # fmt: skip
        named += [("scan", scan.removesuffix("_r")) for scan in self.scan or ()]
        for what, name in named:
            if name is not None and name not in known[what]:
                raise ValueError(f"{self.name}: {unknown_name(what, name, sorted(known[what]))}")
        return self

    @property
    def buildable(self) -> str | None:
        """Network, encoder or model that foveal builds it as; None where it does not."""
        return self.network or self.encoder or self.model


@cache
def _known_names() -> dict[str, frozenset[str]]:
    from foveal.blocks.scan_routes import list_scans
    from foveal.encoders import list_encoders
    from foveal.models.networks import list_networks
    from foveal.recipes.registry import recipe_names

    lists = {
        "scan": list_scans(), "encoder": list_encoders(), "network": list_networks(), "recipe": recipe_names()
    }  # fmt: skip
    return {what: frozenset(names) for what, names in lists.items()}


def read_catalogue(path: Path = FILE) -> tuple[StateSpaceModel, ...]:
    """Models of a YAML file, each entry checked.

    Raises:
        ValueError: the file holds no list, an entry has a key, value or name that is not known, or two
            entries have one name.
    """
    import yaml

    entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"{path} holds {type(entries).__name__}; allowed: a list of models, each a mapping")
    models = tuple(StateSpaceModel.model_validate(entry) for entry in entries)
    twice = [name for name, count in Counter(model.name for model in models).items() if count > 1]
    if twice:
        raise ValueError(f"{path} has more than one entry of {', '.join(twice)}; names are unique")
    return models


@cache
def _shipped() -> tuple[StateSpaceModel, ...]:
    return read_catalogue()


def catalogue(
    *, task: str | None = None, modality: str | None = None, dimension: int | None = None
) -> tuple[StateSpaceModel, ...]:
    """Models of the surveys, those alone that fit what is given.

    Args:
        task: one of `Task`.
        modality: one of `Modality`.
        dimension: 1, 2 or 3 axes of the grid of tokens.

    Raises:
        ValueError: a task, modality or dimension that no model can have.
    """
    for what, given, allowed in (("task", task, get_args(Task)), ("modality", modality, get_args(Modality))):
        if given is not None and given not in allowed:
            raise ValueError(unknown_name(what, given, allowed))
    if dimension not in (None, 1, 2, 3):
        raise ValueError(f"dimension is {dimension}; allowed: 1, 2 or 3")
    return tuple(
        model
        for model in _shipped()
        if (task is None or task in model.tasks)
        and (modality is None or modality in (model.modalities or ()))
        and (dimension is None or dimension in (model.dimensions or ()))
    )


_HEAD = """
# State-space models
<!-- Made by tests/recipes/test_state_space_models.py with FOVEAL_WRITE_DOCS=1; do not edit. -->

Models of vision whose tokens are mixed by a state space, as two surveys list them (arXiv
[2406.03430](https://arxiv.org/abs/2406.03430), [2410.02362](https://arxiv.org/abs/2410.02362)): {models} in
all, {built} of which foveal builds as an encoder, a network or a model. A dash stands for what is not known,
or does not apply. Scans are those of `foveal.blocks.scan_routes`; `place` is where the state space sits.

```python
from foveal.recipes.state_space_models import catalogue

for model in catalogue(task="segmentation", modality="MRI", dimension=3):
    print(model.name, model.scan, model.place, model.buildable)
```

## Build, train and compare
Networks take images or volumes of any size, but for the few that are made for one; those that are built from
parts (`ssm-unet` and its kin) take any scan in place of their own.

```python
import torch
from foveal.models.networks import create_network, list_networks

print(list_networks())
network = create_network("umamba-bot", outputs=2, in_channels=1, dims=(8, 16, 32), scan="hilbert")
print(network(torch.rand(1, 1, 40, 56)).shape)
volumes = create_network("segmamba", outputs=2, in_channels=1, spatial_dims=3, dims=(8, 16), depths=(1, 1))
print(volumes(torch.rand(1, 1, 16, 16, 16)).shape)
```

On masks of your own, several networks are trained with equal steps, patches and seeds, beside a convolutional
one:

```
foveal train ssm-medical-survey --data MASKS.npz --out runs/survey \\
    --set arch=umamba-bot --set 'compare=["conv-unet", "segmamba"]' --set patch_size=96
```

`MASKS.npz` holds `train_images` and `test_images`, (N, C, H, W) or (N, C, T, H, W), with `train_masks` and
`test_masks` in {{0, 1}}; `comparison.md` tells Dice and HD95, and each network's folder holds its model.

Sizes are those of the publications where these could be met: UltraLight VM-UNet 49,457 parameters, VM-UNet
27.4 M, SegMamba 67.4 M, Swin-UMamba 59.9 M. H-vmunet's number of blocks is unconfirmed; two a stage make
9.00 M, where 8.97 M are remembered. LightM-UNet with the paper's 32 filters has 5.01 M, which is what
[users count](https://github.com/MrBlankness/LightM-UNet/issues/30) in the released code; the paper tells
1.09 M, and 1.87 M for volumes, which no number of filters gives. `vm-unet` adds what entered a stage of the
encoder to the decoder's stage of the same size; `skip="released"` adds it one stage lower, as the released
code is remembered to do, which leaves the finest patches out: that network learned no vessels in 150 steps.
SegMamba at 64 x 64 x 64 voxels takes 1.08 TFLOP forward and backward, 98 % of them in convolutions, most of
these in its decoder at full size: about 17 s on one core at the measured speed of its convolutions (86 and
54 GFLOPS), whatever the scans take.

```python
import torch
from foveal.models.bags import BagClassifier, BagClassifierConfig
from foveal.models.registration import RegistrationModel, RegistrationConfig

bags = BagClassifier(BagClassifierConfig(inputs=32, classes=2, dim=16)).eval()
print(bags(torch.randn(1, 500, 32)).shape)  # the 500 patches of one slide
small = {{"dims": (8, 16)}}
pair = RegistrationModel(RegistrationConfig(network="mambamorph", network_settings=small)).eval()
print(pair(torch.rand(1, 1, 32, 32), torch.rand(1, 1, 32, 32)).flow.shape)
```
"""


def models_page() -> str:
    """The text of docs/state-space-models.md: one table a task, each model where its first task is."""
    models = catalogue()
    built = sum(model.buildable is not None for model in models)
    parts = [_HEAD.strip().format(models=len(models), built=built)]
    for task in get_args(Task):
        rows = [_row(model) for model in models if model.tasks[0] == task]
        if rows:
            head = ["model", "for", "axes", "scan", "block", "place", "with", "code", "foveal"]
            parts.append(f"## {task.replace('-', ' ').capitalize()}\n{table(head, rows)}")
    return "\n\n".join(parts) + "\n"


def _row(model: StateSpaceModel) -> list[str]:
    def told(values: Any) -> str:
        return ", ".join(map(str, values)) if values else "–"

    purposes: list[str] = [*model.tasks[1:], *(model.modalities or ())]
    if model.learning != "supervised":
        purposes.append(model.learning)
    mine = [
        f"`{name}`"
        for name in dict.fromkeys((model.network, model.encoder, model.model, model.recipe))
        if name
    ]
    return [
        f"[{model.name}](https://arxiv.org/abs/{model.paper})",
        told(purposes),
        told(model.dimensions),
        told(f"`{scan}`" for scan in model.scan) if model.scan else "–",
        model.block or "–",
        told(model.place),
        told(model.partners),
        f"[{model.code}](https://github.com/{model.code})" if model.code else "–",
        told(mine),
    ]
