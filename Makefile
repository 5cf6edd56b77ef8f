# Two commands for everybody: `make demo` and `make test`. Each makes .venv on its first run and installs the
# pinned versions; the stamp file below means that nothing is installed again until those versions change.
#
# `make bench` times veriscope beside bare forward passes and the peers, which it installs in environments of their own,
# and keeps benchmarks/results.json and the table in README.md (half an hour on a quiet machine).
#
#   make test WORKERS=8          more test processes (each uses one thread unless OMP_NUM_THREADS says otherwise); a file
#                                stays in one of them, so that what its tests share is made once
#   make demo TORCH_INDEX=URL    take torch, and only torch, from another package index
#   make demo PYTHON=python3.12  which Python to make .venv with
# pip's own settings (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS ...) hold as always.

PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13 python3.14 python; do \
	$$p -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
WORKERS ?= 2
TORCH_INDEX ?=
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
READY := .venv/.ready-$(shell cat pyproject.toml requirements.lock | cksum | cut -d ' ' -f 1)

.PHONY: demo test bench check clean
.DEFAULT_GOAL := demo

demo: $(READY)
	$(BIN)/veriscope demo

test: check
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST)

bench: $(READY)
	TORCH_INDEX=$(TORCH_INDEX) $(BIN)/python -m benchmarks.run
	$(BIN)/python -m benchmarks.run --table --write

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/mypy

$(READY):
	@test -n "$(PYTHON)" || { echo "veriscope needs Python 3.11 or newer with pip and venv; name one with: make $(MAKECMDGOALS) PYTHON=/path/to/python" >&2; exit 1; }
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	$(if $(TORCH_INDEX),$(PIP) install --no-deps --index-url $(TORCH_INDEX) torch==2.13.0)
	$(PIP) install --constraint requirements.lock torch==2.13.0
	$(PIP) install --no-deps --requirement requirements.lock
	$(PIP) install --no-deps --no-build-isolation --editable .
	@rm -f .venv/.ready-*
	@touch $@

clean:
	rm -rf .venv build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache
