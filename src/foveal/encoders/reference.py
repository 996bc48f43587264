"""What every encoder is and takes, read from its code; the page docs/encoders.md is made of it."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from foveal.encoders.base import Encoder, create_encoder, encoder_class, list_encoders
from foveal.encoders.checkpoints import layouts_of

INSIDE = "that of the encoder inside"
# How time and memory grow with the number of tokens (with pixels, at a given patch size).
GROWTH = {
    "adventurer": "linear",
    "channelvit": "quadratic, over patches times channels",
    "conv-pyramid": "linear",
    "denoised": f"{INSIDE}, and quadratic in one block",
    "hvir": "linear (chunks); quadratic in mode parallel",
    "masked-channels": INSIDE,
    "medmamba": "linear",
    "medvit-v2": "quadratic, with keys averaged over up to 64 tokens",
    "msvmamba": "linear",
    "multi-scale": f"{INSIDE}, for each scale; linear with max_tile",
    "rsmamba": "linear",
    "vim": "linear",
    "vir": "linear (chunks); quadratic in mode parallel",
    "vmamba": "linear",
}
_ARXIV = re.compile(r"arXiv[: ]\s*(\d{4}\.\d{4,5})")


@dataclass(frozen=True)
class Setting:
    """One keyword of an encoder: its default as Python writes it, and what it means."""

    name: str
    default: str
    meaning: str


@dataclass(frozen=True)
class EncoderFacts:
    """What there is to tell of an encoder.

    Attributes:
        name: as in `create_encoder`.
        summary: one sentence.
        source: its module's first line, which tells the paper.
        paper: number on arXiv, or empty.
        growth: of time and memory with the tokens.
        settings: in order.
        parameters: by named size, "default" where there are none; of encoders around another, with their
            default inside.
        layouts: names of the official checkpoint layouts that it reads.
    """

    name: str
    summary: str
    source: str
    paper: str
    growth: str
    settings: tuple[Setting, ...]
    parameters: dict[str, int]
    layouts: tuple[str, ...]


def encoder_facts(name: str) -> EncoderFacts:
    """Everything about one encoder; parameters are counted without memory for weights.

    Raises:
        ValueError: no encoder has that name.
    """
    cls = encoder_class(name)
    source = (sys.modules[cls.__module__].__doc__ or "").strip().partition("\n\n")[0].replace("\n", " ")
    summary = inspect.getdoc(cls) or ""
    paper = _ARXIV.search(source + " " + summary)
    return EncoderFacts(
        name=name,
        summary=summary.partition("\n\n")[0].replace("\n", " "),
        source=source,
        paper=paper[1] if paper else "",
        growth=GROWTH.get(name, "not told"),
        settings=settings_of(cls),
        parameters={
            size: count_parameters(partial(create_encoder, name, **given))
            for size, given in named_sizes(cls).items()
        },
        layouts=tuple(layouts_of(name)),
    )


def settings_of(cls: type[Encoder]) -> tuple[Setting, ...]:
    """The keywords of a class's constructor, with what its docstring says of them."""
    told = _arguments(inspect.getdoc(cls) or "")
    found = []
    for parameter in list(inspect.signature(cls.__init__).parameters.values())[1:]:
        default = "" if parameter.default is parameter.empty else repr(parameter.default)
        name = f"**{parameter.name}" if parameter.kind is parameter.VAR_KEYWORD else parameter.name
        found.append(Setting(name, default, told.get(name, "")))
    return tuple(found)


def named_sizes(cls: type[Encoder]) -> dict[str, dict[str, Any]]:
    """Settings of each named size of an encoder, from the table `SIZES` of its module."""
    table = getattr(sys.modules[cls.__module__], "SIZES", None)
    parameters = inspect.signature(cls.__init__).parameters
    if not isinstance(table, dict) or "size" not in parameters:
        return {"default": {}}
    if "variant" in parameters:
        return {f"{v} {s}": {"variant": v, "size": s} for v, sizes in table.items() for s in sizes}
    return {size: {"size": size} for size in table}


def count_parameters(make: Callable[[], torch.nn.Module]) -> int:
    """Number of parameters of what `make` makes, which takes no memory for them."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in make().parameters())


def in_millions(count: int) -> str:
    """A count such as 5.72 M."""
    return f"{count / 1e6:.3g} M" if count < 1e8 else f"{count / 1e6:.0f} M"


def encoders_page() -> str:
    """The text of docs/encoders.md."""
    from foveal.encoders.reference_text import FOOT, HEAD
    from foveal.encoders.timm_bridge import TimmEncoder
    from foveal.encoders.transformers_bridge import TransformersEncoder

    facts = [encoder_facts(name) for name in list_encoders()]
    rows = [
        "| name | what it is | paper | time and memory over tokens | parameters |",
        "| --- | --- | --- | --- | --- |",
    ]
    for fact in facts:
        paper = f"[{fact.paper}](https://arxiv.org/abs/{fact.paper})" if fact.paper else ""
        rows.append(
            f"| [`{fact.name}`](#{fact.name}) | {_cell(fact.summary)} | {paper} | {fact.growth} "
            f"| {_cell(sizes_text(fact))} |"
        )
    parts = [HEAD.strip(), "\n".join(rows), FOOT.strip(), "## Settings of every encoder"]
    for fact in facts:
        layouts = f" Official weights: layout {', '.join(map(repr, fact.layouts))}." if fact.layouts else ""
        parts += [f"### {fact.name}", f"{fact.source}{layouts}", _settings_table(fact.settings)]
    for name, bridge in (("timm/NAME", TimmEncoder), ("transformers/NAME", TransformersEncoder)):
        parts += [f"### {name}", (inspect.getdoc(bridge) or "").partition("\n\nArgs:")[0]]
        parts += [_settings_table(settings_of(bridge)[1:])]
    return "\n\n".join(parts) + "\n"


def sizes_text(facts: EncoderFacts) -> str:
    """Parameters by size in one line."""
    return ", ".join(
        in_millions(count) if size == "default" else f"{size} {in_millions(count)}"
        for size, count in facts.parameters.items()
    )


def _settings_table(settings: tuple[Setting, ...]) -> str:
    rows = ["| setting | default | meaning |", "| --- | --- | --- |"]
    for setting in settings:
        default = f"`{setting.default}`" if setting.default else ""
        rows.append(f"| `{setting.name}` | {_cell(default)} | {_cell(setting.meaning)} |")
    return "\n".join(rows)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _arguments(docstring: str) -> dict[str, str]:
    """The "Args" of a docstring by name, each in one line."""
    _, _, rest = docstring.partition("\nArgs:\n")
    found: dict[str, str] = {}
    name = ""
    for line in rest.splitlines():
        if line and not line.startswith(" "):
            break
        entry = re.match(r"    (\*{0,2}\w+): (.*)", line)
        if entry:
            name, found[entry[1]] = entry[1], entry[2]
        elif line.strip() and name:
            found[name] += " " + line.strip()
    return found
