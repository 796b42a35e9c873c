"""What a notebook cannot show of reports: hostile values, kernels that die, and a warm kernel that must be as a new one."""
import ast
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from modnb.runs import Runs, kernels, plan
from modnb.runs.kernels import WarmKernel
from modnb.runs.report import ReportError, report, summary_report

ECHO = '''
"Says what it was told."
import pandas as pd
from modnb.runs import Params as Base, Result

class Params(Base):
    seed: int = 0
    text: str = "plain"
    texts: tuple[str, ...] = ()
    sizes: tuple[int, ...] = (1,)
    presets = {"quick": dict(sizes=(2, 3))}

def run(params, log):
    if params.seed == 13:
        raise ValueError("13 is <b>unlucky</b>")
    return Result(pd.DataFrame({"metric": ["length", "seed $"], "value": [len(params.text) * sum(params.sizes), params.seed]}), extra={"text": params.text})
'''
PARAMETERS = "PRESET = None\nseed = 0\ntext = 'plain'\ntexts = []\nsizes = [1]"
HEAD = "from toys import echo\nfrom modnb.runs import from_notebook, header, plan\nthis = plan(echo, params=from_notebook(echo.Params, globals()), preset=PRESET)\nheader(this)"
SAY = "import json\nthis.compute(progress=False)\nprint(json.dumps([this.result.extra['text'], this.params.texts]))"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    "A folder with a toy experiment, `toys.echo`, that this process and its kernels can import."
    here = tmp_path_factory.mktemp("reports")
    (here / "toys").mkdir()
    (here / "toys" / "__init__.py").write_text("")
    (here / "toys" / "echo.py").write_text(ECHO)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(here))
        patch.chdir(here)
        patch.setenv("PYTHONPATH", str(here))
        patch.setenv("MPLBACKEND", "Agg") # as the test suite does; a kernel must not inherit it
        patch.delenv("MODNB_RUNS", raising=False)
        yield here
    for name in ("toys", "toys.echo"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def warm(place):
    with WarmKernel() as kernel:
        yield kernel


def notebook(path, *sources):
    "A notebook with the parameters of the toy and these cells."
    cells = [new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}), *map(new_code_cell, sources)]
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}), path)
    return path


def said_last(notebook):
    "What the last cell printed; a kernel may send it in pieces."
    return "".join(o.text for o in cells(notebook)[-1].outputs if o.output_type == "stream" and o.name == "stdout")


def cells(path):
    return nbformat.read(path, 4).cells


def outputs(path):
    """What each cell of an executed notebook showed, but for the first two: the parameters. Warnings name a file that is named after the process;
    the two streams of a cell reach Jupyter in any order, and in any number of pieces."""
    shown = []
    for cell in [c for c in cells(path) if c.cell_type == "code"][2:]:
        streams = {name: "".join(o.text for o in cell.outputs if o.get("name") == name) for name in ("stdout", "stderr")}
        streams = [re.sub(r"ipykernel_\d+", "ipykernel", text) for text in streams.values()]
        shown.append((cell.execution_count, streams, [o for o in cell.outputs if o.output_type != "stream"]))
    return shown


HOSTILE = [
    "", " ", "None", "true", "1e-3", "[1, 2]", "it's", 'say "no"', "\"''\"", '"""', "'''", '""" + str(1/0) + """', "\\", "\\\\'", "C:\\new\\table", "\\u0041\\x41\\N{BULLET}",
    "two\nlines", "\r\n\t", "\x01\x02\x07\x08\x0b\x0c\x1b[31mred\x7f\x85", "{0}", "{seed}", "{{}}", "{", "%s %(seed)s %%", "$title ${title}", "$(touch owned)", "`touch owned`",
    "#| export", "# Parameters\nseed = 9", "#", "\nseed = 9", "!touch owned", "%%bash\ntouch owned", "%time 1", "?",
    "__import__('os').system('touch owned')", "'); __import__('os').system('touch owned'); ('", "\"); __import__('os').system('touch owned'); (\"",
    "</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>", "&lt;b&gt; &amp;", "--><b>", "]]>", "[a](javascript:alert(1))", "$\\href{javascript:alert(1)}{x}$",
    "Grüße, 模块化 🧩 \u202eabc\u2028\u2029\ufeff", "../../../etc/passwd", "a" * 3000,
]


