"""Equal runs have equal digits: nothing that an experiment computes is decided by a clock, by free memory, by the threads
that a process happens to have, or by the random numbers that it has drawn before."""
import ast
import importlib
import subprocess
import sys

import pandas as pd
import pytest
import torch
from tree import ROOT

from modnb.experiments.gating import rules
from modnb.experiments.masks import add_mul, scan
from modnb.runs import run

SOURCES = sorted(p for p in (ROOT / "modnb" / "experiments").glob("*/*.py") if p.stem != "__init__")
MASKS = {"batching", "backend"}
WANTED = {"learn_masks": MASKS, "learn_each": MASKS, "choose_beta": MASKS, "fit_ensemble": {"group"}} # what a call has to say
SMALL = {"add_mul": dict(layer_sizes=(16, 16), train_steps=30, mask_steps=50), "rules": dict(gatings=("modular", "monolithic"), steps=30, tokens=500),
         "scan": dict(net="transformer", width=16, ff=16, layers=1, max_actions=5, length_cut=3, train_steps=20, mask_steps=8, tested=20, baselines=False, dropout=0.3)}


@pytest.fixture
def busy():
    "A process that uses the machine."
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    yield
    other.kill()
    other.wait()


@pytest.fixture
def threads():
    "Another number of threads than the run asks for."
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("module", [add_mul, rules, scan], ids=lambda m: m.__name__.rpartition(".")[2])
def test_busy_machine_and_other_threads_change_no_digit(module, tmp_path, request):
    given = SMALL[module.__name__.rpartition(".")[2]]
    alone = run(module, runs=tmp_path / "alone", progress=False, **given)
    for fixture in ("busy", "threads"):
        request.getfixturevalue(fixture)
    again = run(module, runs=tmp_path / "busy", progress=False, **given)
    pd.testing.assert_frame_equal(alone.frame, again.frame, check_exact=True)
    assert alone.signature == again.signature and alone.status["threads"] == again.status["threads"] == 1
    assert torch.get_num_threads() == 2 and alone.result.tensors.keys() == again.result.tensors.keys()
    assert all(torch.equal(t, again.result.tensors[name]) for name, t in alone.result.tensors.items())


def said(call, module, variables):
    "The arguments that a call names, with those of a dictionary that it unpacks: of a call, or of a variable that holds one."
    names = {k.arg for k in call.keywords if k.arg}
    unpacked = [k.value for k in call.keywords if k.arg is None]
    for made in [variables.get(v.id) if isinstance(v, ast.Name) else v for v in unpacked]:
        if isinstance(made, ast.Call):
            names |= set(getattr(module, made.func.id)(module.Params()))
    return names


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.stem)
def test_experiment_leaves_nothing_to_a_race(path):
    module = importlib.import_module(f"modnb.experiments.{path.parent.name}.{path.stem}")
    assert module.Params().threads == 1 and module.Params.make(preset="quick").threads == 1
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    variables = {n.targets[0].id: n.value for n in nodes if isinstance(n, ast.Assign) and isinstance(n.targets[0], ast.Name)}
    for call in (n for n in nodes if isinstance(n, ast.Call)):
        wanted = WANTED.get(getattr(call.func, "id", None), set())
        missing = wanted - said(call, module, variables) if wanted else set()
        assert not missing, f"{path.name}:{call.lineno} does not say {', '.join(sorted(missing))}"
        automatic = [k.arg for k in call.keywords if wanted and isinstance(k.value, ast.Constant) and k.value.value == "auto"]
        assert not automatic, f"{path.name}:{call.lineno} says 'auto' for {', '.join(automatic)}"


def test_smoke_and_presets_name_a_route_and_kernels():
    for path in SOURCES:
        module = importlib.import_module(f"modnb.experiments.{path.parent.name}.{path.stem}")
        if "learn_masks" in path.read_text(encoding="utf-8"):
            for name in {"smoke": {}} | module.Params.presets:
                params = module.Params.make(preset=name)
                assert params.batching in ("vmap", "loop", "channels-last") and params.backend in ("eager", "compiled")


def test_group_size_follows_from_the_parameters_alone():
    make = rules.Params.make
    assert rules.group_size(make(preset="quick")) == 10 and rules.group_size(make({"group": 3}, "quick")) == 3
    assert rules.group_size(make({"arch": "mha"}, "paper")) == rules.group_size(make({"arch": "rnn"}, "quick")) == 1
