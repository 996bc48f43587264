"""What proves the patch-scaling recipe: recurrence and mixer beside others, flips, tokens, fits, errors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foveal.blocks.mamba2 import Mamba2Mixer
from foveal.encoders.adventurer import Adventurer, AdventurerBlock
from foveal.evaluation.power_law import fit_power_law
from foveal.kernels.gated_recurrence import (
    gated_recurrence,
    gated_recurrence_step,
    gated_recurrence_with_state,
)
from foveal.kernels.selective_scan import selective_scan
from foveal.recipes.base import Evidence, Finding, Scale


def evidence(scale: Scale) -> Iterable[Evidence]:
    """Exact facts at either scale; learning, decoders and costs in full."""
    yield partial(chunks_equal_steps, torch.float64, 1e-10)
    yield partial(chunks_equal_steps, torch.float32, 1e-4)
    yield equals_selective_scan
    yield gradients
    yield mixer_equals_transformers
    yield who_sees_whom
    yield token_counts
    yield fitter_recovers
    yield refused
    if scale == "full":
        from foveal.recipes import _patch_scaling_costs, _patch_scaling_learning

        yield _patch_scaling_learning.lesions_by_patch_size
        yield _patch_scaling_learning.lesions_by_patch_size_of_a_vit
        yield _patch_scaling_learning.decoders_by_patch_size
        yield _patch_scaling_costs.one_token_a_pixel
        yield _patch_scaling_costs.growth_of_time


def _ssd(kind: torch.dtype, length: int = 67) -> dict[str, Tensor]:
    """C, B, values and log decays of two heads that share one group."""
    draw = partial(torch.randn, dtype=torch.float64)
    step = torch.rand(2, length, 2, dtype=torch.float64)
    rate = -torch.tensor([1.0, 5.0], dtype=torch.float64)
    made = {"C": draw(2, length, 1, 4), "B": draw(2, length, 1, 4), "x": draw(2, length, 2, 8)}
    return {name: t.to(kind) for name, t in (made | {"d": step, "A": rate}).items()}


def _recur(s: dict[str, Tensor], **options: Any) -> tuple[Tensor, Tensor]:
    values, decay = s["d"][..., None] * s["x"], s["d"] * s["A"]
    return gated_recurrence_with_state(s["C"], s["B"], values, decay, **options)


def _relative(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b).abs().max() / b.abs().max())


@torch.no_grad()
def chunks_equal_steps(kind: torch.dtype, tolerance: float) -> Iterator[Finding]:
    """Chunks of the state-space recurrence equal its steps."""
    ssd = _ssd(kind)
    wide = {name: tensor.double() for name, tensor in ssd.items()}
    state = torch.zeros(2, 2, 4, 8, dtype=torch.float64)
    outputs = []
    for t in range(67):
        here = {name: wide[name][:, t] for name in ("C", "B", "x", "d")}
        out, state = gated_recurrence_step(
            here["C"], here["B"], here["d"][..., None] * here["x"], here["d"] * wide["A"], state=state
        )
        outputs.append(out)
    truth = torch.stack(outputs, dim=1)
    worst = 0.0
    for chunk in (1, 16, 64):
        whole, last = _recur(ssd, chunk=chunk)
        first = {n: t[:, :30] if n != "A" else t for n, t in ssd.items()}
        second = {n: t[:, 30:] if n != "A" else t for n, t in ssd.items()}
        a, carried = _recur(first, chunk=chunk)
        b, end = _recur(second, chunk=chunk, initial_state=carried)
        pairs = ((whole, truth), (last, state), (torch.cat([a, b], dim=1), truth), (end, state))
        worst = max(worst, *(_relative(ours, theirs) for ours, theirs in pairs))
    yield Finding.at_most(
        f"SSD in chunks of 1, 16, 64 of L = 67, whole and in two halves, {torch.finfo(kind).bits} bits: "
        "largest relative difference to its steps in 64 bits",
        worst,
        tolerance,
    )


@torch.no_grad()
def equals_selective_scan() -> Finding:
    """SSD equals the selective scan with one rate a head."""
    ssd = _ssd(torch.float64)
    rate = ssd["A"].repeat_interleave(8)[:, None].expand(16, 4)
    steps = ssd["d"].repeat_interleave(8, dim=2)
    scan = partial(selective_scan, softplus=False, backend="reference")
    scanned = scan(ssd["x"].flatten(2), steps, rate, ssd["B"], ssd["C"])
    difference = float((_recur(ssd, chunk=16)[0].flatten(2) - scanned).abs().max())
    return Finding.at_most("SSD and the selective scan with A repeated: difference", difference, 1e-10)


def gradients() -> Iterator[Finding]:
    """Gradients pass gradcheck, and stay finite with strong decay in long chunks."""
    leaves = [torch.randn(1, 5, 1, 2), torch.randn(1, 5, 1, 2), torch.randn(1, 5, 2, 2), -torch.rand(1, 5, 2)]
    wide = [leaf.double().requires_grad_() for leaf in leaves]
    holds = torch.autograd.gradcheck(partial(gated_recurrence, chunk=2), wide, raise_exception=False)
    yield Finding.fact("SSD: torch's gradcheck passes in 64 bits", holds)
    ssd = _ssd(torch.float32, 300)
    ssd |= {"d": torch.full_like(ssd["d"], 1.0), "A": torch.full_like(ssd["A"], -20.0)}
    ssd = {name: tensor.requires_grad_() for name, tensor in ssd.items()}
    _recur(ssd, chunk=256)[0].sum().backward()
    finite = all(bool(torch.isfinite(leaf.grad).all()) for leaf in ssd.values() if leaf.grad is not None)
    yield Finding.fact("d A = -20 at all tokens, chunks of 256: gradients are finite", finite)


@torch.no_grad()
def mixer_equals_transformers() -> Finding:
    """The mixer equals transformers' Mamba-2 mixer with copied weights."""
    from transformers import Mamba2Config
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer as Theirs

    shape: dict[str, Any] = {
        "hidden_size": 32,
        "num_heads": 4,
        "head_dim": 16,
        "state_size": 8,
        "chunk_size": 16,
    }
    theirs = Theirs(Mamba2Config(**shape, n_groups=1, num_hidden_layers=1), layer_idx=0).eval()
    ours = Mamba2Mixer(32, states=8, head_dim=16)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 49, 32)
    difference = float((ours(x) - theirs(x)).abs().max())
    return Finding.at_most(
        "mixer with the weights of transformers' Mamba2Mixer: difference", difference, 1e-4
    )


