"""The gating study: grids, oracles from outside, what the regimes share, and how sure the evaluation is."""
import json
import math
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from tree import ROOT

from modnb.data.rules import MHARules, MLPRules, RNNRules
from modnb.experiments.gating import rules as study
from modnb.metrics import collapse
from modnb.systems.gated import build, n_parameters
from modnb.runs import Grid, Log
from modnb.training import fit
SMALL = dict(steps=20, every=10, tokens=500, width=8, batch_size=32)
GRIDS = ROOT / "nbs" / "grids" / "gating"


def test_grid_of_the_paper_has_twenty_thousand_networks():
    runs = [r.params for r in Grid.from_yaml(GRIDS / "paper.yaml").runs]
    assert sum(len(p.gatings) * p.data_seeds * p.model_seeds for p in runs) == 20_000
    assert {p.width for p in runs} == {32, 64, 128, 256, 512} and {p.rules for p in runs} == {2, 4, 8, 16, 32}
    assert {(p.arch, study.n_steps(p)) for p in runs} == {("mlp", 100_000), ("mha", 500_000), ("mha2", 500_000), ("rnn", 500_000)}
    for p in runs:
        assert (p.lr, p.batch_size, p.schedule, p.every, p.balance, p.gumbel, p.temperature, p.top_k, p.modules) == (1e-4, 256, "constant", 5000, 0, 0, 1, None, None)
    mlp = [r.params for r in Grid.from_yaml(GRIDS / "mlp.yaml").runs]
    assert mlp == [p for p in runs if p.arch == "mlp"]


def test_quick_grid_is_what_it_says():
    runs = [r.params for r in Grid.from_yaml(GRIDS / "quick.yaml").runs]
    assert {(p.task, p.rules) for p in runs} == {(t, r) for t in ("regression", "classification") for r in (2, 4, 8)} and len(runs) == 6
    assert {(p.arch, p.width, p.data_seeds, p.model_seeds, p.gatings) for p in runs} == {("mlp", 32, 5, 2, study.GATINGS)}


@pytest.mark.parametrize("remedy", ["balance", "top_k", "gumbel", "temperature", "modules", "schedule"])
def test_remedies_vary_one_setting_each_from_one_base(remedy):
    grid, other = Grid.from_yaml(GRIDS / f"remedies_{remedy}.yaml"), Grid.from_yaml(GRIDS / "remedies_balance.yaml")
    assert set(grid.varied) == {remedy} and {r.signature for r in grid.runs} & {r.signature for r in other.runs}


ORACLES = { # rules: collapse_avg, collapse_worst, alignment, inverse mutual information, adaptation of uniform gates; adaptation of a collapsed network
    2: ((0, 0, 0.5, 1, 0.2567), 0.2433), 4: ((0, 0, 0.75, 1, 0.3007), 0.5052), 8: ((0, 0, 0.875, 1, 0.3350), 0.6737),
    16: ((0, 0, 0.9375, 1, 0.3540), 0.7887), 32: ((0, 0, 0.96875, 1, 0.3650), 0.8727)}
NAMES = ("collapse_avg", "collapse_worst", "alignment", "inverse_mutual_information", "adaptation")


@pytest.mark.parametrize("R", ORACLES)
def test_metrics_of_known_matrices(R):
    uniform, one = ORACLES[R]
    found = collapse.Activation.random(R).metrics
    assert np.allclose([found[n] for n in NAMES], uniform, atol=6e-5)
    found = collapse.measure(np.eye(R)[np.zeros(R, int)])
    assert np.allclose([found[n] for n in NAMES], (1, 1, uniform[2], 1, one), atol=6e-5)
    assert np.allclose([collapse.measure(np.eye(R))[n] for n in NAMES], 0, atol=4e-6)


def test_metrics_of_the_papers_example():
    P = [[0.95, 0, 0, 0.05], [0, 0, 0, 1], [0.35, 0.1, 0, 0.55], [0, 1, 0, 0]]
    found = collapse.measure(P)
    assert np.allclose([found[n] for n in NAMES[:4]], (0.3333, 1, 0.2625, 0.4189), atol=6e-5)


