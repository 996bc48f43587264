"""Facts about registries of things by name."""

import pytest

from foveal.registry import Registry, check_options, first_line, options_of


def test_a_taken_name_is_refused() -> None:
    words: Registry[int] = Registry("word", "foveal.cli")
    words.add("one", 1)
    with pytest.raises(ValueError, match="the word 'one' is registered already"):
        words.add("one", 2)
    assert words.find("one") == 1


def test_an_unknown_name_is_told_with_the_nearest_and_with_those_found_elsewhere() -> None:
    words: Registry[int] = Registry("word", "foveal.cli")
    words.add("seven", 7)
    with pytest.raises(
        ValueError, match=r"unknown word 'sevn'; did you mean 'seven'\? allowed: seven, any/OTHER"
    ):
        words.find("sevn", others=("any/OTHER",))


def test_looking_a_name_up_imports_the_files_of_the_package() -> None:
    from foveal.encoders.base import list_encoders
    from foveal.models.networks.base import list_networks

    for names, some in ((list_encoders(), "vim"), (list_networks(), "vm")):
        assert names == sorted(names)
        assert any(some in name for name in names)


def _behind(model: object, *, needed: int, width: int = 3) -> None:
    """One line.

    More of it.
    """


def test_options_are_the_keyword_arguments_of_a_function_and_of_the_one_behind() -> None:
    def before(model: object, *, first: int = 0, **options: object) -> None: ...

    options = options_of(before, _behind)
    assert list(options) == ["first", "needed", "width"]
    check_options("mine", options, {"needed": 1})
    with pytest.raises(ValueError, match="mine needs the option needed"):
        check_options("mine", options, {"width": 1})
    with pytest.raises(ValueError, match="unknown option of 'mine' 'widht'; did you mean 'width'"):
        check_options("mine", options, {"widht": 1, "needed": 1})
    assert first_line(_behind) == "One line."
