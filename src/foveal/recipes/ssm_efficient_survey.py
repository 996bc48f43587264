"""State-space efficiency study: which claims of linear time hold on one's own machine.

foveal verify ssm-efficient-survey
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

from pydantic import Field

from foveal.recipes.base import Card, Evidence, Paper, Recipe, Scale
from foveal.settings import Settings

if TYPE_CHECKING:
    from foveal.evaluation.sequence_costs import SequenceReport


class SsmEfficientSurveySettings(Settings):
    """What to measure; the defaults are the study's."""

    operators: tuple[str, ...] = Field((), description="names in the registry; none means all")
    sizes: tuple[int, ...] = Field((64, 196, 784, 1024, 3136, 4096, 8192, 16384), description="tokens")
    dims: tuple[int, ...] = Field((192,), description="widths")
    batches: tuple[int, ...] = Field((1, 4), description="sequences at once")
    threads: tuple[int, ...] = Field((1, 2), description="of torch and the compiled kernels, in turn")
    warm_ups: int = Field(3, ge=1, description="passes that are not counted")
    repeats: int = Field(7, ge=1, description="passes that are; their median is told")
    most_seconds: float = Field(
        math.inf, gt=0, description="of one pass at one size with its repeats; above it there are fewer"
    )
    memory_repeats: int = Field(3, ge=0, description="fresh processes whose peak memory is taken")


class SsmEfficientSurvey(Recipe[SsmEfficientSurveySettings]):
    """A measurement of operators; there is nothing to train."""

    card = Card(
        slug="ssm-efficient-survey",
        title="State-space efficiency study: time, memory and operations of eleven sequence operators",
        paper=Paper(
            citation="Computation-Efficient Era: A Comprehensive Survey of State Space Models in Medical "
            "Image Analysis, arXiv 2406.03430",
            year=2024,
            link="https://arxiv.org/abs/2406.03430",
        ),
        task="Operators, sizes and widths in; time, memory, operations and parameters of each out, with the "
        "growth over tokens and the length from which one is faster than another on this machine.",
        published=(
            "A survey that collects figures of others: Vim 2.8 times faster with 86.8 % less memory than "
            "DeiT at 1248 px; UltraLight VM-UNet 0.049 M parameters and 0.060 GFLOPs; LightM-UNet about 1 M "
            "parameters; U-Mamba and SegMamba above nnU-Net and transformers on their own splits.",
            "It reports no measurement of its own that could be confirmed.",
        ),
        original="https://github.com/xmindflow/Awesome_Mamba",
        licence="MIT (a list; no code)",
        faithfulness="The survey has no code and no measurement: what is built is the family of operators "
        "that it tells of, written from their own papers and held against SciPy, powers and loops, one way to"
        " measure them, and its claims as findings. Not built: LSSL, DSS, H3, Hyena, RWKV and other "
        "gated forms. S4's forward pass takes a power of a dense matrix a channel, which the original"
        " avoids by training the cut output weights of one length: it is slow here. Copying is asked "
        "in a small form: 8 symbols of 8 kinds, one kind of noise, 64 tokens (128 where the lag is "
        "fixed), with fresh sequences at every step. Counts follow each operator as it is built, so "
        "attention's causal half is not taken off. The catalogue of models is "
        "foveal.recipes.state_space_models.",
        built_from=(
            "kernels.long_convolution",
            "kernels.gated_recurrence",
            "kernels.selective_scan",
            "blocks.state_space",
            "blocks.sequence_operators",
            "evaluation.sequence_costs",
            "evaluation.sequence_numerics",
            "evaluation.sequence_pages",
            "training.fit",
        ),
    )
    Settings = SsmEfficientSurveySettings

    def build(self, settings: SsmEfficientSurveySettings) -> Callable[[], SequenceReport]:
        """The measurement, to be called without arguments."""
        from foveal.blocks.sequence_operators import OPERATORS
        from foveal.evaluation.sequence_costs import measure_sequence_operators

        return partial(
            measure_sequence_operators,
            settings.operators or tuple(OPERATORS),
            settings.sizes,
            settings.dims,
            batches=settings.batches,
            threads=settings.threads,
            warm_ups=settings.warm_ups,
            repeats=settings.repeats,
            most_seconds=settings.most_seconds,
            memory_repeats=settings.memory_repeats,
        )

    def evidence(self, scale: Scale) -> Iterable[Evidence]:
        """See `foveal.recipes._ssm_efficient_survey_evidence`."""
        from foveal.recipes._ssm_efficient_survey_evidence import evidence

        return evidence(scale)


recipe = SsmEfficientSurvey()
