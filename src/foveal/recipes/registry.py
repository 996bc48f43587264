"""Finding recipes by name, and their list, without importing anything heavy."""

import importlib
import pkgutil
from functools import cache
from typing import Any

import foveal.recipes
from foveal.recipes.base import Card, Recipe
from foveal.settings import unknown_name

_MACHINERY = {
    "base", "encoder_recipe", "evidence", "registry", "catalogue", "overrides", "state_space_models"
}  # fmt: skip


@cache
def recipe_names() -> tuple[str, ...]:
    """Slugs of all recipes in alphabetical order: the modules of this package that are not its machinery.

    A module whose name begins with an underscore belongs to a recipe beside it and is not one.
    """
    modules = (module.name for module in pkgutil.iter_modules(foveal.recipes.__path__))
    return tuple(
        sorted(name.replace("_", "-") for name in modules if name not in _MACHINERY and name[0] != "_")
    )


def load_recipe(name: str) -> Recipe[Any]:
    """The recipe of that name; case does not matter, and an underscore is as good as a hyphen.

    Raises:
        ValueError: there is none; the message suggests the nearest name.
    """
    slug = name.strip().lower().replace("_", "-")
    if slug not in recipe_names():
        raise ValueError(unknown_name("recipe", slug, recipe_names()))
    module = importlib.import_module(f"foveal.recipes.{slug.replace('-', '_')}")
    recipe: Recipe[Any] = module.recipe
    if recipe.card.slug != slug:
        raise TypeError(f"{module.__name__} holds the card of {recipe.card.slug!r}; allowed: {slug!r}")
    return recipe


def list_recipes() -> list[Card]:
    """Cards of all recipes in alphabetical order of their slugs."""
    return [load_recipe(name).card for name in recipe_names()]
