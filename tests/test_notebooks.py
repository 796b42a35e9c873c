"""Every notebook runs from top to bottom as nbdev runs it: exported code, lessons and assertions."""
import os
import random
import sys
import warnings
from pathlib import Path

import nbdev.test
import numpy as np
import pytest
import seeds
from matplotlib.figure import Figure
from nbdev.config import get_config
from nbdev.test import test_nb as run_notebook
from tree import ROOT, tracked

SKIP = get_config(path=ROOT).tst_flags.split()
NOTEBOOKS = [p for p in tracked() if p.suffix == ".ipynb" and not any(part.startswith((".", "_")) for part in p.relative_to(ROOT).parts)]
HOMES = (ROOT, sys.prefix, sys.base_prefix)  # a module from elsewhere is one that a notebook wrote; the next may call its own the same


class Shell(nbdev.test.CaptureShell):
    "Lays out every figure that a cell shows, and does not paint it: pixels and their compression took more than half of the time."

    def __init__(self, *given, **options):
        super().__init__(*given, **options | {"mpl_format": "png"})
        self.display_formatter.formatters["image/png"].for_type(Figure, lambda figure: figure.draw_without_rendering())


@pytest.fixture(autouse=True)
def as_if_alone(monkeypatch, tmp_path):
    "Notebooks share this process: give each the same state and leave nothing behind."
    import matplotlib.pyplot as plt
    import torch

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setenv("MODNB_RUNS", str(tmp_path / "runs"))
    env, modules, threads, dtype = dict(os.environ), set(sys.modules), torch.get_num_threads(), torch.get_default_dtype()
    random.seed(seeds.BASE)
    np.random.seed(seeds.BASE)
    torch.manual_seed(0) # moved by the base seed, as every seed of a cell is
    monkeypatch.setattr(nbdev.test, "CaptureShell", Shell)
    with warnings.catch_warnings(), plt.rc_context(), torch.enable_grad():
        yield
        plt.close("all")
    for name in set(sys.modules) - modules:
        if (file := getattr(sys.modules[name], "__file__", None)) and not any(Path(file).is_relative_to(home) for home in HOMES):
            del sys.modules[name]
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)
    os.environ.clear()
    os.environ.update(env)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.relative_to(ROOT / "nbs").as_posix())
def test_runs(path, capfd):
    ok, _ = run_notebook(path, skip_flags=SKIP, basepath=ROOT)
    assert ok, capfd.readouterr().err[-4000:]
