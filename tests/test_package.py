"""A wheel, installed elsewhere, runs an experiment; plain papermill runs its notebook; bad input is refused by name."""
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "nbs" / "experiments" / "masks" / "add_mul.ipynb"


def shell(*words, cwd, env=None):
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "MODNB_RUNS")} | (env or {})
    return subprocess.run([sys.executable, *map(str, words)], cwd=cwd, env=env, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    files = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    for name in files:
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    done = shell("-m", "build", "--no-isolation", "--outdir", folder, cwd=source)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert len(list(folder.glob("*.tar.gz"))) == 1
    return next(folder.glob("*.whl"))


def test_wheel_is_complete_and_light(wheel):
    "It was built from the source distribution, so that is complete too."
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        about = next(archive.read(n).decode() for n in names if n.endswith("METADATA"))
    for name in ("modnb/experiments/masks/add_mul.py", "modnb/experiments/masks/add_mul.ipynb", "modnb/grids/masks/add_mul_quick.yaml", "modnb/py.typed"):
        assert name in names
    assert any(n.endswith("licenses/LICENSE") for n in names)
    plain = [line for line in about.splitlines() if line.startswith("Requires-Dist") and "extra ==" not in line]
    assert plain and not [line for line in plain for heavy in ("nbdev", "jupyter", "papermill", "ipykernel", "ipywidgets", "fastcore") if heavy in line]


def test_installed_wheel_runs_an_experiment(wheel, tmp_path):
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = shell("-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", site, wheel, cwd=elsewhere)
    assert done.returncode == 0, done.stderr
    env = {"PYTHONPATH": str(site)}
    where = shell("-c", "import modnb; print(modnb.__file__)", cwd=elsewhere, env=env)
    assert str(site) in where.stdout
    done = shell("-m", "modnb.runs.cli", "run", "add_mul", "seed=3", cwd=elsewhere, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not add" in done.stdout and len(list((elsewhere / "runs" / "add_mul").glob("*/result.parquet"))) == 1
    table = shell("-m", "modnb.runs.cli", "table", "--format", "csv", cwd=elsewhere, env=env)
    assert table.returncode == 0 and "accuracy" in table.stdout


def papermill(out, *words):
    return shell("-m", "papermill", NOTEBOOK, out, "--no-progress-bar", *words, cwd=out.parent, env={"MPLBACKEND": "agg"})


def test_plain_papermill(tmp_path):
    out = tmp_path / "out.ipynb"
    done = papermill(out, "-p", "seed", 3, "-p", "layer_sizes", "[24,16]")
    assert done.returncode == 0, done.stderr[-3000:]
    text = out.read_text()
    assert text.count("image/png") >= 6 and "layers.2.weight" in text and len(list((tmp_path / "runs" / "add_mul").iterdir())) == 1


@pytest.mark.parametrize("name, value, message", [("layer_sizes", "[24,x]", "layer_sizes: "), ("PRESET", "quik", "did you mean 'quick'"), ("net", "lstn", "did you mean 'lstm'")])
def test_papermill_with_bad_values(tmp_path, name, value, message):
    done = papermill(tmp_path / "out.ipynb", "-p", name, value)
    assert done.returncode != 0 and message in done.stderr, done.stderr[-2000:]


@pytest.mark.parametrize("words, message", [
    (["run", "add_mul", "sede=3"], "did you mean 'seed'"), (["run", "add_mul", "preset=quik"], "did you mean 'quick'"), (["run", "ad_mul"], "did you mean 'add_mul'"),
    (["run", "add_mul", "layer_sizes=big"], "layer_sizes: "), (["run", "add_mul", "samples=3"], "samples: 3"), (["report", "add_mul", "sede=3"], "did you mean 'seed'")])
def test_bad_command_lines(tmp_path, words, message):
    "One clear line, exit code 2, nothing computed."
    done = shell("-m", "modnb.runs.cli", *words, cwd=tmp_path)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert not list(tmp_path.rglob("result.parquet"))
