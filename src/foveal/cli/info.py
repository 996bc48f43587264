"""`foveal info` and `foveal encoders`."""

from typing import Annotated

import typer

from foveal.cli.app import app, make_console


@app.command()
def encoders(
    name: Annotated[
        str | None, typer.Argument(help="Show the settings of this one instead of the list.")
    ] = None,
) -> None:
    """List the encoders: what they are, how their cost grows, and how many parameters they have."""
    from rich.markup import escape
    from rich.table import Table

    from foveal.encoders import list_encoders
    from foveal.encoders.reference import encoder_facts, sizes_text

    console = make_console()
    if name is not None:
        facts = encoder_facts(name)
        console.print(f"{facts.name}: {facts.summary}", markup=False)
        console.print(facts.source, markup=False)
        console.print(f"parameters: {sizes_text(facts)}; cost over tokens: {facts.growth}", markup=False)
        if facts.layouts:
            console.print(f"official checkpoint layouts: {', '.join(facts.layouts)}", markup=False)
        table = Table("setting", "default", "meaning")
        for setting in facts.settings:
            table.add_row(setting.name, escape(setting.default), escape(setting.meaning))
        console.print(table)
        return
    table = Table("name", "what it is", "cost over tokens", "parameters")
    for each in list_encoders():
        facts = encoder_facts(each)
        table.add_row(each, escape(facts.summary), escape(facts.growth), sizes_text(facts))
    console.print(table)
    console.print(
        "Any model of timm is an encoder too, as timm/NAME; of transformers as transformers/FOLDER."
    )
    console.print("`foveal encoders NAME` shows the settings of one; docs/encoders.md shows how to use them.")


@app.command()
def info() -> None:
    """Show versions, devices, shipped weights and optional parts: what a bug report needs."""
    from importlib import metadata

    from foveal.machine import describe_environment
    from foveal.models.pretrained import WEIGHTS, weights_hash
    from foveal.models.shipped import list_shipped, shipped_model

    console = make_console()
    for name, value in describe_environment().items():
        console.print(f"{name}: {value}", markup=False)
    console.print("\nshipped weights:")
    for name in list_shipped():
        folder = shipped_model(name)
        size = (folder / WEIGHTS).stat().st_size / 1e6
        console.print(f"  {name}: {size:.2f} MB, sha256 {weights_hash(folder)}", markup=False)
    if not list_shipped():
        console.print("  none")
    console.print("\noptional parts:")
    for extra in metadata.metadata("foveal").get_all("Provides-Extra") or []:
        missing = _missing_of_extra(extra)
        state = f'missing {", ".join(missing)}: pip install "foveal[{extra}]"' if missing else "installed"
        console.print(f"  {extra}: {state}", markup=False)


def _missing_of_extra(extra: str) -> list[str]:
    import re
    from importlib import metadata

    missing = []
    for requirement in metadata.requires("foveal") or []:
        words, _, condition = requirement.partition(";")
        if re.search(rf"extra\s*==\s*['\"]{re.escape(extra)}['\"]", condition):
            name = re.split(r"[^A-Za-z0-9._-]", words.strip(), maxsplit=1)[0]
            try:
                metadata.version(name)
            except metadata.PackageNotFoundError:
                missing.append(name)
    return missing
