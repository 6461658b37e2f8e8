"""Reconstructions of one call each: fbp, sirt, cgls, tv."""

from .fbp import fbp

__all__ = ["fbp"]