def test_values_are_data(place, warm):
    "Every string arrives as it was and does nothing, in a list or alone, also below a folder whose name has braces."
    source, runs = notebook(place / "say {text}.ipynb", HEAD, SAY), place / "runs {0} {seed}"
    for given in [{"texts": HOSTILE}, *({"text": text} for text in HOSTILE[::5])]:
        made = report("toys.echo", runs=runs, notebook=source, kernel=warm, progress=False, html="texts" in given, **given)
        said = json.loads(said_last(made.notebook))
        assert said == [given.get("text", "plain"), given.get("texts", [])] and made.run.done and made.run.params.seed == 0
        (injected,) = [c.source for c in cells(made.notebook) if "injected-parameters" in c.metadata.tags]
        assert {s.targets[0].id: ast.literal_eval(s.value) for s in ast.parse(injected).body} == given | {"PRESET": None}
    page = next(runs.rglob("report.html")).read_text()
    assert "&lt;script&gt;alert(1)" in page and "<script>alert" not in page and "<img src=x" not in page and "--><b>" not in page and 'href="javascript' not in page
    assert not list(place.rglob("owned")) and len(Runs(runs).status()) == len(HOSTILE[::5]) + 1


def test_a_notebook_that_fails_shows_where(place, warm, tmp_path):
    source = notebook(tmp_path / "lucky.ipynb", HEAD, "print('so far')", "if not __import__('pathlib').Path('luck').exists(): raise ValueError('no luck')", SAY)
    with pytest.raises(ReportError, match="lucky.ipynb failed with ValueError: no luck; the notebook up to there is .*report.partial.ipynb") as caught:
        report("toys.echo", seed=1, notebook=source, kernel=warm, progress=False, runs=tmp_path)
    partial = caught.value.partial
    top, *rest = cells(partial)
    assert str(partial) in str(caught.value) and "An Exception was encountered" in top.source and "#papermill-error-cell" in top.source
    assert [c.outputs[0].get("ename") or c.outputs[0].get("text") for c in rest if c.cell_type == "code" and c.outputs][1:] == ["so far\n", "ValueError"]
    assert sorted(p.name for p in partial.parent.iterdir()) == ["report.partial.ipynb"] and rest[-1].execution_count is None
    (place / "luck").touch()
    made = report("toys.echo", seed=1, notebook=source, kernel=warm, progress=False, runs=tmp_path)
    assert made.notebook.is_file() and made.html.is_file() and not partial.exists()


