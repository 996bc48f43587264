"""`foveal info`."""

from foveal.cli.app import app, make_console


@app.command()
def info() -> None:
    """Show versions, devices, shipped weights and optional parts: what a bug report needs."""
    from importlib import metadata

    from foveal.models.pretrained import WEIGHTS, weights_hash
    from foveal.models.shipped import list_shipped, shipped_model
    from foveal.recipes.evidence import describe_environment

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