def test_renaming_modules_changes_no_metric():
    random = np.random.default_rng(0)
    for R, M in ((2, 2), (5, 5), (8, 8), (8, 5), (5, 8), (32, 32)):
        P = random.dirichlet(np.full(M, 0.3), R)
        before, after = collapse.measure(P), collapse.measure(P[:, random.permutation(M)])
        assert all(math.isclose(before[n], after[n], abs_tol=1e-12) for n in NAMES), (R, M)


def test_labels_of_a_token_depend_on_its_own_rule_alone():
    for search in (1, 2):
        task = MHARules(5, 3, search=search)
        g = torch.Generator().manual_seed(search)
        x, noise, rule = task.features(50, 10, generator=g), task.features(50, 10, generator=g), torch.randint(5, (50, 10), generator=g)
        size = task.n_features // 5
        for r in range(5):
            changed = noise.clone()
            changed[..., r * size:(r + 1) * size] = x[..., r * size:(r + 1) * size]
            same = task.targets(changed, rule) == task.targets(x, rule)
            assert same[rule == r].all() and not same[rule != r].all()


def test_states_follow_the_recursion():
    task = RNNRules(3, 2)
    x, s, rule = task.sample(4, torch.Generator().manual_seed(0), length=7, dtype=torch.float64)
    random = np.random.RandomState(2)
    A, B = random.normal(size=(3, 32, 32)) / np.sqrt(32), random.normal(size=(3, 32, 32)) / np.sqrt(32)
    for i in range(4):
        state = np.zeros(32)
        for n, c in enumerate(rule[i].tolist()):
            state = x[i, n, :32].numpy() @ B[c] + state @ A[c]
            assert np.allclose(s[i, n], state)


@pytest.mark.parametrize("R, zeros", {2: (1.713, 1.174, 1.523, 1.478, 0.739), 8: (1.039, 1.283, 1.235, 0.930, 0.767), 32: (1.079, 0.907, 0.953, 1.132, 0.974)}.items())
def test_loss_of_answering_zero(R, zeros):
    assert np.allclose([MLPRules(R, s).zero_loss() for s in range(5)], zeros, atol=6e-4)
    assert np.allclose([MHARules(R, s, search=2).zero_loss(scale=2) for s in range(5)], 2 * np.array(zeros), atol=1.2e-3)


def test_numbers_of_parameters():
    counts = {("mlp", 2): (35361, 35489, 35555, 35619), ("mlp", 32): (36321, 40289, 41345, 40449), ("mha", 8): (27241, 29441, 29585, 29641), ("rnn", 8): (105952, 101210, 101866, 103842 - 8)}
    for (arch, R), expected in counts.items():
        assert tuple(n_parameters(build(arch, g, R, 32, seed=0)) for g in ("monolithic", "gt-modular", "modular-op", "modular")) == expected


@pytest.mark.parametrize("arch", ["mlp", "mha", "mha2", "rnn"])
@pytest.mark.parametrize("remedy", [{}, {"modules": 3}, {"modules": 6, "top_k": 2}, {"temperature": 3.0, "gumbel": 1.0}], ids=str)
def test_gates_sum_to_one(arch, remedy):
    params = study.Params(arch=arch, rules=4, **remedy)
    task = study.make_task(params, 0)
    x, _, rule = task.sample(8, torch.Generator().manual_seed(0))
    for gating in study.GATINGS[:3]:
        net = study.make_net(params, task, gating, 0).train()
        noise = net.noise(x, torch.Generator().manual_seed(1))
        p = net(x)[1] if noise is None else net(x, noise)[1]
        assert torch.allclose(p.sum(-1), torch.ones(rule.shape), atol=1e-6) and (p >= 0).all()
        if gating == "gt-modular": assert torch.equal(p.argmax(-1), rule) and p.shape[-1] == 4


def test_equal_seeds_give_equal_runs_and_regimes_see_the_same_batches():
    params = study.Params(**SMALL, data_seeds=2, model_seeds=2)
    one, two = (study.run(params, Log.memory()).frame for _ in range(2))
    pd.testing.assert_frame_equal(one, two)
    fewer = study.run(study.Params(**SMALL, data_seeds=1, model_seeds=1, gatings=("modular",)), Log.memory()).frame
    same = one[(one.gating == "modular") & (one.data_seed == 0) & (one.model_seed == 0)].reset_index(drop=True)
    assert np.allclose(same.value, fewer.value, atol=2e-4)           # alone or among others: the same network
    tasks = [study.make_task(params, 1)]
    batches = [study.make_streams(params, tasks, [study.make_net(params, tasks[0], g, 0)], [0], "cpu")[0][3] for g in study.GATINGS]
    assert all(torch.equal(x, batches[0][0]) and torch.equal(y, batches[0][1]) for x, y in batches)


