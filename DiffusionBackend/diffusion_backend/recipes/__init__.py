"""Training recipes, by the id of the model that they make."""

from collections.abc import Callable
from pathlib import Path

from ..training import Recipe
from .ct_image import CtImage

RECIPES: dict[str, Callable[[Path], Recipe]] = {"ct-image": CtImage}
