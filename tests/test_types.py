"""What a user writes passes `mypy --strict`: the code of the README and of the tutorials, and the types that they rely on."""
import json
import re
import textwrap

import pytest
from tree import ROOT, python

TUTORIALS = sorted((ROOT / "nbs" / "tutorials").glob("*.ipynb"))

RIGHT = """
    from pathlib import Path
    from typing import assert_type

    import pandas as pd
    import torch
    from matplotlib.axes import Axes
    from torch import nn

    from modnb.masks import Found, Masks, ablate, learn_masks, masked
    from modnb.metrics.sharing import overlap, remaining, sharing
    from modnb.metrics.statistics import summarize
    from modnb.runs import Grid, Runs, run
    from modnb.training import EnsembleFit, Fit, fit, fit_ensemble

    net = nn.Linear(2, 2)
    data = {"a": [(torch.ones(4, 2), torch.zeros(4, 2))]}
    loss = nn.functional.mse_loss
    found = learn_masks(net, data, loss, steps=3, clip=None, checkpoint=Path("file"))
    assert_type(found, Found)
    assert_type(learn_masks(nn.Sequential(net), data, loss), Found)
    assert_type(learn_masks([net, net], data, loss), list[Found])
    assert_type(learn_masks([net, net], [data, data], loss, seed=[3, 4]), list[Found])
    assert_type(found.history, pd.DataFrame)
    a, b = found.masks["a"], Masks.random_like(found.masks["a"], seed=1)
    assert_type((a & b) | (a ^ b) - ~a, Masks)
    assert_type(a == b, bool)
    assert_type(a.select("weight").to("cpu")["weight"], torch.Tensor)
    assert_type((a.kept, a.total, a.density), tuple[int, int, float])
    assert_type(a.to_frame(), pd.DataFrame)
    assert_type(a.plot(color="red"), Axes)
    a.save("file")
    assert_type(Masks.load(Path("file"), net), Masks)
    assert_type(masked(net, a).eval().train(), masked)
    assert_type(ablate(net, found.masks, lambda f: {"x": float(f(torch.ones(1, 2)).sum())}), pd.DataFrame)
    assert_type(overlap(a, b), pd.DataFrame)
    assert_type(sharing({"a": a, "b": b}), pd.DataFrame)
    assert_type(remaining({"a": a}, b), pd.DataFrame)
    assert_type(summarize(overlap(a, b), "layer", "iou"), pd.DataFrame)
    trained = fit(net, data["a"], loss, 3)
    assert_type(trained, Fit)
    assert_type(trained.history, pd.DataFrame)
    assert_type(trained.plot(metrics=["train_loss"]), Axes)
    several = fit_ensemble([net, net], data["a"], loss, 3)
    assert_type(several, EnsembleFit)
    assert_type(several[0], Fit)
    assert_type(several.to_frame(), pd.DataFrame)
    assert_type(several.plot(metric="train_loss"), Axes)
    grid = Grid("add_mul", seed=range(2)).run(workers=1)
    assert_type(grid, Grid)
    assert_type(grid.status(), pd.DataFrame)
    assert_type(grid.to_frame(), pd.DataFrame)
    assert_type(Runs().to_frame("add_mul"), pd.DataFrame)
    assert_type(run("add_mul", seed=1).frame, pd.DataFrame)
"""

WRONG = """
    from torch import nn

    from modnb.masks import learn_masks, masked
    from modnb.metrics.sharing import overlap
    from modnb.runs import Grid

    net, loss, data = nn.Linear(2, 2), nn.functional.mse_loss, {"a": [1]}
    found = learn_masks(net, data, loss)
    learn_masks(net, data, loss, stpes=3) # no such option
    learn_masks(net, data, loss, steps="3") # not a number
    learn_masks([net], data, loss).masks # a list
    found[0] # no list
    found.masks["a"] & 3 # no mask
    found.masks["a"].kept() # a number
    masked(net, found.masks["a"]).evaluate() # no such method
    overlap(found.masks["a"], found.masks["a"]).upper() # a frame
    Grid("add_mul").run(worker=2) # no such option
    Grid("add_mul").state() # no such method
"""


def plain(source):
    "The Python of a cell: without what only IPython understands."
    if source.startswith("%%"):
        return ""
    return re.sub(r"^(\s*)[%!].*$", r"\1pass", source, flags=re.M)


def code_of(notebook):
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join(plain("".join(c["source"])) for c in cells if c["cell_type"] == "code")


@pytest.fixture(scope="module")
def scripts():
    "Name -> script."
    readme = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.M | re.S)
    tutorials = {f"tutorials/{re.sub(r'^[0-9]+_', '', t.stem)}": code_of(t) for t in TUTORIALS}
    return {"readme": "\n\n".join(readme), "right": textwrap.dedent(RIGHT), "wrong": textwrap.dedent(WRONG), "tutorials/__init__": "", **tutorials}


@pytest.fixture(scope="module")
def found(scripts, tmp_path_factory):
    "Name of a script -> lines of mypy about it, from one run; what it has read is kept for the next run."
    folder = tmp_path_factory.mktemp("scripts")
    (folder / "tutorials").mkdir()
    for name, text in scripts.items():
        (folder / f"{name}.py").write_text(text + "\n", encoding="utf-8")
    words = ("-m", "mypy", "--config-file", ROOT / "tests" / "mypy.ini", "--cache-dir", ROOT / ".mypy_cache", "--no-error-summary")
    done = python(*words, *(f"{name}.py" for name in scripts), cwd=folder, timeout=500)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if ": error:" in line]
    return {name: [line for line in lines if line.startswith(f"{name}.py:")] for name in scripts} | {"": lines}


@pytest.mark.parametrize("name", ["readme", "right", *(f"tutorials/{re.sub(r'^[0-9]+_', '', t.stem)}" for t in TUTORIALS)])
def test_script_passes(scripts, found, name):
    assert scripts[name].count("\n") > 5 and not found[name], "\n".join(found[name])


def test_mistakes_are_found(scripts, found):
    "Each line with a comment, and no other: the types are not simply `Any`."
    lines = scripts["wrong"].splitlines()
    assert {int(line.split(":")[1]) for line in found["wrong"]} == {i for i, line in enumerate(lines, 1) if " # " in line}


def test_nothing_else_is_reported(scripts, found):
    assert len(found[""]) == sum(len(found[name]) for name in scripts)
