"""The repository itself: what is committed is what the notebooks say, notebooks are tidy, imports are light."""
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent


def tracked(pattern="*"):
    "Files of the working tree that git knows or would add."
    out = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "--", pattern], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [ROOT / name for name in out.splitlines() if (ROOT / name).is_file()]


def cells(path, kind=None):
    return [c for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if kind in (None, c["cell_type"])]


def source(cell):
    return "".join(cell["source"])


def python(code, **options):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, **options)


NOTEBOOKS = tracked("*.ipynb")
EXPERIMENTS = [p for p in NOTEBOOKS if "experiments" in p.relative_to(ROOT).parts]


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    "The working tree as a commit of its own."
    place = tmp_path_factory.mktemp("copy") / "modnb"
    for path in tracked():
        target = place / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@t.example", "-c", "commit.gpgsign=false"]
    for words in (["init", "-q"], ["add", "-A", "-f"], ["commit", "-qm", "as it is"]):
        subprocess.run([*git, *words], cwd=place, check=True)
    return place


def changed(place):
    out = subprocess.run(["git", "status", "--porcelain"], cwd=place, check=True, capture_output=True, text=True).stdout
    diff = subprocess.run(["git", "diff"], cwd=place, check=True, capture_output=True, text=True).stdout
    subprocess.run("git checkout -q . && git clean -qfd", cwd=place, check=True, shell=True)
    return out and f"{out}\n{diff[:3000]}"


def test_package_is_what_the_notebooks_export(copy):
    subprocess.run([BIN / "nbdev_export"], cwd=copy, check=True)
    assert not changed(copy)


def test_cleaning_changes_nothing_and_keeps_the_tag(copy):
    tags = lambda: {p.name: sum("parameters" in c["metadata"].get("tags", []) for c in cells(p)) for p in sorted((copy / "nbs" / "experiments").rglob("*.ipynb"))}
    before = tags()
    subprocess.run([BIN / "nbdev_clean"], cwd=copy, check=True)
    assert tags() == before and set(before.values()) == {1}
    assert not changed(copy)


def test_readme_is_what_the_index_says(copy):
    subprocess.run([sys.executable, ".ci/readme.py"], cwd=copy, check=True)
    assert not changed(copy)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: str(p.relative_to(ROOT)))
def test_notebook_is_tidy(path):
    text = path.read_text(encoding="utf-8")
    found = re.search(r"(?<![\w./:])/(?:home|root|tmp|work|Users|mnt|opt|usr)/[\w.]+|[A-Z]:\\\\+\w", text)
    assert not found, f"an absolute path: {found[0]}"
    outputs = sum(len(json.dumps(c.get("outputs", []))) for c in cells(path, "code"))
    assert outputs <= 300_000, f"{outputs:,} bytes of output"
    assert not [o for c in cells(path, "code") for o in c.get("outputs", []) if o["output_type"] == "error"]
    for cell in cells(path, "code"):
        lines = [line for line in source(cell).splitlines() if line.strip() and not line.startswith("#|")]
        assert not source(cell).startswith("#| export") or len(lines) <= 60, f"an exported cell of {len(lines)} lines: {lines[0]}"


def test_nothing_names_this_or_any_machine():
    "No registry hosts and no paths of a machine in what is committed."
    pattern = re.compile(r"pypi\.org|files\.pythonhosted|download\.pytorch\.org|(?<![\w.])/(?:work|root)/\w")
    bad = [f"{p.relative_to(ROOT)}: {m[0]}" for p in tracked() if p != Path(__file__) and p.suffix not in (".png", ".parquet") and (m := pattern.search(p.read_text(encoding="utf-8", errors="ignore")))]
    assert not bad, bad


def test_masks_import_is_light():
    "What `import modnb.masks` may add to `import torch`: none of the modules that take time."
    heavy = "pandas matplotlib seaborn IPython papermill nbformat pyarrow scipy safetensors tqdm jupyter_client torch._dynamo torch._inductor".split()
    done = python(f"import sys, torch; before = set(sys.modules); import modnb.masks; print([m for m in {heavy} if m in sys.modules and m not in before])")
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_library_needs_no_jupyter():
    "Every module but the widgets and the report imports where there is no Jupyter; the report says what to install."
    code = """
import importlib, pkgutil, sys
blocked = ("IPython", "ipykernel", "ipywidgets", "jupyterlab", "jupyter_client", "nbformat", "nbclient", "nbconvert", "papermill", "nbdev", "fastcore", "execnb", "scipy", "sklearn", "tensorboard")
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked: raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Block())
import modnb
names = [m.name for m in pkgutil.walk_packages(modnb.__path__, "modnb.") if m.name not in ("modnb.view.widgets", "modnb._modidx")]
for name in names: importlib.import_module(name)
print(len(names))
try: importlib.import_module("modnb.runs.report").report("add_mul")
except ImportError as e: assert "modnb[report]" in str(e), e
else: raise AssertionError("no error")
"""
    done = python(code)
    assert done.returncode == 0 and int(done.stdout) > 15, done.stdout + done.stderr[-3000:]


def test_lint():
    done = subprocess.run([BIN / "ruff", "check", "--config", "tests/ruff.toml", "nbs", "tests", "setup.py", ".ci"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
