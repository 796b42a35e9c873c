"""Where new things go: each sentence under 'Contributing' is carried out in a temporary folder, with no edit elsewhere."""
import ast
import importlib
import json
import sys

import pytest
import torch
from tree import ROOT

from modnb.masks import learn_masks

ESTIMATOR = '''
from dataclasses import dataclass

from modnb.masks.estimators import Estimator, register


@register("contributed_threshold")
@dataclass
class Threshold(Estimator):
    "Keeps a weight while its logit is above zero."

    def apply(self, weight, logits, keys, place, progress, backend):
        hard = (logits > 0).to(logits.dtype)
        return (weight * (hard + (logits - logits.detach())))[:, :, None]

    def price(self, logits, progress): return logits
    def keep_prob(self, logits): return (logits > 0).to(logits.dtype)
'''

LAW = '''
from dataclasses import dataclass

from modnb.routing.laws import LAWS, Law, categorical, take


@LAWS.register("contributed_greedy")
@dataclass(frozen=True)
class Greedy(Law):
    "One module; scores count twice."
    noise_shape = (1, 1)

    @property
    def shape(self): return 1, self.n_modules
    @property
    def count(self): return self.n_modules

    def rows(self): return ((m,) for m in range(self.n_modules))
    def normalize(self, scores): return (2 * scores).log_softmax(-1)
    def draw(self, scores, noise): return categorical(self.normalize(scores), noise)
    def log_prob(self, scores, a): return take(self.normalize(scores), a).sum(-1)
'''

HEAD = '''
import math
from dataclasses import dataclass

from modnb.routing.heads import HEADS, Head, same_shape


@HEADS.register("contributed_laplace")
@dataclass(frozen=True)
class Laplace(Head):
    "Absolute error with a scale."
    scale: float = 1.0

    def log_prob(self, h, y):
        same_shape(h, y)
        return self.total(-(y - h).abs() / self.scale - math.log(2 * self.scale))
'''

ROUTING = '''
from modnb.routing.estimators import ESTIMATORS, RoutingEstimator, compared


@ESTIMATORS.register("contributed_best")
class Best(RoutingEstimator):
    "Trains the best routing of each example alone."

    def objective(self, batch, more):
        candidates = self.candidates(batch)
        value = compared(candidates, candidates.everything()).scored.joint.max(0).values
        return candidates, value, {"likelihood": value.mean(-1)}
'''

SYSTEM = '''
from torch import nn

from modnb.routing.composition import Composition
from modnb.routing.layer import ModularLayer
from modnb.routing.router import Router


def build(n_inputs, n_outputs, modules):
    "Linear modules, one for each example."
    pool = [nn.Linear(n_inputs, n_outputs) for _ in range(modules)]
    return Composition(nn.Sequential(ModularLayer(pool, Router(modules, n_inputs=n_inputs, sees="feature", seed=0))))
'''

TASK = '''
import torch


def batches(rules, n, seed):
    "Batches of (inputs, targets): a rule says with which sign the inputs are summed."
    generator = torch.Generator().manual_seed(seed)
    while True:
        x = torch.randn(n, 4, generator=generator)
        sign = 1 - 2 * torch.randint(rules, (n, 1), generator=generator)
        yield torch.cat([x, sign], 1), sign * x.sum(1, keepdim=True)
'''

EXPERIMENT = '''
import pandas as pd

from modnb.runs import Result, SeedParams, param


class Params(SeedParams):
    "Settings of a coin."
    throws: int = param(10, "of the coin", min=1)
    presets = {"quick": dict(throws=100)}


def run(params, log):
    "One row per seed."
    seeds = range(params.seed, params.seed + params.seeds)
    return Result(pd.DataFrame({"seed": seeds, "metric": "throws", "value": params.throws}))
'''


@pytest.fixture
def contribute(tmp_path, monkeypatch):
    "A function that writes a module into a temporary folder and imports it."
    monkeypatch.syspath_prepend(tmp_path)

    def write(name, source):
        (tmp_path / f"{name}.py").write_text(source, encoding="utf-8")
        importlib.invalidate_caches()
        monkeypatch.delitem(sys.modules, name, raising=False)
        return importlib.import_module(name)

    return write