DIES = """
import os, signal
with open("deaths", "a") as file: file.write(f"{os.getpid()}\\n")
if len(open("deaths").readlines()) <= seed: os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_papermill_was_given_is_what_is_computed(place, warm, tmp_path):
    "A cell that has lost its tag overwrites it, which is refused; `preset` is PRESET."
    from papermill.exceptions import PapermillExecutionError

    whole, lost = (notebook(tmp_path / name, HEAD, "print(this.params.seed, this.params.sizes, this.preset)") for name in ("whole.ipynb", "lost.ipynb"))
    bare = nbformat.read(lost, 4)
    bare.cells[0].metadata.tags = []
    nbformat.write(bare, lost)
    for given, words in {"seed": (7, "seed: papermill was given 7"), "texts": (["x"], "texts: papermill was given"), "PRESET": ("quick", "PRESET: papermill was given 'quick'")}.items():
        with pytest.raises(PapermillExecutionError, match=re.escape(words[1])):
            kernels.execute_on(warm, lost, tmp_path / "out.ipynb", {given: words[0]})
    for name in ("preset", "PRESET"):
        kernels.execute_on(warm, whole, tmp_path / "out.ipynb", {name: "quick", "seed": 7})
        assert said_last(tmp_path / "out.ipynb").strip() == "7 (2, 3) quick"
    assert report("toys.echo", notebook=whole, out=tmp_path / "o.ipynb", kernel=warm, html=False, progress=False, PRESET="quick").run.params.sizes == (2, 3)


def test_a_kernel_that_dies_twice_is_replaced(place, warm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("modnb.runs.report.KERNELS", 5)
    made = report("toys.echo", seed=2, notebook=notebook(tmp_path / "dies.ipynb", DIES, HEAD, SAY), kernel=warm, progress=False, html=False, runs=tmp_path)
    died = (tmp_path / "deaths").read_text().split()
    assert len(set(died)) == 3 and json.loads(said_last(made.notebook)) == ["plain", []]
    assert [c.execution_count for c in cells(made.notebook)] == [1, 2, 3, 4, 5] and not list(tmp_path.rglob("*.partial.ipynb"))


def test_a_kernel_that_always_dies_is_told(place, warm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ReportError, match="dies.ipynb: the kernel died .* on each of 3 kernels; the notebook up to there is") as caught:
        report("toys.echo", seed=9, notebook=notebook(tmp_path / "dies.ipynb", "print('so far')", DIES), kernel=warm, progress=False, runs=tmp_path)
    top, *rest, last = cells(caught.value.partial)
    assert len((tmp_path / "deaths").read_text().split()) == 3 and "An Exception was encountered" in top.source
    assert last.outputs[0].ename == "KernelLost" and any(c.get("outputs") and c.outputs[0].get("text") == "so far\n" for c in rest)


def test_a_kernel_that_ends_at_its_start_is_replaced(place, tmp_path, monkeypatch, capfd):
    hosts, real = [], kernels.new_host

    def new_host(*given):
        hosts.append(real(*given))
        hosts[-1].extra_arguments += [] if len(hosts) > 1 else ["--transport=pigeons"]
        return hosts[-1]

    monkeypatch.setattr(kernels, "new_host", new_host)
    report("toys.echo", notebook=notebook(tmp_path / "plain.ipynb", "print(seed)"), progress=False, html=False, runs=tmp_path)
    assert len(hosts) == 2 and "pigeons" in capfd.readouterr().err


def test_a_warm_kernel_listens_at_no_port(place, warm, tmp_path):
    "Ports are chosen before they are opened, so another process could take one."
    kernels.execute_on(warm, notebook(tmp_path / "plain.ipynb", "print(seed)"), tmp_path / "out.ipynb", {})
    folder = Path(warm.host.km.connection_file).parent
    assert warm.host.km.transport == "ipc" and len(list(folder.iterdir())) == 6
    with WarmKernel() as other:
        kernels.renew(other, {})
        assert Path(other.host.km.connection_file).parent != folder
        left = Path(other.host.km.connection_file).parent
    assert not left.exists() and warm.alive


def test_a_line_that_arrives_in_pieces_is_one_line(place, warm, tmp_path):
    slow = notebook(tmp_path / "slow.ipynb", "import sys\nfor part in ('so', ' far', '\\n'): print(part, end='', flush=True)\nprint('!', file=sys.stderr)")
    kernels.execute_on(warm, slow, tmp_path / "out.ipynb", {})
    assert [(o.name, o.text) for o in cells(tmp_path / "out.ipynb")[-1].outputs] == [("stdout", "so far\n"), ("stderr", "!\n")]


@pytest.mark.parametrize("name, why", [("nowhere", "No such kernel"), ("sleepy", "Kernel didn't respond in 1 seconds")])
def test_a_kernel_that_never_starts_is_told(place, tmp_path, monkeypatch, name, why):
    "It is not there, or does not answer in time."
    (tmp_path / "kernels" / "sleepy").mkdir(parents=True)
    spec = dict(argv=[sys.executable, "-c", "import time; time.sleep(60)", "{connection_file}"], display_name="sleepy", language="python")
    (tmp_path / "kernels" / "sleepy" / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.setattr("modnb.runs.report.KERNELS", 1)
    with WarmKernel(name, timeout=1) as kernel, pytest.raises(ReportError, match=f"plain.ipynb: the kernel did not start: .*{why}") as caught:
        report("toys.echo", notebook=notebook(tmp_path / "plain.ipynb", "print(seed)"), kernel=kernel, progress=False, runs=tmp_path)
    top, *rest = cells(caught.value.partial)
    assert "An Exception was encountered" in top.source and not kernel.alive and [c.source for c in rest][-1] == "print(seed)"


LITTER = """
import os, random, sys, warnings
import matplotlib.pyplot as plt, numpy as np, pandas as pd, torch
plt.rcParams.update({"figure.figsize": (2, 2), "axes.grid": True}); plt.ioff(); left = plt.figure(); plt.style.use("ggplot")
from matplotlib_inline.backend_inline import set_matplotlib_close, set_matplotlib_formats
set_matplotlib_formats("svg"); set_matplotlib_close(False); plt.switch_backend("agg")
pd.set_option("display.precision", 1, "display.max_rows", 2); np.set_printoptions(precision=1)
torch.set_default_dtype(torch.float64); torch.set_grad_enabled(False); torch.set_printoptions(precision=1); torch.manual_seed(5)
os.chdir("/"); os.environ["LEFT"] = "1"; del os.environ["PYTHONPATH"]; sys.path[:] = ["/nowhere"]; np.log(np.zeros(1)); warnings.simplefilter("error")
"""
PROBE = ["""
import os, sys, warnings
print(sorted(globals()), sorted(os.environ), os.getcwd(), sys.path, len(In), len(Out), warnings.filters)
_""", """
import matplotlib.pyplot as plt, numpy as np, pandas as pd, torch
print(plt.get_fignums(), {k: v for k, v in plt.rcParams.items() if k not in ("backend", "interactive")}) # these two are set by the first figure
print(torch.initial_seed() == 5, torch.get_default_dtype(), torch.is_grad_enabled(), np.array([1 / 3]))
for i in range(2): np.log(np.zeros(1)) # numpy warns once
plt.plot([0, 2, 1, 3])
pd.DataFrame({"a": np.arange(5) / 7})""", "plt.plot([1, 0]); plt.gca().set_title(str(seed)); 1 / seed", "In[-1], _"]


def test_a_warm_kernel_is_as_a_new_one(place, warm, tmp_path):
    "Whatever the notebook before did, the next shows what it would show on a kernel of its own, in the process of the one before."
    litter, probe = notebook(tmp_path / "litter.ipynb", LITTER), notebook(tmp_path / "probe.ipynb", *PROBE)
    cold = outputs(report("toys.echo", seed=4, notebook=probe, progress=False, out=tmp_path / "cold.ipynb", html=False).notebook)
    pids = []
    for i in range(2):
        report("toys.echo", notebook=litter, kernel=warm, progress=False, out=tmp_path / "litter-out.ipynb", html=False)
        made = report("toys.echo", seed=4, notebook=probe, kernel=warm, progress=False, out=tmp_path / f"warm{i}.ipynb", html=False)
        pids.append(warm.host.km.provisioner.pid)
        assert outputs(made.notebook) == cold
    assert pids[0] == pids[1] and [n for n, *_ in cold] == [3, 4, 5, 6] and sum("image/png" in o.get("data", {}) for *_, out in cold for o in out) == 2
    assert "".join(text for _, streams, _ in cold for text in streams).count("divide by zero") == 1


def test_a_failure_leaves_the_kernel_usable(place, warm, tmp_path):
    "An error of a cell does not end the kernel; a cell that takes too long does."
    bad, slow, good = (notebook(tmp_path / f"{i}.ipynb", source) for i, source in enumerate(["1 / 0", "import time; time.sleep(30)", "print(seed)"]))
    for source, same in (bad, True), (slow, False):
        report("toys.echo", notebook=good, kernel=warm, progress=False, out=tmp_path / "out.ipynb", html=False)
        before = warm.host.km.provisioner.pid
        with pytest.raises(ReportError, match="ZeroDivisionError" if same else "1.ipynb took more than 1 s in one cell"):
            report("toys.echo", notebook=source, kernel=warm, progress=False, timeout=60 if same else 1, out=tmp_path / "out.ipynb", html=False)
        report("toys.echo", seed=7, notebook=good, kernel=warm, progress=False, out=tmp_path / "out.ipynb", html=False)
        assert (warm.host.km.provisioner.pid == before) == same and outputs(tmp_path / "out.ipynb")[0][1] == ["7\n", ""]


def test_the_kernel_ends_with_its_process(place, tmp_path):
    "Also if nobody closes it."
    code = f"""
