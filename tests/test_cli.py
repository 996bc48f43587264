"""The command line: what it prints, its exit status, and that it starts without heavy imports."""

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict
from typer.testing import CliRunner, Result

import foveal
from foveal import cli, recipes
from foveal.recipes import Card, Evidence, Finding, Paper, Recipe, Scale


class ToySettings(BaseModel):
    model_config = ConfigDict(extra="forbid")
    steps: int = 10


class Toy(Recipe[ToySettings]):
    card = Card(
        slug="toy",
        title="Toy: a system for tests",
        paper=Paper(citation="Doe, Journal of Toys", year=2024, link="https://example.org/toy"),
        task="Counts.",
        published=("Accuracy 1.0",),
        original="none released",
        licence="none",
        faithfulness="Complete.",
        built_from=(),
    )
    Settings = ToySettings

    def __init__(self) -> None:
        self.broken: BaseException | None = None
        self.score = 0.9

    def build(self, settings: ToySettings) -> type[int]:
        return int

    def evidence(self, scale: Scale) -> Iterable[Evidence]:
        if self.broken is not None:
            raise self.broken
        yield Finding.at_least(f"score at {scale} scale", self.score, 0.5)
        yield Finding.fact("[brackets] stay", True)

    def train(self, settings: ToySettings, *, data: Path | None, out: Path) -> None:
        if self.broken is not None:
            raise self.broken
        out.mkdir()
        (out / "settings.json").write_text(settings.model_dump_json())


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Toy:
    recipe = Toy()
    monkeypatch.setattr(recipes, "load_recipe", lambda name: recipe)
    monkeypatch.setattr(recipes, "list_recipes", lambda: [recipe.card])
    return recipe


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(cli.app, [str(word) for word in words])


def test_version() -> None:
    result = call("--version")
    assert (result.exit_code, result.stdout) == (0, f"foveal {foveal.__version__}\n")