@pytest.mark.parametrize("arch, task", [("mlp", "classification"), ("mha", "regression"), ("rnn", "regression")])
def test_every_kind_of_cell_runs(arch, task):
    frame = study.run(study.Params(**SMALL | dict(tokens=200, state=4), arch=arch, task=task, data_seeds=2, lengths=(3, 5)), Log.memory()).frame
    assert set(frame.part) == {"performance", "gates", "activation", "training", "size"} and frame.value.notna().all()
    gates = frame[(frame.part == "activation") & (frame.gating == "modular")].groupby(["data_seed", "rule"]).value.sum()
    assert np.allclose(gates, 1) and len(study.claims(frame)) >= 15 and "orderings" in study.verdict(frame)
    assert np.isfinite([*study.headline(frame).values()]).all()


@pytest.mark.parametrize("remedy", [{"gumbel": 1.0}, {"balance": 0.1, "modules": 3}, {"top_k": 1, "straight_through": True}], ids=str)
def test_remedies_train(remedy):
    params = study.Params(**SMALL, rules=4, gatings=("modular", "modular-op"), **remedy)
    one, two = (study.run(params, Log.memory()).frame for _ in range(2))
    pd.testing.assert_frame_equal(one, two)                          # noise, too, is a matter of the seed
    plain = study.run(study.Params(**SMALL, rules=4, gatings=("modular", "modular-op")), Log.memory()).frame
    assert not np.isclose(study.performance(one, study.WHERE[0]).value, study.performance(plain, study.WHERE[0]).value).any()


@pytest.mark.parametrize("gating", ["modular", "modular-op"])
def test_noise_is_for_training_alone(gating):
    """A Gumbel network is evaluated as the same weights without noise, at every point of its curve and in the end, and its weights did feel the noise."""
    params = study.Params(**SMALL, rules=4, data_seeds=1, gumbel=1.0, gatings=(gating,))
    (_, task, net, watch, curve), = study.train(params, gating, Log.memory(), "cpu")
    quiet = study.make_net(study.Params(**SMALL, rules=4), task, gating, 0).eval()
    quiet.load_state_dict(net.state_dict())
    assert not net.training and study.BestSoFar(task, watch.batches)(quiet)["error"] == curve[-1][1]
    rows, matrix = study.measure(params, task, net, gating, "cpu")
    expected, plain = study.measure(study.Params(**SMALL, rules=4), task, quiet, gating, "cpu")
    assert rows == expected and np.array_equal(matrix.gates, plain.gates)
    stream = study.make_streams(params, [task], [net], [0], "cpu")[0]
    (x, noise), _ = stream[5]
    with torch.no_grad(): assert not torch.allclose(net(x, noise)[1], net(x)[1], atol=1e-2)
    (_, _, other, _, _), = study.train(study.Params(**SMALL, rules=4, data_seeds=1, gatings=(gating,)), gating, Log.memory(), "cpu")
    assert all(not torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters()))


def test_a_killed_run_loses_nothing(tmp_path, monkeypatch):
    """What lies on disk between two checkpoints is enough to end as an unbroken run does; so is what an interrupted run leaves."""
    monkeypatch.setattr(study, "CHECKPOINT", 10)
    params, plain = study.Params(**SMALL | dict(steps=32, every=4), gatings=("modular", "monolithic")), study.averaged
    expected = study.run(params, Log(tmp_path / "whole", progress=False)).frame

    def spy(at, act):
        def averaged(callback):
            tell = plain(callback)
            def both(event):
                tell(event)
                if event.kind == "step" and event.step == at and event.stage == "fit": act()
            return both
        return averaged
    copies = iter(tmp_path / f"killed-{i}" for i in range(2))
    monkeypatch.setattr(study, "averaged", spy(27, lambda: shutil.copytree(tmp_path / "running", next(copies))))
    study.run(params, Log(tmp_path / "running", progress=False))
    monkeypatch.setattr(study, "averaged", spy(27, lambda: (_ for _ in ()).throw(KeyboardInterrupt)))
    with pytest.raises(KeyboardInterrupt): study.run(params, Log(tmp_path / "interrupted", progress=False))
    monkeypatch.setattr(study, "averaged", plain)
    for name in ("killed-0", "killed-1", "interrupted"):
        pd.testing.assert_frame_equal(study.run(params, Log(tmp_path / name, progress=False)).frame, expected)


