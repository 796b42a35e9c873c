# make report   the main job: train, learn masks, write the report        make test   everything that is checked
# make env      only the environment (.venv)                              make lab    JupyterLab: the tour
# make export   notebooks -> modnb/, parameter cells, README.md      make docs   a site in _docs/
# make results  runs studies whose committed results are out of date, or NAME="add_mul systems", and keeps rows and notebooks
# make test-machines   the numeric tests as other processors, thread counts and base seeds would run them
# make test-gpu   what a GPU is asked to do, on CUDA      make test-fake-cuda   forward passes on CUDA tensors without a GPU
#
# make test runs on every core, one thread each; WORKERS=1 on one, ARGS="-k masks" is pytest's.
# PYTHON=/path/to/python chooses what .venv is made from (default: the first Python on PATH that is new enough).
# tests/constraints.txt names the tested version of PyTorch; which build of it is installed is pip's choice. A machine without
# a GPU is spared gigabytes of CUDA packages if pip knows PyTorch's CPU index: set PIP_EXTRA_INDEX_URL, or pip's own
# configuration, to the address that PyTorch's install selector shows for "CPU".

BIN := .venv/bin
STAMP := .venv/.complete
PYTHON ?=
MIN := $(shell sed -n 's/^min_python *= *//p' settings.ini)
# test processes: one more than cores, as some tests wait (nproc itself would answer OMP_NUM_THREADS); each takes up to a gigabyte
WORKERS ?= $(shell n=$$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc 2>/dev/null || getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1); [ $$n -lt 8 ] && echo $$((n + 1)) || echo 9)
export OMP_WAIT_POLICY ?= PASSIVE
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: env report results test test-machines test-gpu test-fake-cuda test-browser screenshots lint lab docs export clean-notebooks
.DEFAULT_GOAL := report

env: $(STAMP)

# An environment that works is updated, one that is half made or too old is made again. The stamp is written last, so an
# installation that was broken off is taken up again.
$(STAMP): settings.ini setup.py tests/constraints.txt
	@new='import sys, venv, ensurepip; sys.exit(sys.version_info < tuple(map(int, "$(MIN)".split("."))))'; \
	ready() { $(BIN)/python -c "$$new" && $(BIN)/python -m pip --version; } >/dev/null 2>&1; \
	ready || for python in $(if $(PYTHON),"$(PYTHON)",python3 python3.13 python3.12 python3.11 python3.14 python); do \
		if "$$python" -c "$$new" >/dev/null 2>&1; then "$$python" -m venv --clear .venv; break; fi; \
	done; \
	ready || { echo "make env: no Python >= $(MIN) with venv and pip ($(or $(PYTHON),looked on PATH)); name one: make env PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "installing into .venv; the first time takes some minutes"
	@$(BIN)/python -m pip install --quiet -c tests/constraints.txt -e '.[dev]'
	@touch $@

# one thread, as the run's `threads` says: a network this small loses more by waiting for a second one than it gains
report: $(STAMP)
	@$(BIN)/python -m modnb.runs.cli report add_mul preset=quick

# runs that are done are not computed again; PRESET=paper for the papers' lengths
results: $(STAMP)
	@OMP_NUM_THREADS=1 PRESET="$(PRESET)" $(BIN)/python .ci/results.py $(NAME)
	@$(MAKE) --no-print-directory clean-notebooks

# compiled once, for the processes that tests start
test: $(STAMP)
	@$(BIN)/python -m compileall -q modnb
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} MPLBACKEND=Agg $(BIN)/python -m pytest -c tests/pytest.ini --rootdir . \
		-n $(WORKERS) --dist loadgroup --no-loadscope-reorder --ignore=tests/gpu $(ARGS) tests

# MODES="avx2 seed-1" ARGS="-k masks" chooses; see tests/machines.py
test-machines: $(STAMP)
	@MPLBACKEND=Agg $(BIN)/python tests/machines.py --workers $(WORKERS) --args="$(ARGS)" $(MODES)

# what a GPU is asked to do, on CUDA; skips without one. Needs PyTorch and pytest alone: GPU_PYTHON=python3 on a bare machine.
# ARGS="--device cpu" runs the same tests on a CPU, "--device card --long" all of them on a device that follows a GPU's rules
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,python3)
test-gpu:
	@MPLBACKEND=Agg $(GPU_PYTHON) -m pytest -c tests/pytest.ini --rootdir . $(ARGS) tests/gpu

# forward passes on CUDA tensors without numbers: a CUDA build of PyTorch (gigabytes) in .venv-cuda, and no GPU
test-fake-cuda:
	@[ -x .venv-cuda/bin/python ] || $(or $(PYTHON),python3) -m venv .venv-cuda
	@PIP_EXTRA_INDEX_URL= .venv-cuda/bin/python -m pip install --quiet -e . pytest pytest-timeout
	@MPLBACKEND=Agg .venv-cuda/bin/python -m pytest -c tests/pytest.ini --rootdir . --device fake $(ARGS) tests/gpu/test_fake_cuda.py

# the explorers in JupyterLab and a headless Chromium (Debian: apt-get install --no-install-recommends chromium fonts-dejavu-core)
test-browser: $(STAMP)
	@$(BIN)/python -m pip install --quiet -c tests/constraints.txt -e '.[browser]'
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -c tests/pytest.ini --rootdir . -s tests/browser

screenshots: $(STAMP)
	@$(BIN)/python -m pip install --quiet -c tests/constraints.txt -e '.[browser]'
	@OMP_NUM_THREADS=1 $(BIN)/python tests/browser/screenshots.py

lint: $(STAMP)
	@$(BIN)/python -m ruff check --config tests/ruff.toml nbs tests setup.py .ci

# opens on the tour of the explorers; ARGS="--no-browser --port=8899" are JupyterLab's options
lab: $(STAMP)
	@$(BIN)/python -m modnb.runs.cli lab $(ARGS)

docs: $(STAMP)
	@$(BIN)/python .ci/docs.py

export: $(STAMP)
	@$(BIN)/nbdev_export
	@$(BIN)/python .ci/parameters.py
	@$(BIN)/python .ci/readme.py

# strips what a notebook's run leaves behind; keeps outputs and the tag that papermill needs (its option --clear_all would not)
clean-notebooks: $(STAMP)
	@$(BIN)/python .ci/still.py
	@$(BIN)/nbdev_clean
