"""API lock and lint: every name of Slicer, VTK, Qt and CTK that the extension uses exists, and is used as PythonQt
allows. See README.md."""