def test_evaluation_is_sure_enough():
    "Standard errors below 0.005 at the number of examples of the presets: the same network, twelve seeds of the evaluation."
    params = study.Params.make({"rules": 8}, "quick")
    task = study.make_task(params, 0)
    net = study.make_net(params, task, "modular", 0)
    with torch.no_grad(): net.score.weight.mul_(10)
    fit(net, study.make_streams(params, [task], [net], [0], "cpu")[0], study.make_loss(params, task), 60, lr=3e-3)
    net.eval()
    found = [study.test(net, task, params.tokens, None, seed=s) for s in range(12)]
    values = pd.DataFrame([collapse.measure(collapse.mean_gates(gates, 8)) | {"relative": error / task.zero_loss()} for error, _, gates in found])
    assert (values.std() < 0.005).all(), values.std()


RESULTS = ROOT / "nbs" / "results" / "gating"


def test_committed_results_are_complete():
    "The rows behind the summary: 240 networks, and the verdicts that they give."
    path = RESULTS / "rules-quick.csv"
    frame = pd.read_csv(path)
    assert frame.groupby(["task", "rules", "gating"]).apply(lambda t: t[["data_seed", "model_seed"]].drop_duplicates().shape[0], include_groups=False).eq(10).all()
    assert frame.drop_duplicates(["task", "rules", "gating", "data_seed", "model_seed"]).shape[0] == 240 and path.stat().st_size < 300_000
    table = study.claims(frame)
    assert table.verdict.isin(["holds", "open", "contradicted"]).all() and len(table) == 58 and (table.seeds == 5).all()


@pytest.mark.parametrize("arch", ["mha", "rnn"])
def test_small_cells_are_those_of_their_grids(arch):
    short, long = sorted((r.params for r in Grid.from_yaml(GRIDS / f"small_{arch}.yaml").runs), key=lambda p: p.steps)
    frame, shorter = pd.read_csv(RESULTS / f"rules-{arch}-quick.csv"), pd.read_csv(RESULTS / "figures" / "shorter.csv").query("arch == @arch")
    for rows in (frame, shorter):
        networks = rows[["gating", "data_seed", "model_seed"]].drop_duplicates()
        assert set(rows.width) == {long.width} and len(networks) == len(study.GATINGS) * long.data_seeds and (rows.rules == long.rules).all()
    assert set(shorter.steps) == {short.steps} and 2 * short.steps == long.steps and len(study.claims(frame)) == 22
    curves = pd.read_csv(RESULTS / "figures" / "curves.csv").query("arch == @arch")
    assert curves.step.max() == long.steps


def test_every_remedy_has_its_rows():
    frame = pd.read_csv(RESULTS / "figures" / "remedies.csv")
    runs = {r.signature for path in GRIDS.glob("remedies_*.yaml") for r in Grid.from_yaml(path).runs}
    assert frame.remedy.nunique() == len(runs) == 15
    assert (frame.groupby(["remedy", "gating"]).data_seed.nunique() == 5).all() and set(frame.gating) == {"modular", "modular-op"}


def test_committed_results_are_small_and_none_is_left_over():
    found = {p.relative_to(RESULTS).as_posix(): p.stat().st_size for p in RESULTS.rglob("*.csv")}
    assert set(found) == {"rules-quick.csv", "rules-mha-quick.csv", "rules-rnn-quick.csv", *(f"figures/{n}.csv" for n in ("activations", "curves", "remedies", "shorter"))}
    assert max(found.values()) < 300_000


def test_notebooks_that_read_results_are_no_experiments():
    for name in ("summary", "remedies"):
        cells = json.loads((ROOT / "nbs" / "experiments" / "gating" / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
        assert not any("#| export" in "".join(c["source"]) for c in cells)
