"""The page of the encoders says what the code has; FOVEAL_WRITE_DOCS=1 writes it."""

import os
import re
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from foveal.cli import app
from foveal.encoders import create_encoder, list_encoders
from foveal.encoders.base import encoder_class
from foveal.encoders.reference import (
    GROWTH,
    count_parameters,
    encoder_facts,
    encoders_page,
    named_sizes,
    settings_of,
)
from foveal.encoders.timm_bridge import TimmEncoder
from foveal.encoders.transformers_bridge import TransformersEncoder

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def page() -> str:
    return encoders_page()


def test_documentation_of_the_encoders_is_up_to_date(page: str):
    path = DOCS / "encoders.md"
    if os.environ.get("FOVEAL_WRITE_DOCS"):
        path.write_text(page, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == page, (
        "write it anew: FOVEAL_WRITE_DOCS=1 pytest tests/encoders/test_encoder_page.py"
    )


def test_examples_of_the_page_run(page: str):
    for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL):
        exec(compile(block, "docs/encoders.md", "exec"), {})


def test_every_encoder_tells_how_its_cost_grows():
    assert set(GROWTH) == set(list_encoders()), "add a line to GROWTH in foveal/encoders/reference.py"


@pytest.mark.parametrize("name", list_encoders())
def test_every_setting_is_explained(name: str):
    unexplained = [setting.name for setting in settings_of(encoder_class(name)) if not setting.meaning]
    assert not unexplained, f"say in the Args of {name} what these are"


@pytest.mark.parametrize("bridge", [TimmEncoder, TransformersEncoder])
def test_every_setting_of_the_bridges_is_explained(bridge):
    assert all(setting.meaning for setting in settings_of(bridge))


def test_parameters_are_those_of_the_weights():
    for name in ("conv-pyramid", "vim"):
        size, settings = next(iter(named_sizes(encoder_class(name)).items()))
        encoder = create_encoder(name, **settings)
        expected = sum(parameter.numel() for parameter in encoder.parameters())
        assert encoder_facts(name).parameters[size] == expected
        assert count_parameters(partial(create_encoder, name, **settings)) == expected


def test_command_line_lists_encoders_and_the_settings_of_one(monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    listed = CliRunner().invoke(app, ["encoders"])
    assert listed.exit_code == 0
    assert all(name in listed.stdout for name in list_encoders())
    assert "timm/NAME" in listed.stdout
    one = CliRunner().invoke(app, ["encoders", "conv-pyramid"])
    assert "(24, 48, 80, 112)" in one.stdout
    assert "cost over tokens: linear" in one.stdout
    wrong = CliRunner().invoke(app, ["encoders", "vimm"])
    assert wrong.exit_code != 0
    assert "did you mean 'vim'" in wrong.stderr
