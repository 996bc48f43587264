"""What the README and the architecture page say is so."""

import re
import tomllib
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
LEAVES = {"settings", "files", "pages", "machine", "markdown"}


def layers() -> list[str]:
    """Rooms in the order of the import contract, highest first."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        contract = tomllib.load(file)["tool"]["importlinter"]["contracts"][0]
    return [layer.removeprefix("foveal.") for layer in contract["layers"]]


def test_every_room_has_its_place_in_the_import_contract() -> None:
    rooms = {path.parent.name for path in (ROOT / "src" / "foveal").glob("*/__init__.py")}
    assert rooms == set(layers()) - LEAVES


def test_architecture_page_lists_the_rooms_in_the_order_of_the_contract() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(\w+)` \|", page.split("## Contracts")[0], re.MULTILINE)
    assert listed == [room for room in reversed(layers()) if room not in LEAVES]


def test_links_in_the_pages_lead_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    for page in pages:
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links {target}"


def test_python_example_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from foveal.scans.synthetic import synthesize_eye

    eye = synthesize_eye(0, size=512)
    Image.fromarray(eye.image).save(tmp_path / "eye.jpg", quality=95)
    monkeypatch.chdir(tmp_path)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    names: dict = {}
    exec(compile(example, "README.md", "exec"), names)
    vessels = names["vessels"]
    assert vessels.probability.shape == vessels.confidence.shape == eye.image.shape[:2]
    assert names["biomarkers"]["vessel_density"] > 0
