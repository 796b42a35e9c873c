"""The repository itself: what is committed is what the notebooks say, notebooks are tidy, imports are light."""
import json
import re
import sys
from pathlib import Path

import pytest
import yaml
from nbdev.config import get_config
from tree import ROOT, copy_to, python, run, tracked

BIN = Path(sys.executable).parent
FILES = tracked()
NOTEBOOKS = [p for p in FILES if p.suffix == ".ipynb"]
NAMES = [p.relative_to(ROOT).as_posix() for p in NOTEBOOKS]


def cells(path, kind=None):
    return [c for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if kind in (None, c["cell_type"])]


def source(cell):
    return "".join(cell["source"])


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    return copy_to(tmp_path_factory.mktemp("copy") / "modnb")


@pytest.fixture
def changes(copy):
    "A function that tells which files of the copy differ from the working tree; the copy is mended afterwards."
    ours = {p.relative_to(ROOT): p.read_bytes() for p in FILES}

    def compare():
        there = {p.relative_to(copy): p.read_bytes() for p in copy.rglob("*") if p.is_file()}
        return sorted(str(name) for name in {*ours, *there} if ours.get(name) != there.get(name))

    yield compare
    for name in compare():
        if Path(name) in ours:
            (copy / name).write_bytes(ours[Path(name)])
        else:
            (copy / name).unlink()


def test_package_is_what_the_notebooks_export(copy, changes):
    "Also the other way round: no module without a notebook."
    for module in (copy / "modnb").rglob("*.py"):
        module.unlink()
    assert len(changes()) > 15
    done = run(BIN / "nbdev_export", cwd=copy)
    assert done.returncode == 0, done.stderr
    assert not changes(), "these differ from what nbdev_export makes; run `make export`"


def test_cleaning_changes_nothing_and_keeps_the_tag(copy, changes):
    experiments = sorted((copy / "nbs" / "experiments").rglob("*.ipynb"))
    assert experiments
    done = run(BIN / "nbdev_clean", cwd=copy)
    assert done.returncode == 0, done.stderr
    assert {p.name: sum("parameters" in c["metadata"].get("tags", []) for c in cells(p)) for p in experiments} == {p.name: 1 for p in experiments}
    assert not changes(), "these are not clean; run `make clean-notebooks`"


def test_parameters_cells_are_what_the_experiments_say(copy, changes):
    done = python(".ci/parameters.py", cwd=copy)
    assert done.returncode == 0, done.stderr
    assert not changes(), "the cells tagged `parameters` differ from the defaults; run `make export`"


def test_readme_is_what_the_index_says(copy, changes):
    (copy / "README.md").unlink()
    (copy / "CHANGELOG.md").unlink()
    done = python(".ci/readme.py", cwd=copy)
    assert done.returncode == 0, done.stderr
    assert not changes(), "these differ from what nbs/index.ipynb says; run `make export`"


