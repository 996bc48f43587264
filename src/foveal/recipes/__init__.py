"""One file a published system: card, settings, composition, evidence."""

from foveal.recipes.base import Card, Evidence, Finding, Paper, Recipe, Scale, Section
from foveal.recipes.registry import list_recipes, load_recipe, recipe_names

__all__ = [
    "Card",
    "Evidence",
    "Finding",
    "Paper",
    "Recipe",
    "Scale",
    "Section",
    "list_recipes",
    "load_recipe",
    "recipe_names",
]
