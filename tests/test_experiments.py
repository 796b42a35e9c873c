"""What every experiment promises: the notebook's parameters are the defaults, presets and grids are valid, committed results can be read."""
import ast
import importlib
import importlib.util
import json
import re

import pytest
from tree import ROOT

from modnb.runs import Grid
from modnb.runs.params import specs

READERS = ("summary", "remedies") # of the gating study: they read runs, and have none of their own
NOTEBOOKS = sorted(p for p in (ROOT / "nbs" / "experiments").glob("*/*.ipynb") if p.stem not in READERS) # beside the studies: the summary of a grid
GRIDS = sorted((ROOT / "nbs" / "grids").rglob("*.yaml"))


def module(path):
    return importlib.import_module(f"modnb.experiments.{path.parent.name}.{path.stem}")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_parameters_cell_holds_the_defaults(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    (cell,) = [c for c in cells if "parameters" in c["metadata"].get("tags", [])]
    given = {s.target.id: ast.literal_eval(s.value) for s in ast.parse("".join(cell["source"])).body}
    assert given.pop("PRESET") is None
    Params = module(path).Params
    assert list(given) == list(Params().to_dict()) and Params(**given) == Params()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_papermill_shows_types_and_help(path):
    from papermill import inspect_notebook

    shown = inspect_notebook(path)
    fields = specs(module(path).Params)
    assert list(shown) == ["PRESET", *fields]
    for name, field in fields.items():
        kind = (field.kind or type(field.choices[0])).__name__
        assert shown[name]["inferred_type_name"] == (f"list[{kind}]" if field.many else kind)
        assert shown[name]["help"] or not field.doc


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_presets_are_valid(path):
    Params = module(path).Params
    made = {name: Params.make(preset=name) for name in ("quick", "paper")}
    assert made["quick"] != made["paper"] != Params()


@pytest.fixture(scope="module")
def results():
    "What writes the committed results."
    spec = importlib.util.spec_from_file_location("results", ROOT / ".ci" / "results.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def said(text):
    "A sentence without its numbers, and these: rows are kept to five digits, so a last digit may differ."
    return NUMBER.sub("#", text), [float(n) for n in NUMBER.findall(text)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_saved_outputs_are_those_of_the_committed_rows(results, path):
    "Of `quick` or `paper`, of the parameters and the version that the code has now, and with the verdict that the rows give."
    import pandas as pd

    saved = results.saved_run(path)
    assert saved and saved[-1] in ("quick", "paper") and saved == results.wanted_run(path, saved[-1]), "run `make results`"
    frame, code = pd.read_csv(results.rows_path(path, saved[-1])), module(path)
    params = code.Params.make(preset=saved[-1])
    if path.stem == "rules": # the rows are those of a grid
        cell = frame[(frame.arch == params.arch) & (frame.task == params.task) & (frame.rules == params.rules)]
        assert set(cell.data_seed) == set(range(params.data_seeds))
        return
    assert set(frame.seed) == set(range(params.seed, params.seed + getattr(params, "tables", params.seeds)))
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    shown = ["".join(o["data"]["text/markdown"]) for c in cells for o in c.get("outputs", []) if "text/markdown" in o.get("data", {})]
    words, numbers = said(code.verdict(frame))
    (same,) = [found for text in shown if words in (found := said(text))[0]]
    assert numbers == pytest.approx(same[1][:len(numbers)], abs=0.011, rel=0.02)


def test_saved_verdict_of_the_gating_study_is_that_of_the_committed_rows():
    "Of the summary of all cells: pooled, after correction, and for each number of rules."
    import pandas as pd
    from modnb.experiments.gating import rules

    folder = ROOT / "nbs" / "results" / "gating"
    frame = pd.concat([pd.read_csv(folder / f"rules-{name}quick.csv") for name in ("", "mha-", "rnn-")])
    cells = json.loads((ROOT / "nbs" / "experiments" / "gating" / "summary.ipynb").read_text(encoding="utf-8"))["cells"]
    saved = next("".join(c["outputs"][0]["data"]["text/markdown"]) for c in cells if "verdicts(frame" in "".join(c["source"]))
    words, numbers = said("\n".join(f"* {text}" for text in rules.verdicts(frame)))
    assert "1 contradicted (collapse_worst: modular-op below modular, 4 rules)" in saved
    assert words == said(saved)[0] and numbers == pytest.approx(said(saved)[1], abs=0.002)


def test_outputs_are_taken_only_from_the_same_cells(results, tmp_path):
    def written(name, *cells):
        path = tmp_path / name
        path.write_text(json.dumps({"cells": [{"cell_type": "code", "metadata": {"tags": tags}, "source": source, "outputs": outputs} for source, outputs, tags in cells]}))
        return path

    source = written("source.ipynb", ("seed = 0", [], ["parameters"]), ("print(seed)", ["old"], []))
    results.take_outputs(source, written("done.ipynb", ("seed = 0", [], ["parameters"]), ("seed = 1", [], ["injected-parameters"]), ("print(seed)", ["new"], [])))
    assert [c["outputs"] for c in json.loads(source.read_text())["cells"]] == [[], ["new"]]
    with pytest.raises(SystemExit, match="source.ipynb: the executed notebook has other cells"):
        results.take_outputs(source, written("other.ipynb", ("seed = 0", [], ["parameters"]), ("print(-seed)", ["new"], [])))


@pytest.mark.parametrize("path", GRIDS, ids=lambda p: p.stem)
def test_grid_is_valid(path):
    grid = Grid.from_yaml(path)
    assert grid.experiment.module == f"modnb.experiments.{path.parent.name}.{grid.experiment.name}"
    assert len(grid) > 1 and not grid.merged and grid.varied


def test_paper_sweeps_of_the_add_mul_study():
    "Settings of the reference's sweeps."
    runs = {p.stem: [r.params for r in Grid.from_yaml(p).runs] for p in GRIDS if p.stem.startswith("add_mul")}
    assert {name: len(r) for name, r in runs.items()} == {"add_mul_quick": 3, "add_mul_sizes": 40, "add_mul_lstm": 10, "add_mul_sensitivity": 500}
    for p in runs["add_mul_sizes"] + runs["add_mul_lstm"]:
        assert (p.digits, p.train_steps, p.mask_steps, p.batch_size, p.lr, p.mask_lr, p.mask_init, p.beta, p.samples) == (2, 20_000, 20_000, 128, 1e-3, 1e-2, 2.0, 1e-4, 4)
    assert (runs["add_mul_lstm"][0].hidden_size, runs["add_mul_lstm"][0].n_layers) == (256, 2)


@pytest.mark.parametrize("file, weights", [("add_mul-lstm-paper.csv", 834_560), ("add_mul-ff800-paper.csv", 1_969_600), ("add_mul-ff400-paper.csv", 260_800)])
def test_committed_results_are_what_they_say(file, weights):
    "The rows behind the README's tables: of that network, complete, at the paper's length."
    import pandas as pd
    from modnb.experiments.masks import add_mul

    frame = pd.read_csv(ROOT / "nbs" / "results" / "masks" / file)
    accuracy = add_mul.part(frame, "accuracy")
    assert set(accuracy["mask"]) == {"full", "all", "add", "mul", "not all", "not add", "not mul"} and accuracy.value.between(0, 1).all()
    assert add_mul.part(frame, "kept", "total").query("function == 'add'").groupby("seed").value.sum().eq(weights).all()
    assert add_mul.part(frame, "training").step.max() == add_mul.part(frame, "mask training").step.max() == 20_000
    assert len(add_mul.claims(frame)) == 8 and "IoU" in add_mul.verdict(frame)


def test_paper_sweeps_of_the_permuted_mnist_study():
    "Settings of the reference's three sweeps, and the number of masked weights and biases."
    from modnb.experiments.masks import permuted_mnist
    from modnb.models.feedforward import FeedForward

    runs = [r.params for r in Grid.from_yaml(ROOT / "nbs" / "grids" / "masks" / "permuted_mnist.yaml").runs]
    assert sorted(p.mask_new_init for p in runs) == sorted([(2.0,), (0.0,), (-1.0,)] * 10) and all(p.seeds == 1 and p.reset_first_layer for p in runs)
    for p in runs:
        assert (p.tasks, p.steps, p.batch_size, p.lr, p.mask_init, p.mask_used_init, p.beta, p.samples) == (11, 30_000, 128, 1e-2, 2.0, 2.0, 1.28e-3, 8)
    assert sum(w.numel() for w in FeedForward(784, runs[0].layer_sizes, 10, seed=0).parameters()) == 1_320_714
    assert permuted_mnist.SWEEP["name"]["transfer_sharing"] == {"mask_new_init": (2.0,)}


def of_grid(name):
    return [r.params for r in Grid.from_yaml(ROOT / "nbs" / "grids" / "masks" / f"{name}.yaml").runs]


def test_paper_sweeps_of_the_scan_study():
    "Settings of the reference's sweeps; the price that a network's None stands for."
    runs = {name: of_grid(name) for name in ("scan", "trafo_scan", "scan_baseline")}
    assert {name: len(r) for name, r in runs.items()} == {"scan": 10, "trafo_scan": 10, "scan_baseline": 60}
    for p in sum(runs.values(), []):
        assert (p.train_steps, p.mask_steps, p.batch_size, p.mask_batch_size, p.lr, p.mask_lr, p.teacher_forcing, p.max_actions, p.length_cut) == (25_000, 25_000, 256, 256, 1e-3, 1e-2, 0.5, None, 22)
        assert (p.hidden_size, p.embedding_size, p.width, p.heads, p.ff, p.layers, p.beta, p.seeds) == (200, 16, 100, 4, 200, 3, None, 1)
    assert {(p.net, p.train_split) for p in runs["scan_baseline"]} == {(n, s) for n in ("lstm", "transformer") for s in ("jump", "length", "turn_left")}
    assert not any(p.masks or p.baselines for p in runs["scan_baseline"]) and all(p.masks for p in runs["scan"])


def test_paper_sweeps_of_the_class_studies():
    "Settings of the reference's sweeps of CIFAR-10."
    cnn, resnet, stability = (of_grid(name) for name in ("class_removal", "class_removal_resnet", "mask_stability"))
    assert len(cnn) == 20 and {p.dropout for p in cnn} == {True, False} and len(resnet) == 10
    for p in cnn + stability:
        assert (p.data, p.channels, p.train_steps, p.mask_steps, p.batch_size, p.lr, p.mask_lr, p.beta, p.samples) == ("cifar10", (32, 64, 128, 256), 20_000, 20_000, 128, 1e-3, 1e-3, 3e-4, 4)
    assert all(p.keep_last_layer for p in cnn + stability + resnet) and {p.compare for p in stability} >= {("both",)} and {p.pairs for p in stability} == {10}
    for p in resnet:
        assert (p.depth, p.train_steps, p.lr_drops, p.lr, p.weight_decay, p.mask_steps, p.mask_batch_size) == (110, 64_000, (32_000, 48_000), 0.1, 1e-4, 30_000, 256)
        assert (p.mask_lr, p.beta, p.beta_batch, p.train_split, p.test_split, p.augment, p.sgd) == (3e-2, 2e-5, 128, "full", "test", True, True)
