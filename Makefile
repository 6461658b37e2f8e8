# Two commands: `make demo [INPUT=volume.nrrd]` and `make test`. Both make `.venv` first and may be repeated.
# PIP_ARGS are added to pip's arguments, for example to take torch from an index with CPU-only wheels.

PYTHON ?= python3
PY = .venv/bin/python
INPUT ?=
OUTPUT ?= demo

.PHONY: demo test lint types size catalogue package docs clean

demo: .venv/installed
	PYTHONPATH=DiffusionBackend:Testing $(PY) Testing/demo.py --output "$(OUTPUT)" $(if $(INPUT),--input "$(INPUT)")

# Slicer's core comes for Linux alone; elsewhere the engine is tested.
test: .venv/installed
	OMP_NUM_THREADS=1 $(PY) -m pytest $(if $(filter Linux,$(shell uname -s)),,Testing/engine)

lint: .venv/installed
	$(PY) -m pip install --quiet ruff
	.venv/bin/ruff check DiffusionBackend Diffusion*/*.py Resources Packaging Testing

types: .venv/installed
	$(PY) -m pip install --quiet pyright
	.venv/bin/pyright --pythonpath $(PY)

# What is generated: Resources/methods.json and the table of methods from declarations, figures from stored tables.
docs: .venv/installed
	$(PY) -m diffusion_backend describe --json > Resources/methods.json
	$(PY) -m diffusion_backend describe --readme README.md
	$(PY) -m diffusion_backend.evaluate.tables README.md

# The catalogue of extensions takes at most 100 MB, history included; we stop at 70.
size:
	@kb=$$(git ls-files -z | xargs -0 du -k -c | tail -n 1 | cut -f 1); \
	history=$$(du -k -s "$$(git rev-parse --git-dir)" | cut -f 1); \
	echo "tree $$kb KB, history $$history KB"; \
	test $$((kb + history)) -lt 71680 || { echo "The repository with its history is larger than 70 MB."; exit 1; }

# What the catalogue of extensions checks by itself.
catalogue: .venv/installed
	$(PY) Testing/packaging/catalogue.py

# The extension as a build of Slicer packages it, made with a stand-in of Slicer's CMake macros, in build/package.
package: .venv/installed
	.venv/bin/cmake -S . -B build -DSlicer_DIR=$(CURDIR)/Testing/packaging/slicer-stand-in \
		-DCMAKE_TOOLCHAIN_FILE=$(CURDIR)/Testing/packaging/slicer-stand-in/no-compiler.cmake
	.venv/bin/cmake --build build
	.venv/bin/cmake --install build --prefix build/package

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; v = sys.version_info[:2]; (3, 10) <= v <= (3, 13) or sys.exit(f'Python 3.10 to 3.13 is needed, this is {v[0]}.{v[1]}.')"
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet $(PIP_ARGS) --constraint constraints.txt --editable ".[test,slicer]"
	touch $@

clean:
	rm -rf .venv demo build