def test_mask_estimator(contribute):
    from modnb.masks import estimators

    contribute("contributed_estimator", ESTIMATOR)
    try:
        net = torch.nn.Linear(3, 1)
        data = {"all": [(torch.ones(4, 3), torch.ones(4, 1))]}
        found = learn_masks(net, data, torch.nn.functional.mse_loss, steps=2, samples=2, estimator="contributed_threshold")
        assert set(found.masks) == {"all"}
    finally:
        del estimators.ESTIMATORS.entries["contributed_threshold"]


def test_law(contribute):
    from modnb.routing.laws import LAWS
    from modnb.routing.router import Router

    contribute("contributed_law", LAW)
    try:
        router = Router(3, law="contributed_greedy", n_inputs=2, seed=0)
        scores = torch.tensor([[1.0, 0.5, 0.0]])
        assert torch.allclose(router.law.inclusion(scores), (2 * scores[0]).softmax(-1))
        assert router(torch.ones(5, 2)).probs().shape == (5, 1, 1, 3)
    finally:
        del LAWS.entries["contributed_greedy"]


def test_head(contribute):
    from modnb.routing.heads import HEADS, make_head

    contribute("contributed_head", HEAD)
    try:
        h, y = torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, -1.0]])
        expected = torch.distributions.Laplace(h, 0.5).log_prob(y).sum(-1)
        assert torch.allclose(make_head("contributed_laplace", scale=0.5).log_prob(h, y), expected)
    finally:
        del HEADS.entries["contributed_laplace"]


def test_routing_estimator(contribute):
    from modnb.routing.candidates import Batch, Table
    from modnb.routing.estimators import ESTIMATORS, make_estimator

    contribute("contributed_routing", ROUTING)
    try:
        ll, lp = torch.tensor([[-1.0], [-3.0]]), torch.full((2, 1), 0.5).log()
        estimator = make_estimator("contributed_best", lambda batch: Table(ll, lp))
        assert torch.allclose(estimator.step(Batch(None)).loss, 1 - lp[0, 0])
    finally:
        del ESTIMATORS.entries["contributed_best"]


def test_system_and_task(contribute):
    "A system of routed modules and a task, trained by the one loop."
    from modnb.training import fit

    net = contribute("contributed_system", SYSTEM).build(5, 1, 2)
    task = contribute("contributed_task", TASK)
    done = fit(net, task.batches(2, 16, seed=0), torch.nn.functional.mse_loss, 3, lr=1e-2)
    assert done.history is not None and net(torch.zeros(2, 5)).shape == (2, 1)


def definitions(notebook):
    "The imports, classes, functions and constants of a notebook's code, as the source of a module."
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    kinds = (ast.Import, ast.ImportFrom, ast.ClassDef, ast.FunctionDef)
    kept = [node for node in ast.parse(code).body if isinstance(node, kinds) or isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).isupper()]
    return "\n\n".join(ast.get_source_segment(code, node) for node in kept), code


def test_system_with_rows_and_claims(contribute, tmp_path):
    "The system of the tutorial, as an experiment in a temporary folder: one notebook of less than 150 lines of code."
    from modnb.runs import run

    source, code = definitions(ROOT / "nbs" / "tutorials" / "07_adding_a_system.ipynb")
    assert sum(bool(line.strip()) for line in code.splitlines()) < 150
    study = contribute("contributed_study", source)
    done = run(study, rows=("oracle", "zero", "exact marginal"), steps=20, every=10, seeds=2, runs=tmp_path / "runs")
    assert set(done.frame.function) == {"oracle", "zero", "exact marginal"}
    done = run(study, steps=2, every=1, seeds=1, runs=tmp_path / "runs")
    judged = study.claims(done.frame)
    assert judged.verdict.tolist() == ["not trained", "not trained", "fails"] # after two updates


def test_experiment(contribute, tmp_path):
    from modnb.runs import run

    done = run(contribute("contributed_experiment", EXPERIMENT), preset="quick", seeds=2, runs=tmp_path / "runs")
    assert done.frame.value.tolist() == [100, 100]
