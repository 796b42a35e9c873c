# make report   install into .venv (once), then run the first experiment and show its table
# make test     install into .venv (once), then run every notebook and every test
#
# PYTHON=/path/to/python chooses the interpreter that .venv is made from.
# On a machine without a GPU, tell pip (not this file) about PyTorch's CPU builds first: set PIP_EXTRA_INDEX_URL, or pip's
# configuration, to the address that PyTorch's install selector shows for "CPU". Otherwise pip takes the CUDA build, several GB.

PYTHON ?=
BIN := .venv/bin
PY := $(BIN)/python
MIN := $(shell sed -n 's/^min_python *= *//p' settings.ini)
# the networks here are small: more threads than four wait for each other
THREADS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2); [ $$n -lt 4 ] && echo $$n || echo 4)
export OMP_NUM_THREADS ?= $(THREADS)
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help env report test lint lab docs clean-notebooks export

help:
	@echo "make report | test | lint | lab | docs | export | clean-notebooks | env"

env: .venv/.installed

# the stamp is written last: an installation that was broken off is taken up again
.venv/.installed: settings.ini setup.py tests/constraints.txt
	@fits='import sys, venv, ensurepip; sys.exit(sys.version_info < tuple(map(int, "$(MIN)".split("."))))'; \
	if ! { $(PY) -c "$$fits" && $(PY) -m pip --version; } >/dev/null 2>&1; then \
	    for p in $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python3.14 python); do \
	        "$$p" -c "$$fits" >/dev/null 2>&1 && { "$$p" -m venv --clear .venv; break; }; \
	    done; \
	    $(PY) -m pip --version >/dev/null 2>&1 || { \
	        echo "make env: needs Python >= $(MIN) with venv and pip; $(or $(PYTHON),python3, python3.11 ... on PATH) is not one. Try: make env PYTHON=/path/to/python3" >&2; \
	        exit 1; }; \
	fi
	@echo "installing into .venv (minutes the first time) ..."
	@$(PY) -m pip install -q -c tests/constraints.txt -e '.[dev]'
	@touch $@

report: env
	@MPLBACKEND=Agg $(PY) -m modnb.runs.cli report add_mul preset=quick

test: env
	@MPLBACKEND=Agg $(PY) -m pytest -c tests/pytest.ini tests

lint: env
	@$(PY) -m ruff check --config tests/ruff.toml .

lab: env
	@$(PY) -m jupyter lab nbs

docs: env
	@$(PY) .ci/docs.py

export: env
	@$(BIN)/nbdev_export
	@$(PY) .ci/readme.py

# not nbdev_clean --clear_all: that one drops papermill's `parameters` tag
clean-notebooks: env
	@$(BIN)/nbdev_clean
