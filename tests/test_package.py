"""A wheel, installed elsewhere, runs an experiment; plain papermill runs its notebook; bad input is refused by name."""
import zipfile

import pytest
from tree import ROOT, copy_to, python

from modnb.runs.kernels import WarmKernel, execute_on

NOTEBOOK = ROOT / "nbs" / "experiments" / "masks" / "add_mul.ipynb"
SMALL = ("train_steps=20", "mask_steps=20")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    done = python("-m", "build", "--no-isolation", "--outdir", folder, cwd=copy_to(folder / "source"))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert len(list(folder.glob("*.tar.gz"))) == 1
    return next(folder.glob("*.whl"))


# tests of one group run in one process: the wheel is built once
@pytest.mark.xdist_group("wheel")
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
    assert {f"modnb/{p.relative_to(ROOT / 'modnb').as_posix()}" for p in (ROOT / "modnb" / "runs" / "assets").rglob("*.*")} <= set(names), "styles and font of pages"
    plain = [line for line in about.splitlines() if line.startswith("Requires-Dist") and "extra ==" not in line]
    assert plain and not [line for line in plain for heavy in ("nbdev", "jupyter", "papermill", "ipykernel", "ipywidgets", "fastcore") if heavy in line]


@pytest.mark.xdist_group("wheel")
def test_installed_wheel_runs_an_experiment(wheel, tmp_path):
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    words = ("-q", "--no-deps", "--no-index", "--no-compile", "--target", site)
    done = python("-m", "pip", "install", *words, wheel, cwd=elsewhere)
    assert done.returncode == 0, done.stderr
    words = ("run", "add_mul", "preset=smoke", "seed=3", *SMALL)
    done = python("-m", "modnb.runs.cli", *words, cwd=elsewhere, PYTHONPATH=str(site))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not add" in done.stdout and len(list((elsewhere / "runs" / "add_mul").glob("*/result.parquet"))) == 1
    code = "import modnb; print(modnb.__file__); from modnb.runs.cli import main; main(['table', '--format', 'csv'])"
    table = python("-c", code, cwd=elsewhere, PYTHONPATH=str(site))
    assert table.returncode == 0 and "accuracy" in table.stdout, table.stdout + table.stderr
    assert str(site) in table.stdout


def papermill(out, *words, tries=3):
    "Jupyter closes the ports that it chose before its kernel opens them; another process may take one in between."
    done = python("-m", "papermill", NOTEBOOK, out, "--no-progress-bar", *words, cwd=out.parent)
    taken = done.returncode and "Address already in use" in done.stdout + done.stderr
    return papermill(out, *words, tries=tries - 1) if taken and tries > 1 else done


def test_plain_papermill(tmp_path):
    out = tmp_path / "out.ipynb"
    small = [word for pair in SMALL for word in ("-p", *pair.split("="))]
    done = papermill(out, "-p", "seed", 3, "-p", "layer_sizes", "[24,16]", *small)
    assert done.returncode == 0, done.stderr[-3000:]
    text = out.read_text()
    assert text.count("image/png") >= 6 and "layers.2.weight" in text and len(list((tmp_path / "runs" / "add_mul").iterdir())) == 1


@pytest.fixture(scope="module")
def kernel():
    with WarmKernel() as kernel:
        yield kernel


@pytest.mark.xdist_group("papermill")
@pytest.mark.parametrize("name, value, message", [
    ("layer_sizes", "[24,x]", "layer_sizes: "),
    ("PRESET", "quik", "did you mean 'quick'"),
    ("net", "lstn", "did you mean 'lstm'"),
    ("sede", 3, "did you mean 'seed'"),
])
def test_papermill_with_bad_values(kernel, tmp_path, monkeypatch, name, value, message):
    "papermill as in its command, on one kernel for all."
    from papermill import PapermillExecutionError

    monkeypatch.chdir(tmp_path)
    with pytest.raises(PapermillExecutionError) as error:
        execute_on(kernel, NOTEBOOK, tmp_path / "out.ipynb", {name: value})
    assert message in str(error.value)
    assert not list(tmp_path.rglob("result.parquet"))


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
