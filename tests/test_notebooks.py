"""Every notebook runs from top to bottom as nbdev runs it: exported code, lessons and assertions."""
import os
import random
from pathlib import Path

import numpy as np
import pytest
from nbdev.config import get_config
from nbdev.test import test_nb as run_notebook

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if not any(part.startswith((".", "_")) for part in p.relative_to(ROOT).parts))


@pytest.fixture(autouse=True)
def as_if_alone(monkeypatch, tmp_path):
    "Notebooks share this process: give each the same state and leave nothing behind."
    import matplotlib.pyplot as plt
    import torch

    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("MODNB_RUNS", str(tmp_path / "runs"))
    env, threads = dict(os.environ), torch.get_num_threads()
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    yield
    plt.close("all")
    torch.set_num_threads(threads)
    os.environ.clear()
    os.environ.update(env)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: str(p.relative_to(ROOT / "nbs")))
def test_runs(path, capfd):
    ok, _ = run_notebook(path, skip_flags=get_config(path=ROOT).tst_flags.split(), basepath=ROOT)
    assert ok, capfd.readouterr().err[-4000:]