def test_citation_and_changes_are_of_this_version():
    version = get_config(path=ROOT).version
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == version
    assert f"\n## {version}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_links_of_the_readme_lead_somewhere():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"""\]\(([^)\s]+)|(?:src|href)=["']([^"']+)""", re.sub(r"^(`{3,}).*?^\1$", "", text, flags=re.M | re.S))
    files = [a or b for a, b in links if not re.match("[a-z]+:|#", a or b)]
    assert files and not [f for f in files if ROOT / f.partition("#")[0] not in FILES]


PATH = re.compile(r"(?<![\w./:])/(?:home|root|tmp|work|Users|mnt|opt|usr)/[\w.]|\b[A-Z]:\\+(?:Users|home|Temp)")


def words(value):
    "Every text of a notebook's cell, but not its images."
    if isinstance(value, dict):
        return [w for k, v in value.items() if not k.startswith("image/") for w in words(v)]
    if isinstance(value, list):
        joined = ["".join(value)] if all(isinstance(v, str) for v in value) else []
        return joined or [w for v in value for w in words(v)]
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_notebook_is_tidy(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    code = [c for c in notebook["cells"] if c["cell_type"] == "code"]
    assert set(notebook["metadata"]) <= {"kernelspec"}
    found = [(m[0], w[max(0, m.start() - 40):m.end() + 40]) for w in words(notebook["cells"]) for m in PATH.finditer(w)]
    assert not found, f"absolute paths: {found}"
    outputs = sum(len(json.dumps(c["outputs"])) for c in code)
    assert outputs <= 300_000, f"{outputs:,} bytes of output"
    assert not [source(c) for c in code for o in c["outputs"] if o["output_type"] == "error"]
    for lines in ([x for x in source(c).splitlines() if x.strip() and not x.startswith("#|")] for c in code if re.match(r"\s*#\s*\|\s*export", source(c))):
        assert len(lines) <= 60, f"an exported cell of {len(lines)} lines: {lines[0]}"


def draws(cell):
    "Whether a cell ends by drawing a figure: its last line ends in a semicolon."
    lines = source(cell).strip()
    return cell["cell_type"] == "code" and not lines.startswith("#|") and lines.endswith(";") and bool(re.search("plot", lines))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_figures_are_saved(path):
    "Executed with MPLBACKEND=Agg, a notebook silently loses its figures."
    cells = [c for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if draws(c)]
    lost = [c["id"] for c in cells if not any("image/png" in o.get("data", {}) for o in c["outputs"])]
    assert not lost, f"cells without their figure: {lost}"


def test_nothing_names_a_registry_or_a_machine():
    "No registry hosts and no paths of a machine in what is committed."
    pattern = re.compile(r"pypi\.org|pythonhosted\.org|download\.pytorch\.org|(?<![\w.])/(?:work|root)/\w")
    texts = {p: p.read_text(encoding="utf-8", errors="ignore") for p in FILES if p != Path(__file__) and p.suffix not in (".png", ".ipynb")}
    texts |= {p: "\n".join(words(json.loads(p.read_text(encoding="utf-8")))) for p in NOTEBOOKS}
    assert not [f"{p.relative_to(ROOT)}: {m[0]}" for p, text in texts.items() if (m := pattern.search(text))]


def test_top_level_is_what_it_was_meant_to_be():
    "PKG-INFO and setup.cfg are what a source distribution adds."
    top = {p.relative_to(ROOT).parts[0] for p in FILES}
    assert {t for t in top if not t.startswith(".")} - {"PKG-INFO", "setup.cfg"} == {"nbs", "modnb", "tests", "settings.ini", "setup.py", "README.md", "CHANGELOG.md", "CITATION.cff", "Makefile", "LICENSE"}


def test_masks_import_is_light():
    "What `import modnb.masks` may add to `import torch`: none of the modules that take time."
    heavy = "pandas matplotlib seaborn IPython papermill nbformat pyarrow scipy sklearn safetensors tqdm tensorboard sympy networkx torch._dynamo torch._inductor"
    code = f"""
import sys, torch
before = set(sys.modules)
import modnb.masks
new = set(sys.modules) - before
assert "modnb.masks.learning" in new
print(sorted(m for m in new if m.startswith("jupyter") or any(f"{{m}}.".startswith(f"{{h}}.") for h in {heavy.split()})))
"""
    done = python("-c", code)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_library_needs_no_jupyter():
    "Every module but the widgets imports where there is neither Jupyter nor anything that only some functions need; only figures need Matplotlib."
    code = """
import importlib, pkgutil, sys
blocked = set("IPython ipykernel ipywidgets traitlets jupyterlab jupyter_client jupyter_core nbformat nbclient nbconvert papermill nbdev fastcore execnb "
              "tqdm safetensors scipy sklearn tensorboard dask distributed matplotlib seaborn".split())
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked: raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Block())
import modnb
names = [m.name for m in pkgutil.walk_packages(modnb.__path__, "modnb.", onerror=lambda name: None) if m.name not in ("modnb.view.widgets", "modnb._modidx")]
names.sort(key=lambda name: name.startswith(("modnb.view", "modnb.experiments")))
for name in names:
    if name.startswith(("modnb.view", "modnb.experiments")): blocked -= {"matplotlib", "seaborn"}
    importlib.import_module(name)
print(len(names))
"""
    done = python("-c", code)
    assert done.returncode == 0 and int(done.stdout) > 15, done.stdout + done.stderr[-3000:]


def test_report_without_jupyter_says_what_to_install():
    code = """
import sys
sys.modules["papermill"] = None
from modnb.runs.report import report
try: report("add_mul")
except ImportError as error: print(error)
"""
    done = python("-c", code)
    assert "modnb[report]" in done.stdout, done.stdout + done.stderr[-3000:]


def test_lint():
    done = python("-m", "ruff", "check", "--no-cache", "--config", "tests/ruff.toml", "nbs", "tests", "setup.py", ".ci")
    assert done.returncode == 0, done.stdout + done.stderr
