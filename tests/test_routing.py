"""The routing study: a collapse is said while it happens and in the verdict, and committed results are those of all estimators and seeds."""
import warnings

import pytest
from tree import ROOT, python

from modnb.experiments.routing import eight_maps, held_out_composition, toy_regression
from modnb.routing.comparison import ROWS
from modnb.routing.training import CollapseWarning
from modnb.runs import Log, run
RESULTS = ROOT / "nbs" / "results" / "routing"


@pytest.fixture(scope="module")
def collapsed(tmp_path_factory):
    "Eight maps, long enough for REINFORCE to settle on some of its modules; what was warned of meanwhile, and the run."
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        rows = [*eight_maps.Params().rows, "REINFORCE, S=1"]
        done = run("eight_maps", rows=rows, steps=600, seeds=3, progress=False, runs=tmp_path_factory.mktemp("runs"))
    return [w for w in heard if issubclass(w.category, CollapseWarning)], done


def test_collapse_is_warned_of_while_it_trains(collapsed):
    heard, done = collapsed
    texts = [str(w.message) for w in heard]
    assert texts and texts == done.result.extra["warnings"]
    assert any(t.startswith("REINFORCE, S=1: collapsed at step") and "of 8 modules dead, H_b" in t for t in texts) and not any(t.startswith("oracle") for t in texts)


def test_the_log_says_so_at_every_evaluation(collapsed):
    _, done = collapsed
    state = done.frame.query("part == 'curve' and metric == 'collapsed' and function == 'REINFORCE, S=1'").groupby("step").value.sum()
    assert state.iloc[0] == 0 and state.iloc[-1] >= 1 # nobody has settled at first
    first = min(int(t.split("step ")[1].split(".")[0]) for t in done.result.extra["warnings"] if t.startswith("REINFORCE, S=1"))
    assert state[state > 0].index[0] == first


def test_the_verdict_names_what_collapsed(collapsed):
    _, done = collapsed
    text = eight_maps.verdict(done.frame)
    dead = done.frame.query("part == 'final' and metric == 'dead'").groupby("function").value.mean()
    assert f"Most collapsed: {dead.idxmax()} ({dead.max():.1f} dead modules a seed)" in text


def test_the_verdict_of_two_regimes_names_the_seeds():
    params = toy_regression.Params(rows=(toy_regression.EM,), steps=100, seeds=3, control=False)
    frame = toy_regression.run(params, Log.memory()).frame
    dead = (frame.metric == "dead") & (frame.part == "final")
    frame.loc[dead, "value"] = 0.0 # whether one does is a matter of seeds
    assert "No seed of EM collapsed." in toy_regression.verdict(frame)
    frame.loc[dead & (frame.seed == 1), "value"] = 1.0
    assert "Collapsed to one module: seed 1 of EM." in toy_regression.verdict(frame)


@pytest.mark.parametrize("name, rows, tests", [("toy_regression", ROWS, ("two regimes", "control")), ("eight_maps", ROWS, (None,)), ("held_out_composition", held_out_composition.MAIN, (None,)), ("estimator_bench", ROWS, ("two regimes", "eight maps", "compositions"))])
def test_committed_results_have_every_estimator_and_ten_seeds(name, rows, tests):
    import pandas as pd
    frame = pd.read_csv(RESULTS / f"{name}-quick.csv")
    for test in tests:
        part = frame if test is None else frame[frame["mask"] == test]
        assert set(part.function) == set(rows) and part.query("part == 'final' and metric == 'error'").groupby("function").seed.nunique().eq(10).all()


def test_import_is_light():
    "The front door offers every estimator, and costs none of the modules that take time."
    heavy = "pandas matplotlib IPython nbformat pyarrow scipy sklearn safetensors tqdm tensorboard dask distributed".split()
    code = f"""
import sys, torch
before = set(sys.modules)
from modnb.routing import ESTIMATORS, Batch, Buffer, Composition, KirschEM, RolloutView, ModularLayer, Router, Stacked, make_estimator
print(sorted(m for m in set(sys.modules) - before if m.split(".")[0] in {heavy}))
"""
    done = python("-c", code)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
