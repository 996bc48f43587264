"""Cards, findings, the registry, the evidence runner and its page."""

import math
import subprocess
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from foveal.recipes import Card, Evidence, Finding, Paper, Recipe, Scale, Section, load_recipe, registry
from foveal.recipes.catalogue import render_catalogue, render_into_readme, write_catalogue
from foveal.recipes.evidence import Report, render_page, run_evidence, write_page
from foveal.recipes.overrides import make_settings

ROOT = Path(__file__).parents[2]


class FitSettings(BaseModel):
    model_config = ConfigDict(extra="forbid")
    steps: int = 10


class ToySettings(BaseModel):
    model_config = ConfigDict(extra="forbid")
    learning_rate: float = 1e-3
    name: str = "toy"
    fit: FitSettings = FitSettings()


def make_card(slug: str = "toy") -> Card:
    return Card(
        slug=slug,
        title="Toy: a system for tests",
        paper=Paper(citation="Doe, Journal of Toys", year=2024, link="https://example.org/toy"),
        task="Counts to three.",
        published=("Accuracy 1.0",),
        original="https://example.org/code",
        licence="MIT",
        faithfulness="Complete.",
        built_from=("models.Nothing",),
    )


def divides_by_zero() -> Finding:
    """Division by zero gives a number."""
    return Finding.at_least("never made", 1 / 0, 0)


def draws() -> Finding:
    import torch

    return Finding("a random draw", "any", float(torch.rand(())), True)


def first_holds_then_raises() -> Iterable[Finding]:
    yield Finding.fact("the first part holds", True)
    raise RuntimeError("second part")


class Toy(Recipe[ToySettings]):
    card = make_card()
    Settings = ToySettings

    def __init__(self, pieces: Iterable[Evidence] = ()) -> None:
        self.pieces = pieces

    def build(self, settings: ToySettings) -> type[int]:
        return int

    def evidence(self, scale: Scale) -> Iterable[Evidence]:
        yield from self.pieces


def run(*pieces: Evidence, scale: Scale = "quick") -> Report:
    return run_evidence(Toy(pieces), scale)


def test_at_least_holds_at_its_bound() -> None:
    assert Finding.at_least("c", 0.5, 0.5).holds
    assert not Finding.at_least("c", 0.499, 0.5).holds


def test_at_most_holds_at_its_bound() -> None:
    assert Finding.at_most("c", 0.5, 0.5).holds
    assert not Finding.at_most("c", 0.501, 0.5).holds


def test_close_holds_within_its_tolerance_only() -> None:
    assert Finding.close("c", 1.05, 1.0, tolerance=0.1).holds
    assert not Finding.close("c", 0.85, 1.0, tolerance=0.1).holds


@pytest.mark.parametrize(
    "finding",
    [
        Finding.at_least("c", math.nan, 0),
        Finding.at_most("c", math.nan, 0),
        Finding.close("c", math.nan, 0, tolerance=1),
        Finding.at_least("c", [1.0, math.nan], 0),
    ],
)
def test_nan_never_holds(finding: Finding) -> None:
    assert not finding.holds


def test_several_seeds_are_compared_by_their_mean_and_tell_their_spread() -> None:
    finding = Finding.at_least("c", [0.1, 0.3], 0.2)
    assert finding.holds
    assert finding.measured == "0.2 (sd 0.14, 2 seeds)"


@pytest.mark.parametrize("slug", ["Sauna", "a_b", "-a", "a--b", ""])
def test_card_refuses_a_slug_that_is_not_one(slug: str) -> None:
    with pytest.raises(ValueError, match="slug"):
        make_card(slug)


def test_recipe_whose_settings_take_unknown_keys_is_refused() -> None:
    class Loose(BaseModel):
        steps: int = 1

    with pytest.raises(TypeError, match="extra='forbid'"):
        type("Careless", (Toy,), {"Settings": Loose})


def test_training_a_recipe_that_has_nothing_to_train_says_so() -> None:
    with pytest.raises(ValueError, match="'toy' has nothing to train"):
        Toy().train(ToySettings(), data=None, out=Path("nowhere"))


def test_proof_that_raises_does_not_hold_and_the_next_one_still_runs() -> None:
    report = run(divides_by_zero, Finding.fact("later", True))
    broken, later = report.findings
    assert (broken.claim, broken.holds) == ("Division by zero gives a number", False)
    assert broken.measured == "ZeroDivisionError: division by zero"
    assert later.holds
    assert not report.holds


def test_proof_that_raises_midway_keeps_what_it_had_found() -> None:
    findings = run(first_holds_then_raises).findings
    assert [finding.holds for finding in findings] == [True, False]
    assert findings[1].measured == "RuntimeError: second part"


def test_evidence_that_raises_outside_a_proof_is_a_finding_as_well() -> None:
    def pieces() -> Iterable[Evidence]:
        yield Finding.fact("first", True)
        raise OSError("disk")

    report = run_evidence(Toy(pieces()), "quick")
    assert [finding.holds for finding in report.findings] == [True, False]


def test_no_findings_prove_nothing() -> None:
    assert not run(Section("only words")).holds


def test_each_proof_starts_from_the_recipe_seed() -> None:
    alone = run(draws).findings[0]
    after_another = run(draws, draws).findings[1]
    assert alone.measured == after_another.measured


def test_items_arrive_in_order_as_they_are_made() -> None:
    seen: list[Finding | Section] = []
    section = Section("words")
    finding = Finding.fact("a", True)
    run_evidence(Toy([section, partial(lambda made: made, finding)]), "quick", on_item=seen.append)
    assert seen == [section, finding]