from modnb.runs.kernels import WarmKernel
from modnb.runs.report import report
kernel = WarmKernel()
report("toys.echo", notebook={str(notebook(tmp_path / "plain.ipynb", "print(seed)"))!r}, kernel=kernel, progress=False, html=False, runs={str(tmp_path)!r})
print(kernel.host.km.provisioner.pid)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "Error" not in done.stderr, done.stderr
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), signal.SIGCONT)


def test_summary_of_a_grid(place, warm, tmp_path):
    "Before any run is done, and after: numbers, texts and tuples as parameters, a run that failed."
    planned = [plan("toys.echo", seed=seed, text=text, sizes=sizes, runs=tmp_path / "runs") for seed in (0, 1, 13) for text in ("a", "<i>$b$") for sizes in ((1,), (1, 2))]
    about = dict(name="<u>grid</u>", experiment="echo", module="toys.echo", version=1, preset=None, varied=["text", "sizes", "seed"],
                 runs=[dict(signature=r.signature, params=r.params.to_dict()) for r in planned])
    (tmp_path / "grid.json").write_text(json.dumps(about))
    page = summary_report(tmp_path / "grid.json", tmp_path / "new" / "summary.ipynb", tmp_path / "runs", warm, progress=False)
    assert page == tmp_path / "new" / "summary.html" and "12 runs: 12 new" in page.read_text() and "No run is done yet" in page.read_text()
    for run in planned:
        try:
            run.compute(progress=False)
        except ValueError:
            pass
    page = summary_report(tmp_path / "grid.json", tmp_path / "done" / "summary.ipynb", tmp_path / "runs", warm, progress=False)
    text = page.read_text()
    assert "12 runs: 8 done, 4 failed" in text and "&lt;u&gt;grid" in text and "<u>" not in text and "<i>$b" not in text and "unlucky&lt;/b&gt;" in text and "<b>un" not in text
    assert "5 [5, 5]" not in text and "18 [18, 18]" in text and 'src="data:image/png' in text and "<td>1, 2</td>" in text and "0.5 [-5.85, 6.85]" in text


