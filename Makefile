# make report   the main job: train, learn masks, write the report       make test   everything that is checked
# make env      only the environment (.venv)                             make lab    JupyterLab in it
#
# PyTorch: tests/constraints.txt names the tested version; which build of it is installed is pip's choice. A machine
# without a GPU is spared the CUDA packages if pip is configured with PyTorch's CPU index (see PyTorch's own
# installation page), for example by PIP_EXTRA_INDEX_URL.

SHELL := /bin/bash
BIN := .venv/bin
STAMP := .venv/.complete
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
CORES := $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)

.PHONY: env report test lab export clean-notebooks lint
.DEFAULT_GOAL := report

env: $(STAMP)

$(STAMP): settings.ini setup.py tests/constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python >= 3.11 with venv was found; name one: make env PYTHON=/path/to/python3.11" >&2; exit 1; }
	rm -rf .venv
	$(PYTHON) -m venv .venv
	PIP_CONSTRAINT=tests/constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

report: $(STAMP)
	OMP_NUM_THREADS=$(CORES) OMP_WAIT_POLICY=PASSIVE $(BIN)/modnb report add_mul preset=quick

test: $(STAMP)
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} MPLBACKEND=Agg $(BIN)/python -m pytest -c tests/pytest.ini --rootdir . tests

lab: $(STAMP)
	$(BIN)/modnb lab

# notebooks -> modnb/ and README.md
export: $(STAMP)
	$(BIN)/nbdev_export
	$(BIN)/python .ci/readme.py

# strips what a notebook's run leaves behind; keeps outputs and the tags that papermill needs
clean-notebooks: $(STAMP)
	$(BIN)/nbdev_clean

lint: $(STAMP)
	$(BIN)/ruff check --config tests/ruff.toml nbs tests setup.py .ci
