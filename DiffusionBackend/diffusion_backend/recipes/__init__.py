"""Training recipes, by the id of the model that they make."""

from collections.abc import Callable
from pathlib import Path

from ..training import Recipe
from .ct_image import CtImage
from .ct_sinogram import CtSinogram
from .hidiff import HiDiff

RECIPES: dict[str, Callable[[Path], Recipe]] = {"ct-image": CtImage, "ct-sinogram": CtSinogram, "hidiff": HiDiff}
