"""Parts of the SVG overlays of a report; positions are (row, column) in the photograph's pixels."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from foveal.pages import data_uri

if TYPE_CHECKING:
    from foveal.scans.field_of_view import FieldOfView


def svg_picture(field: "FieldOfView", content: str) -> str:
    """Data URI of an overlay of the whole photograph."""
    height, width = field.mask.shape
    text = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-0.5 -0.5 {width} {height}" '
        'preserveAspectRatio="none" fill="none" stroke-linecap="round" stroke-linejoin="round" '
        f'font-family="sans-serif" font-size="{svg_unit(field) * 12:.1f}">{content}</svg>'
    )
    return data_uri(text.encode(), "svg+xml")


def svg_unit(field: "FieldOfView") -> float:
    """Length in the photograph's pixels that is about one pixel of the page."""
    return field.diameter / 800


def rimmed(name: str, path: str, colour: str, size: float, rim: float) -> str:
    """A path in one colour with a dark rim."""
    return (
        f'<defs><path id="{name}" d="{path}"/></defs>'
        f'<use href="#{name}" stroke="#000" stroke-width="{size + rim:.1f}"/>'
        f'<use href="#{name}" stroke="{colour}" stroke-width="{size:.1f}"/>'
    )


def svg_texts(texts: Sequence[tuple[str, float, float]], unit: float, anchor: str = "start") -> str:
    """White writing with a dark rim: what, and row and column of its middle or its start."""
    written = "".join(
        f'<text x="{column:.0f}" y="{row + 4 * unit:.0f}">{escape(text)}</text>'
        for text, row, column in texts
    )
    rim = f'fill="#fff" stroke="#000" stroke-width="{2.2 * unit:.1f}" paint-order="stroke"'
    return f'<g text-anchor="{anchor}" {rim}>{written}</g>'


def svg_key(field: "FieldOfView", entries: Sequence[tuple[str, str]], pitch: float = 16) -> Iterator[str]:
    """Colours with what they mean in the lower left corner, the last at the bottom, `pitch` pixels apart."""
    unit, (_, left, bottom, _) = svg_unit(field), field.box
    column = left + 8 * unit
    for place, (colour, label) in enumerate(entries):
        row = bottom - (12 + pitch * (len(entries) - 1 - place)) * unit
        yield (
            f'<path stroke="{colour}" stroke-width="{6 * unit:.1f}" stroke-linecap="butt" '
            f'd="M{column:.0f} {row:.0f}h{14 * unit:.0f}"/>'
        )
        if label:
            yield svg_texts([(label, row, column + 19 * unit)], unit)
