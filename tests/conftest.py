"""What several test files need: a toy experiment in a folder of its own, and a switch for the long tests."""
import gc
import sys

import pytest
import seeds

try:
    from hypothesis import HealthCheck, settings
except ImportError: # tests/gpu runs on a bare machine, too
    settings = None

if seeds.BASE:
    seeds.shift()
# random examples are the same everywhere, and nothing is too slow on a busy machine
if settings:
    settings.register_profile("everywhere", derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    settings.load_profile("everywhere")
# PyTorch, IPython and matplotlib keep many objects alive; looking through them for cycles took 5 to 9 % of the time of two notebooks
gc.set_threshold(100_000, 50, 100)

WALK = '''
"A random walk with a checkpoint every five steps."
import json, os, time
import pandas as pd
from modnb.runs import Params as Base, Result, param
from modnb.files import write_whole

class Params(Base):
    seed: int = param(0, "of the walk")
    steps: int = param(60, "of the walk")
    rows: int = param(1, "of the result")
    sleep: float = param(0.0, "seconds per step", signed=False)

def run(params, log):
    with open(os.environ["WALKERS"], "a") as file:
        file.write(f"{os.getpid()}\\n")
    path = log.path("walk.json")
    step, state, place = json.loads(path.read_text()) if path.exists() else (0, params.seed, 0)
    while step < params.steps:
        state = (state * 1_103_515_245 + 12_345) % 2**31
        step, place = step + 1, place + (1 if state >> 16 & 1 else -1)
        log.metrics("walk", step, place=place)
        if step % 5 == 0:
            write_whole(path, json.dumps([step, state, place]))
        time.sleep(params.sleep)
    with open(os.environ["WALKERS"] + ".home", "a") as file:
        file.write(f"{params.seed}\\n")
    return Result(pd.DataFrame({"metric": ["place"] * params.rows, "value": [place] + [i * 2_654_435_761 * state % 2**31 for i in range(1, params.rows)]}), extra={"steps": step})
'''


@pytest.fixture
def place(tmp_path, monkeypatch):
    "A folder with a toy experiment, `toys.walk`, that this process and its children can import."
    (tmp_path / "toys").mkdir()
    (tmp_path / "toys" / "__init__.py").write_text("")
    (tmp_path / "toys" / "walk.py").write_text(WALK)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("WALKERS", str(tmp_path / "walkers"))
    monkeypatch.delenv("MODNB_RUNS", raising=False)
    yield tmp_path
    for name in ("toys", "toys.walk"):
        sys.modules.pop(name, None)


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="kill a hundred times instead of twenty")
    parser.addoption("--device", default="cuda", help="of tests/gpu: cuda, cpu, or card (a device that follows a GPU's rules)")


# tests that compute nothing: processes, files, texts. All others are `numeric`
COUNT_NOTHING = ("test_docs.py", "test_downloads.py", "test_experiments.py", "test_grids.py", "test_house.py", "test_package.py", "test_reports.py", "test_runs.py", "test_types.py", "test_fuzz_runs.py",
                 "test_runs[runs/", "test_runs[0", "test_runs[tutorials/03_grids")
SHARED = {"wheel", "warm", "collapsed", "trained", "gates", "routing", "systems", "found", "changes", "measures"} # fixtures that take seconds: their tests share a process
# begun first, so that no process is left alone with one of them at the end
LONGEST = ("test_card", "test_kills", "test_site", "masks/12_learning", "test_package", "test_reports", "07_ensembles", "07_mathematics", "bench/04_gating", "double_add.ipynb",
           "inside_gating.ipynb", "masks/14_choice", "mask_stability.ipynb", "explanations/00", "index.ipynb")


def pytest_make_parametrize_id(config, val, argname):
    "Contents of files do not name a test: a gzip header holds the second it was written in, and the processes must collect the same names."
    return argname if isinstance(val, bytes) else None


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(config, items):
    "Marks: what make test-machines runs, and what several processes need to share the tests well."
    nameless = [item.nodeid for item in items if " at 0x" in item.nodeid]
    if nameless: raise pytest.UsageError(f"names that hold an address differ between processes: {nameless[0]}")
    for item in items:
        if not any(name in item.nodeid for name in COUNT_NOTHING):
            item.add_marker(pytest.mark.numeric)
        for name in sorted(SHARED & set(item.fixturenames))[:1]:
            item.add_marker(pytest.mark.xdist_group(name))
    rank = {name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: min((rank[name] for name in LONGEST if name in item.nodeid), default=len(rank)))
    yield
    grouped = [item for item in items if item.get_closest_marker("xdist_group")]
    if getattr(config.option, "loadgroup", False) and not all("@" in item.nodeid for item in grouped):
        raise pytest.UsageError("this pytest ignores the groups of pytest-xdist, so fixtures would be made in every process; "
                                "install the versions in tests/constraints.txt")