def test_page_keeps_a_claim_that_did_not_hold() -> None:
    page = render_page(run(Finding.at_least("a | b", 0.1, 0.2), Finding.fact("good", True), scale="full"))
    assert "## Findings: 1 of 2 hold" in page
    assert "| a \\| b | >= 0.2 | 0.1 | **no** |" in page


def test_page_is_written_with_its_figures_and_nothing_else(tmp_path: Path) -> None:
    report = run(Finding.fact("a", True), Section("A closer look", "Words.", b"png"), scale="full")
    page = write_page(report, tmp_path / "evidence")
    assert page.name == "toy.md"
    assert {path.name for path in page.parent.iterdir()} == {"toy.md", "toy-a-closer-look.png"}
    text = page.read_text()
    assert "![A closer look](toy-a-closer-look.png)" in text
    assert "| seed | 0 |" in text
    assert "| torch threads |" in text


def test_page_of_a_quick_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'full' runs only"):
        write_page(run(Finding.fact("a", True)), tmp_path)


def test_unknown_recipe_suggests_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "recipe_names", lambda: ("flair", "sauna"))
    with pytest.raises(ValueError, match="'suana'; did you mean 'sauna'"):
        load_recipe("suana")
    with pytest.raises(ValueError, match="allowed: flair, sauna"):
        load_recipe("xyz")


def test_machinery_is_not_listed_as_recipes() -> None:
    assert not {"base", "evidence", "registry", "catalogue", "overrides"} & set(registry.recipe_names())


@pytest.mark.parametrize("name", registry.recipe_names())
def test_recipe_is_complete(name: str) -> None:
    recipe = load_recipe(name.upper().replace("-", "_"))
    assert recipe.card.slug == name
    assert recipe.card.published
    assert recipe.card.built_from
    assert recipe.Settings() == recipe.Settings.model_validate({})


def test_listing_recipes_does_not_import_torch() -> None:
    code = "import sys, foveal.recipes as r; r.list_recipes(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_settings_come_from_file_then_from_assignments(tmp_path: Path) -> None:
    config = tmp_path / "settings.toml"
    config.write_text("learning_rate = 0.5\nname = 'file'\n[fit]\nsteps = 3\n")
    settings = make_settings(ToySettings, config=config, assignments=["name=word", "fit.steps=7"])
    assert settings == ToySettings(learning_rate=0.5, name="word", fit=FitSettings(steps=7))


def test_options_lie_over_the_file_and_none_leaves_it(tmp_path: Path) -> None:
    config = tmp_path / "settings.json"
    config.write_text('{"learning_rate": 2, "name": "file"}')
    settings = make_settings(ToySettings, config=config, options={"learning_rate": 3, "name": None})
    assert settings == ToySettings(learning_rate=3, name="file")
    assert make_settings(ToySettings, options={"name": "a"}, assignments=["name=b"]).name == "b"


def test_an_assignment_into_a_table_leaves_the_rest_of_its_default() -> None:
    vim = load_recipe("vim")
    paper = vim.Settings().training
    settings = make_settings(vim.Settings, assignments=["training.steps=7", "training.seed=1"])
    assert settings.training == paper | {"steps": 7, "seed": 1}
    assert vim.Settings().training == paper


def test_settings_from_json(tmp_path: Path) -> None:
    config = tmp_path / "settings.json"
    config.write_text('{"learning_rate": 2}')
    assert make_settings(ToySettings, config=config).learning_rate == 2


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("learning_rate", "KEY=VALUE"),
        ("=3", "KEY=VALUE"),
        ("fit.=3", "KEY=VALUE"),
        ("unknown=3", "unknown"),
        ("learning_rate=fast", "learning_rate"),
    ],
)
def test_bad_assignment_names_itself(assignment: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_settings(ToySettings, assignments=[assignment])


def test_assignment_into_a_plain_value_is_refused() -> None:
    with pytest.raises(ValueError, match="no parts to set"):
        make_settings(ToySettings, assignments=["name=a", "name.part=b"])


@pytest.mark.parametrize(
    ("name", "content"), [("a.yaml", ""), ("a.json", "{"), ("a.toml", "x"), ("b.json", "[]")]
)
def test_bad_config_names_the_file(tmp_path: Path, name: str, content: str) -> None:
    config = tmp_path / name
    config.write_text(content)
    with pytest.raises(ValueError, match=name):
        make_settings(ToySettings, config=config)


def test_pydantic_errors_are_value_errors() -> None:
    assert issubclass(ValidationError, ValueError)


def test_readme_gets_its_table_between_the_marks() -> None:
    readme = "before\n<!-- recipes -->\nold\n<!-- /recipes -->\nafter\n"
    written = render_into_readme([make_card()], readme)
    assert written.startswith("before\n<!-- recipes -->\n| recipe |")
    assert written.endswith("<!-- /recipes -->\nafter\n")
    assert "old" not in written
    assert render_into_readme([make_card()], written) == written


def test_readme_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match=r"README\.md must hold"):
        render_into_readme([], "no marks")


def test_catalogue_links_only_the_evidence_that_exists(tmp_path: Path) -> None:
    (tmp_path / "toy.md").write_text("")
    text = render_catalogue([make_card(), make_card("other")], tmp_path)
    assert "(evidence/toy.md)" in text
    assert "(evidence/other.md)" not in text


def test_catalogue_outside_the_repository_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="root of foveal's repository"):
        write_catalogue([], tmp_path)


def test_lists_of_recipes_in_the_repository_are_up_to_date() -> None:
    cards = registry.list_recipes()
    hint = "run `foveal recipes --write`"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert render_into_readme(cards, readme) == readme, hint
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert render_catalogue(cards, ROOT / "docs" / "evidence") == page, hint