class _Mean(nn.Module):
    """A mixer to which no order matters."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=1, keepdim=True).expand_as(x)


def _seen(block: AdventurerBlock, token: int, count: int = 10) -> list[bool]:
    """Tokens on which the output of one depends."""
    x = torch.randn(1, count, 32, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(block.double()(x)[0, token, 0], x)
    return (gradient[0].abs().sum(dim=-1) > 0).tolist()


def who_sees_whom() -> Iterator[Finding]:
    """Flips matter to a causal mixer alone; the class token sees all; the heading lets every token do so."""
    plain, flipped = (AdventurerBlock(_Mean(), 32, flip=flip) for flip in (False, True))
    flipped.load_state_dict(plain.state_dict())
    x = torch.randn(2, 10, 32)
    with torch.no_grad():
        difference = float((plain(x) - flipped(x)).abs().max())
    yield Finding.at_most("a flip around a mixer without order: difference", difference, 1e-5)

    def block(flip: bool, heading: bool) -> AdventurerBlock:
        return AdventurerBlock(Mamba2Mixer(32, states=8), 32, flip=flip, heading=heading)

    sees = {flip: _seen(block(flip, False), 0)[8] for flip in (False, True)}
    yield Finding.fact(
        "without the heading, the first patch sees the last one in flipped blocks alone",
        sees == {False: False, True: True},
    )
    holds = all(all(_seen(block(flip, False), 9)) for flip in (False, True))
    yield Finding.fact("the class token, last, sees all patches, flipped or not", holds)
    holds = all(all(_seen(block(flip, True), token)) for flip in (False, True) for token in range(10))
    yield Finding.fact("with the heading average every output depends on every token", holds)


def token_counts() -> Iterator[Finding]:
    """One token a pixel, and which blocks flip."""
    with torch.device("meta"):
        encoder, released = Adventurer(patch_size=1), Adventurer(flip="released")
    tokens = encoder.positions.table.shape[1]
    yield Finding.close(
        "tokens of 224 px at patch size 1, and a class token", tokens + 1, 50_177, tolerance=0
    )
    flips = [[b for b, block in enumerate(model.blocks) if block.flip] for model in (encoder, released)]
    yield Finding.fact(
        "blocks that flip: every other, or those that the released code's condition means",
        flips == [[1, 3, 5, 7, 9, 11], [2, 3]],
        expected="1, 3, 5, 7, 9, 11; released 2, 3",
        measured="; released ".join(", ".join(map(str, found)) for found in flips),
    )


def fitter_recovers() -> Iterator[Finding]:
    """The fit recovers the numbers of a power law with a floor, and refuses three points."""
    sizes = 4.0 ** np.arange(2, 7)
    worst = 0.0
    for a, b, c in ((3.0, 0.5, 0.4), (10.0, 1.2, 1.0), (2.0, 0.15, 0.05)):
        law = fit_power_law(sizes, c + a * sizes**-b)
        found = (law.scale / a, law.exponent / b, law.floor / c)
        worst = max(worst, *(abs(ratio - 1) for ratio in found))
    yield Finding.at_most("c + a L^-b at five sizes: largest relative error of a, b and c", worst, 0.05)
    yield Finding.fact("three points are refused", _refuses(partial(fit_power_law, sizes[:3], sizes[:3])))


def refused() -> Finding:
    """What the encoder and the sweep cannot do is refused with an error."""
    from foveal.evaluation.patch_scaling import PatchSweep
    from foveal.recipes._encoder_learning import LearningData

    images, labels = torch.rand(4, 1, 16, 16), torch.arange(4) % 2
    data = LearningData(images, labels, images, labels)
    tiny: dict[str, Any] = {"dim": 32, "depth": 1, "states": 4}
    sweep = partial(PatchSweep, encoder="adventurer", settings=tiny, data=data)
    bounded = sweep(patch_sizes=(8, 4, 2, 1), memory_budget=1 << 20)
    wrong: dict[str, Callable[[], object]] = {
        "images that patches do not fill": partial(Adventurer(**tiny), torch.rand(1, 3, 30, 32)),
        "a patch size that does not divide the images": partial(sweep, patch_sizes=(8, 4, 3, 2)),
        "a sequence above the memory budget": bounded.run,
        "2 D not divisible by 64": partial(Adventurer, dim=48),
    }
    passed = [name for name, call in wrong.items() if not _refuses(call)]
    told = f"not refused: {', '.join(passed)}" if passed else ""
    return Finding.fact(f"refused: {', '.join(wrong)}", not passed, measured=told)


def _refuses(call: Callable[[], object]) -> bool:
    try:
        call()
    except ValueError:
        return True
    return False
