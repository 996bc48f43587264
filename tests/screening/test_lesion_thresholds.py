"""The shipped thresholds of lesions are those that the evidence measured."""

import json
import re
from pathlib import Path

from foveal.models import shipped_model
from foveal.models.pretrained import read_config

PAGE = Path(__file__).parents[2] / "docs" / "evidence" / "lesions.md"


def test_shipped_thresholds_of_lesions_are_those_of_the_evidence() -> None:
    told = re.search(r"Thresholds: `(\{.+?\})`", PAGE.read_text(encoding="utf-8"))
    assert told is not None
    assert read_config(shipped_model("lesions"))["thresholds"] == json.loads(told.group(1))
