"""Tables of pages in Markdown."""

from foveal.markdown import table


def test_bars_and_line_breaks_do_not_break_a_table() -> None:
    assert table(["a", "b"], [["1 | 2", "3\n4"]]) == "| a | b |\n| --- | --- |\n| 1 \\| 2 | 3 4 |"
