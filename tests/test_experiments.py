"""What every experiment promises: the notebook's parameters are the defaults, presets and grids are valid, committed results can be read."""
import ast
import importlib
import json

import pytest
from tree import ROOT

from modnb.runs import Grid

NOTEBOOKS = sorted((ROOT / "nbs" / "experiments").glob("*/*.ipynb")) # beside the studies: the summary of a grid
GRIDS = sorted((ROOT / "nbs" / "grids").rglob("*.yaml"))


def module(path):
    return importlib.import_module(f"modnb.experiments.{path.parent.name}.{path.stem}")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_parameters_cell_holds_the_defaults(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    (cell,) = [c for c in cells if "parameters" in c["metadata"].get("tags", [])]
    given = {s.targets[0].id: ast.literal_eval(s.value) for s in ast.parse("".join(cell["source"])).body}
    assert given.pop("PRESET") is None
    Params = module(path).Params
    assert list(given) == list(Params().to_dict()) and Params(**given) == Params()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_presets_are_valid(path):
    Params = module(path).Params
    made = {name: Params.make(preset=name) for name in ("quick", "paper")}
    assert made["quick"] != made["paper"] != Params()


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
