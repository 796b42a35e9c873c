"""A wheel, installed elsewhere, runs an experiment; plain papermill runs its notebook; bad input is refused by name."""
import zipfile

import pytest
from tree import ROOT, copy_to, python

NOTEBOOK = ROOT / "nbs" / "experiments" / "masks" / "add_mul.ipynb"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    done = python("-m", "build", "--no-isolation", "--outdir", folder, cwd=copy_to(folder / "source"))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert len(list(folder.glob("*.tar.gz"))) == 1
    return next(folder.glob("*.whl"))


def test_wheel_is_complete_and_light(wheel):
    "It was built from the source distribution, so that is complete too."
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        about = next(archive.read(n).decode() for n in names if n.endswith("METADATA"))
    for kind, pattern in ("experiments", "*.ipynb"), ("explore", "*.ipynb"), ("grids", "*.yaml"):
        files = [p for p in (ROOT / "nbs" / kind).rglob(pattern) if ".ipynb_checkpoints" not in p.parts]
        assert files and not {f"modnb/{p.relative_to(ROOT / 'nbs').as_posix()}" for p in files} - set(names)
    assert {f"modnb/{p.relative_to(ROOT / 'modnb').as_posix()}" for p in (ROOT / "modnb").rglob("*.py")} | {"modnb/py.typed"} <= set(names)
    assert any(n.endswith("licenses/LICENSE") for n in names)
    plain = [line for line in about.splitlines() if line.startswith("Requires-Dist") and "extra ==" not in line]
    assert plain and not [line for line in plain for heavy in ("nbdev", "jupyter", "papermill", "ipykernel", "ipywidgets", "fastcore") if heavy in line]


def test_installed_wheel_runs_an_experiment(wheel, tmp_path):
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = python("-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", site, wheel, cwd=elsewhere)
    assert done.returncode == 0, done.stderr
    where = python("-c", "import modnb; print(modnb.__file__)", cwd=elsewhere, PYTHONPATH=str(site))
    assert str(site) in where.stdout
    done = python("-m", "modnb.runs.cli", "run", "add_mul", "preset=smoke", "seed=3", cwd=elsewhere, PYTHONPATH=str(site))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not add" in done.stdout and len(list((elsewhere / "runs" / "add_mul").glob("*/result.parquet"))) == 1
    table = python("-m", "modnb.runs.cli", "table", "--format", "csv", cwd=elsewhere, PYTHONPATH=str(site))
    assert table.returncode == 0 and "accuracy" in table.stdout, table.stdout + table.stderr


def papermill(out, *words):
    return python("-m", "papermill", NOTEBOOK, out, "--no-progress-bar", *words, cwd=out.parent)


def test_plain_papermill(tmp_path):
    out = tmp_path / "out.ipynb"
    done = papermill(out, "-p", "seed", 3, "-p", "layer_sizes", "[24,16]")
    assert done.returncode == 0, done.stderr[-3000:]
    text = out.read_text()
    assert text.count("image/png") >= 6 and "layers.2.weight" in text and len(list((tmp_path / "runs" / "add_mul").iterdir())) == 1


@pytest.mark.parametrize("name, value, message", [("layer_sizes", "[24,x]", "layer_sizes: "), ("PRESET", "quik", "did you mean 'quick'"), ("net", "lstn", "did you mean 'lstm'"), ("sede", 3, "did you mean 'seed'")])
def test_papermill_with_bad_values(tmp_path, name, value, message):
    import papermill as pm # in this process: its command was called above

    with pytest.raises(pm.PapermillExecutionError) as error:
        pm.execute_notebook(NOTEBOOK, tmp_path / "out.ipynb", {name: value}, cwd=tmp_path, progress_bar=False)
    assert message in str(error.value)


@pytest.mark.parametrize("words, message", [
    (["run", "add_mul", "sede=3"], "did you mean 'seed'"), (["run", "add_mul", "preset=quik"], "did you mean 'quick'"), (["run", "ad_mul"], "did you mean 'add_mul'"),
    (["run", "add_mul", "layer_sizes=big"], "layer_sizes: "), (["run", "add_mul", "samples=3"], "samples: 3"), (["report", "add_mul", "sede=3"], "did you mean 'seed'")])
def test_bad_command_lines(tmp_path, monkeypatch, capsys, words, message):
    "One clear line, exit code 2, nothing computed."
    from modnb.runs.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MODNB_RUNS", raising=False)
    assert main(words) == 2
    errors = capsys.readouterr().err
    assert message in errors and "Traceback" not in errors and len(errors.splitlines()) == 1, errors
    assert not list(tmp_path.rglob("result.parquet"))


def test_a_bad_command_line_in_a_process_of_its_own(tmp_path):
    done = python("-m", "modnb.runs.cli", "run", "add_mul", "sede=3", cwd=tmp_path)
    assert done.returncode == 2 and "did you mean 'seed'" in done.stderr and "Traceback" not in done.stderr, done.stderr
