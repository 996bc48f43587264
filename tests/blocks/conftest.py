"""What tests of Mamba's blocks share."""

from collections.abc import Callable

import pytest
from torch import nn

from foveal.blocks.routed_mamba import RoutedMamba


@pytest.fixture(scope="session")
def their_mixer() -> Callable[..., nn.Module]:
    """From a `MambaMixer`, or a `RoutedMamba` and one of its ways, to the mixer of transformers."""
    from transformers import MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaMixer

    def make(mixer: nn.Module, way: nn.Module | None = None) -> nn.Module:
        if way is None:
            way = mixer.ways[0] if isinstance(mixer, RoutedMamba) else mixer
        dim, width = mixer.out_proj.weight.shape
        config = MambaConfig(
            hidden_size=dim,
            state_size=way.scan.states,
            intermediate_size=width,
            time_step_rank=way.scan.rank,
            use_mambapy=False,
        )
        copy = MambaMixer(config, 0)
        state = {key.removeprefix("scan."): value for key, value in way.state_dict().items()}
        state |= {f"{name}.weight": getattr(mixer, name).weight for name in ("in_proj", "out_proj")}
        copy.load_state_dict(state)
        return copy

    return make