def test_executed_notebooks_hold_their_numbers(place, tmp_path):
    "By plain papermill, and after the notebook was cleaned."
    from modnb.runs import read_reports
    from papermill import execute_notebook

    cells = ["from modnb.runs import header, run_here\nfrom toys.echo import Params", "seed = 0\ntext = 'plain'", "this = run_here('toys.echo', globals())", "header(this)"]
    notebook = new_notebook(cells=[new_code_cell(c) for c in cells])
    notebook.cells[1].metadata["tags"] = ["parameters"]
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, tmp_path / "echo.ipynb")
    done = tmp_path / "done" / "a.ipynb"
    done.parent.mkdir()
    execute_notebook(str(tmp_path / "echo.ipynb"), str(done), parameters={"seed": 5}, progress_bar=False, cwd=str(tmp_path))
    found = read_reports(tmp_path / "done")
    rows = found[["notebook", "experiment", "param_seed", "text", "name", "value"]].values.tolist()
    assert rows == [["a.ipynb", "echo", 5, "plain", name, 5.0] for name in ("length", "seed $")]
    cleaned = subprocess.run([Path(sys.executable).parent / "nbdev_clean", "--fname", str(done)], capture_output=True, text=True)
    assert cleaned.returncode == 0 and read_reports(done).equals(found), cleaned.stderr
