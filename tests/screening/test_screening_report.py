from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from foveal.pages import NOTICE
from foveal.screening import ScreenSettings, screen

VOID = {"meta", "img", "input", "br", "link", "hr", "path", "line", "rect", "circle"}
ODD_NAME = "ä <b>&\"'%20#?x"


class Page(HTMLParser):
    """Collects what a page links to and its text; checks that its tags nest."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.sources: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        named = dict(attributes)
        self.tags.append(tag)
        self.links += [named["href"] or ""] if "href" in named else []
        self.sources += [named["src"] or ""] if "src" in named else []
        self.ids += [named["id"] or ""] if "id" in named else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def report(
    tmp_path_factory: pytest.TempPathFactory,
    eyes: list[np.ndarray],
    small_models: dict[str, Path],
    grader: Path,
) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    for name, eye in zip(("first", "second", ODD_NAME), eyes, strict=False):
        Image.fromarray(eye).save(folder / f"{name}.png")
    (folder / "<i>bad</i>.png".replace("/", "")).write_text("no picture")
    out = tmp_path_factory.mktemp("out") / "report"
    settings = ScreenSettings(**small_models, workers=1, views=1, title="Tests & <trials>")
    assert screen(folder, out, settings, model=grader, progress=False).exit_code == 1
    return out


@pytest.fixture(scope="module")
def pages(report: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in [report / "index.html", *report.glob("scans/*.html")]}


def test_there_is_a_page_for_each_photograph(pages: dict[Path, Page]):
    assert len(pages) == 4


def test_pages_need_nothing_but_the_report(pages: dict[Path, Page]):
    for path, page in pages.items():
        assert all(source.startswith("data:image/") for source in page.sources)
        for link in page.links:
            assert "://" not in link
            assert (path.parent / unquote(link)).is_file(), f"{path.name} links to {link}"
        text = path.read_text(encoding="utf-8")
        assert "http:" not in text
        assert "https:" not in text
        for loader in ("fetch(", "XMLHttpRequest", "@import", "url("):
            assert loader not in text


def test_ids_are_unique(pages: dict[Path, Page]):
    for page in pages.values():
        assert len(page.ids) == len(set(page.ids))


def test_names_titles_and_classes_are_text_and_never_markup(pages: dict[Path, Page]):
    index = next(page for path, page in pages.items() if path.name == "index.html")
    assert "Tests & <trials>" in index.text
    assert "<i>bad<i>.png" in index.text
    assert "<b>ill</b>" in index.text
    for page in pages.values():
        assert "trials" not in page.tags
        assert "i" not in page.tags


def test_every_page_bears_the_research_notice(pages: dict[Path, Page]):
    assert all(NOTICE in page.text for page in pages.values())


def test_pages_lead_through_all_photographs_in_order(report: Path):
    names = [path.stem for path in sorted(report.glob("scans/*.html"), key=lambda path: path.stem)]
    page = Page(report / "scans" / f"{names[1]}.html")
    assert [unquote(link) for link in page.links] == ["../index.html", f"{names[0]}.html", f"{names[2]}.html"]


def test_a_page_shows_all_overlays_and_the_place_in_the_cohort(report: Path):
    page = Page(report / "scans" / "first.html")
    layers = {name for name in page.ids if name.startswith("layer-")}
    expected = {
        "kinds", "outline", "fill", "widths", "nodes", "angles", "probability", "lesions", "doubt",
        "kind_doubt", "landmark_doubt", "lesion_doubt", "relevance_0", "field",
    }  # fmt: skip
    # An untrained network may find no landmark to show.
    assert layers - {"layer-landmarks"} == {f"layer-{name}" for name in expected}
    assert "Image quality" in page.text
    assert "Vessel density" in page.text


def test_a_report_of_one_photograph_says_that_there_is_nothing_to_compare(
    source: Path, tmp_path: Path, settings: ScreenSettings
):
    screen(source / "a.png", tmp_path / "report", settings, progress=False)
    assert "no other photograph to compare with" in Page(tmp_path / "report" / "scans" / "a.html").text
    assert "Distributions are drawn from two photographs on" in Page(tmp_path / "report" / "index.html").text


def test_biomarkers_stand_in_families_and_the_missing_ones_below_with_their_reason(report: Path):
    text = Page(report / "scans" / "first.html").text
    titles = ["Extent", "Calibre", "Tortuosity", "Branching", "Fractal geometry", "Sparsity"]
    places = [text.index(f"{title} Measure All Arteries Veins") for title in [*titles, "Position and image"]]
    assert places == sorted(places)
    assert text.index("Not measured") > places[-1]
    assert "the scan does not say how large a pixel is" in text[text.index("Not measured") :]


def test_pages_stay_small(report: Path):
    for path in report.glob("scans/*.html"):
        assert path.stat().st_size < 400_000