@pytest.mark.parametrize("words", [[], ["screen"], ["train"], ["recipes"], ["verify"], ["info"]])
def test_help_imports_neither_torch_nor_numpy(words: list[str]) -> None:
    code = (
        "import sys\nfrom foveal import cli\n"
        "try:\n    cli.app(args=sys.argv[1:])\nexcept SystemExit as end:\n"
        "    heavy = {'torch', 'numpy', 'pandas'} & set(sys.modules)\n"
        "    sys.exit(f'imported {heavy}' if heavy else end.code)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, *words, "--help"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert "Usage" in run.stdout


def test_verify_prints_each_claim_and_succeeds_when_all_hold(toy: Toy) -> None:
    result = call("verify", "toy")
    assert result.exit_code == 0
    assert "holds: score at quick scale | expected >= 0.5 | measured 0.9" in result.stdout
    assert "holds: [brackets] stay" in result.stdout
    assert "2 of 2 claims hold" in result.stdout


def test_verify_fails_when_a_claim_does_not_hold(toy: Toy) -> None:
    toy.score = 0.1
    result = call("verify", "toy")
    assert result.exit_code == 1
    assert "DOES NOT HOLD: score at quick scale" in result.stdout


def test_verify_fails_when_the_evidence_raises(toy: Toy) -> None:
    toy.broken = RuntimeError("no such layer")
    result = call("verify", "toy")
    assert result.exit_code == 1
    assert "RuntimeError: no such layer" in result.stdout


def test_verify_writes_the_page_of_a_full_run_and_links_it(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "recipes.md").touch()
    (tmp_path / "README.md").write_text("<!-- recipes --><!-- /recipes -->")
    monkeypatch.chdir(tmp_path)
    assert call("verify", "toy", "--full", "--write").exit_code == 0
    assert "score at full scale" in (docs / "evidence" / "toy.md").read_text()
    assert "(evidence/toy.md)" in (docs / "recipes.md").read_text()


def test_verify_does_not_write_the_page_of_a_quick_run(toy: Toy) -> None:
    result = call("verify", "toy", "--write")
    assert result.exit_code == 2
    assert "--full --write" in result.stderr


def test_verify_write_outside_the_repository_is_refused_before_it_runs(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = call("verify", "toy", "--full", "--write")
    assert result.exit_code == 2
    assert "root of foveal's repository" in result.stderr
    assert "claims hold" not in result.stdout


def test_train_passes_settings_of_file_and_words(toy: Toy, tmp_path: Path) -> None:
    config = tmp_path / "settings.toml"
    config.write_text("steps = 3")
    out = tmp_path / "out"
    assert call("train", "toy", "--out", out, "--config", config).exit_code == 0
    assert json.loads((out / "settings.json").read_text()) == {"steps": 3}
    again = tmp_path / "again"
    assert call("train", "toy", "--out", again, "--config", config, "--set", "steps=4").exit_code == 0
    assert json.loads((again / "settings.json").read_text()) == {"steps": 4}


def test_train_names_a_setting_that_is_wrong(toy: Toy, tmp_path: Path) -> None:
    result = call("train", "toy", "--out", tmp_path / "out", "--set", "steps=many")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: steps: ")
    assert len(result.stderr.splitlines()) == 1


def test_train_takes_a_file_of_data(toy: Toy, tmp_path: Path) -> None:
    (tmp_path / "data.npz").touch()
    assert call("train", "toy", "--out", tmp_path / "out", "--data", tmp_path / "data.npz").exit_code == 0


def test_train_names_a_folder_that_is_missing(toy: Toy, tmp_path: Path) -> None:
    result = call("train", "toy", "--out", tmp_path / "out", "--data", tmp_path / "none")
    assert result.exit_code == 2
    assert f"{tmp_path / 'none'} does not exist" in result.stderr


def test_missing_config_is_named_without_an_error_number(toy: Toy, tmp_path: Path) -> None:
    result = call("train", "toy", "--out", tmp_path / "out", "--config", tmp_path / "none.json")
    assert result.exit_code == 2
    assert result.stderr == f"Error: {tmp_path / 'none.json'}: No such file or directory\n"


def test_unknown_recipe_is_one_line() -> None:
    result = call("verify", "no-such-recipe")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: unknown recipe 'no-such-recipe'")
    assert "Traceback" not in result.stderr


def test_unexpected_error_asks_for_debug_and_shows_no_traceback(toy: Toy, tmp_path: Path) -> None:
    toy.broken = KeyError("layer")
    result = call("train", "toy", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "KeyError: 'layer'" in result.stderr
    assert "--debug" in result.stderr
    assert "Traceback" not in result.stderr


def test_debug_lets_the_error_through(toy: Toy, tmp_path: Path) -> None:
    toy.broken = KeyError("layer")
    result = call("--debug", "train", "toy", "--out", tmp_path / "out")
    assert result.exception is toy.broken


def test_debug_may_follow_the_command() -> None:
    code = "import sys; from foveal.cli import main; sys.argv[1:] = ['verify', 'no', '--debug']; main()"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "Traceback" in run.stderr


def test_interrupt_exits_with_130(toy: Toy) -> None:
    toy.broken = KeyboardInterrupt()
    result = call("verify", "toy")
    assert result.exit_code == 130
    assert result.stderr == "Interrupted.\n"


def test_recipes_are_tab_separated_when_piped(toy: Toy) -> None:
    assert call("recipes").stdout == "toy\t2024\tToy: a system for tests\n"


def test_recipes_write_outside_the_repository_is_refused(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = call("recipes", "--write")
    assert result.exit_code == 2
    assert "README.md is missing" in result.stderr


def test_info_tells_versions_and_weights() -> None:
    result = call("info")
    assert result.exit_code == 0
    assert f"foveal: {foveal.__version__}" in result.stdout
    assert "torch threads: " in result.stdout
    assert "shipped weights:" in result.stdout
    assert "dev: " in result.stdout


def test_screen_of_nothing_cannot_start(tmp_path: Path) -> None:
    result = call("screen", tmp_path / "none", "--out", tmp_path / "report")
    assert result.exit_code == 2
    assert "none" in result.stderr
    assert "Traceback" not in result.stderr


def test_screen_refuses_a_threshold_that_is_no_probability(tmp_path: Path) -> None:
    result = call("screen", tmp_path, "--out", tmp_path / "report", "--threshold", "2")
    assert result.exit_code == 2
    assert "threshold" in result.stderr
