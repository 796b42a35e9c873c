"""The tour, as a newcomer meets it: JupyterLab opens on it, one menu entry runs it, and the first control of each explorer answers."""
import contextlib
import os
import signal
import subprocess
import sys

import lab as laboratory
import pytest
from seen import Notebook, eventually


@pytest.fixture(scope="module")
def notebook(lab, chromium):
    found = Notebook(chromium, lab, "start_here.ipynb")
    found.run_all()
    found.page.wait_for_function("[...document.querySelectorAll('.modnb-note')].some(n => n.textContent.includes('12 of 12: 12 done'))")
    return found


def test_all_four_explorers_are_there(notebook):
    assert notebook.errors() == []
    titles = notebook.page.locator(".jp-OutputArea h3").all_text_contents()
    assert [t.split()[0] for t in titles if "explorer" in t or "of the folder" in t] == ["Mask", "Gate", "Routing", "Runs"]


def test_masks(notebook):
    "A layer by keyboard, a cut by mouse."
    notebook.show("Mask explorer")
    before = notebook.bytes_of(notebook.picture("layer"))
    notebook.press("layer", "ArrowRight")
    notebook.reads("layer", "layers.1.weight")
    eventually(lambda: _other(notebook, "layer", before))
    notebook.page.get_by_role("checkbox", name="all but its mask", exact=True).first.set_checked(True)
    notebook.settle()
    said = [float(row[2].rstrip(" %")) for row in notebook.rows("modnb-accuracy")]
    assert said == [float(v) for v in notebook.run_cell("print(*[round(100 * v, 1) for v in masks.after.values()])").split()]
    assert said[0] > 80 > 60 > said[1]


def test_gates(notebook):
    notebook.show("Gate explorer")
    before = notebook.bytes_of(notebook.picture("gates"))
    slider = notebook.control("training step")
    slider.locator(".noUi-handle").focus()
    notebook.page.keyboard.press("Home")
    eventually(lambda: _other(notebook, "gates", before))
    notebook.settle()
    rows = notebook.rows("modnb-metrics")
    assert [r[1] for r in rows] == [r[2] for r in rows]


def test_routing(notebook):
    notebook.show("Routing explorer")
    before = notebook.bytes_of(notebook.picture("left"))
    notebook.press("seed", "ArrowLeft")
    notebook.reads("seed", "1")
    eventually(lambda: _other(notebook, "left", before))
    notebook.settle()
    shown = notebook.rows("modnb-routing")[2]
    assert shown[1] == notebook.run_cell("print(f\"{[v for _, s, n, v in routes.trainer.job.messages.rows if s == 150 and n == '0/H_b/1'][0]:.3f}\")")


def test_runs(notebook):
    notebook.show("Runs")
    notebook.control("filter").locator("input").fill("beta>0.01")
    notebook.page.locator(".modnb-note").filter(has_text="4 of 12: 4 done").first.wait_for()
    assert notebook.errors() == []


def _other(notebook, name, before):
    assert notebook.bytes_of(notebook.picture(name)) != before, f"the picture {name!r} has not changed"


def test_modnb_lab_opens_the_tour(tmp_path, chromium):
    "`modnb lab`, which `make lab` is, on the repository's own notebooks: its address shows the tour, without questions; from there one click opens each explorer."
    own = laboratory.own_folders(tmp_path)
    log = tmp_path / "lab.log"
    port = laboratory.free_port()
    with log.open("w") as out:
        process = subprocess.Popen([sys.executable, "-m", "modnb.runs.cli", "lab", *laboratory.SERVER, f"--FileCheckpoints.checkpoint_dir={tmp_path / 'checkpoints'}", f"--port={port}", "--IdentityProvider.token=tour"], cwd=tmp_path, env=own, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True)
        try:
            laboratory.answers(f"http://127.0.0.1:{port}/api/status?token=tour", process, log)
            eventually(lambda: _said(log, f"http://127.0.0.1:{port}/lab/tree/explore/start_here.ipynb"))
            page = chromium.new_page(viewport={"width": 1280, "height": 900})
            page.set_default_timeout(90_000)
            page.goto(f"http://127.0.0.1:{port}/?token=tour")           # what the browser is sent to
            page.locator(".jp-NotebookPanel h1").filter(has_text="Start here").first.wait_for()
            page.wait_for_timeout(3000)  # the question about news would come late
            assert page.locator(".Toastify__toast").count() == 0
            for name in ("masks", "gates", "routing", "systems", "runs"):
                page.locator(".lm-TabBar-tabLabel").filter(has_text="start_here.ipynb").first.click()
                page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-RenderedMarkdown td a").filter(has_text=name).first.click()
                page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) h1").filter(has_text=f"Explore {name}").first.wait_for()
            page.close()
        finally:
            os.killpg(process.pid, signal.SIGTERM)  # the command and the server that it waits for
            process.wait(30)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # a server that would not go


def _said(log, text):
    assert text in log.read_text()
