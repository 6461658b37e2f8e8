"""Engine of DiffusionModels: torch, numpy, SimpleITK, scipy, pywavelets. Never slicer, qt, ctk or vtk."""

__version__ = "0.1.0"
