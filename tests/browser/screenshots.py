"""Pictures for the README and the documentation: `python tests/browser/screenshots.py [NAME...]` writes nbs/images/explore-*.png, of the
explorers, and nbs/images/page-*.png, of reports, the index of a grid and pages of the documentation. The last need `make docs`."""
import contextlib
import io
import sys
import tempfile
from pathlib import Path

import lab as laboratory
from seen import Notebook, Watched

IMAGES = laboratory.ROOT / "nbs" / "images"


def masks(notebook):
    "The mask explorer with one function cut."
    notebook.page.get_by_role("checkbox", name="as many at random", exact=True).first.wait_for()


def runs(notebook):
    "The run browser with colors and panels, and a run open."
    notebook.page.wait_for_function("document.querySelector('.modnb-note').textContent.includes('done')")
    for label, value in (("along", "steps"), ("height", "distance"), ("color", "wind")):
        notebook.control(label).locator("select").select_option(label=value)
    notebook.page.locator(".modnb-runs select").select_option(index=2)
    notebook.page.frame_locator("iframe.modnb-report").locator("body").wait_for()


def gates(notebook):
    "The gate explorer after its training."
    notebook.page.locator("table.modnb-metrics").first.wait_for()


def routing(notebook):
    "The routing explorer after its training; the notebook has chosen a seed."
    notebook.page.locator("table.modnb-routing").first.wait_for()


def systems(notebook):
    "The systems explorer after its training."
    notebook.page.locator("table.modnb-systems").first.wait_for()


def circuits(notebook):
    "The circuit explorer with its first edge cut, as the notebook has chosen."
    notebook.page.wait_for_function("document.querySelector('.modnb-note').textContent.includes('without')")


# notebook -> what is done before the picture is taken
EXPLORERS = {"masks": masks, "gates": gates, "routing": routing, "circuits": circuits, "systems": systems, "runs": runs}


def small(png, colors=256):
    "The same picture in fewer bytes."
    from PIL import Image

    file = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").quantize(colors, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    return file.getvalue()


def take(chromium, lab, name, prepare):
    "One explorer, alone, as high as it is."
    notebook = Notebook(chromium, lab, f"{name}.ipynb", height=1700)
    notebook.run_all()
    prepare(notebook)
    notebook.settle()
    output = notebook.page.locator(".jp-OutputArea-output:has(.jupyter-widgets)").first
    output.scroll_into_view_if_needed()
    notebook.page.wait_for_timeout(500)
    assert notebook.errors() == [], notebook.errors()
    path = IMAGES / f"explore-{name}.png"
    path.write_bytes(small(output.screenshot()))
    return path


REPORTS = {"report-masks": "masks/add_mul", "report-gating": "gating/rules", "report-routing": "routing/eight_maps", "report-systems": "systems/arithmetic",
           "report-memory": "systems/external_memory"}
DOCS = {"docs-start": "index", "docs-learner": "masks/11_learner", "docs-laws": "routing/01_laws"}


def grid_index(folder):
    "The index of a grid of small runs; the first has the committed notebook as its report."
    import shutil

    from modnb.runs import Grid
    from modnb.runs.notebook_page import to_html
    from modnb.runs.pages import write_pages

    grid = Grid("add_mul", runs=folder, name="Addition and multiplication", seed=[0, 1], beta=[1e-5, 1e-4, 1e-3], train_steps=400, mask_steps=100, layer_sizes=[32])
    for run in grid.runs[:-1]:
        run.compute(progress=False)
        report = run.folder.path / "report.ipynb"
        shutil.copy(laboratory.ROOT / "nbs" / "experiments" / "masks" / "add_mul.ipynb", report)
        to_html(report, report.with_suffix(".html"), laboratory.ROOT / "nbs" / "experiments" / "masks")
    return write_pages(grid, summary=False)


def page_picture(chromium, name, path, color_scheme="light"):
    "The top of a page."
    with Watched(chromium, color_scheme=color_scheme) as watched:
        watched.open(path)
        assert watched.problems == [] and watched.requests == []
        target = IMAGES / f"page-{name}.png"
        target.write_bytes(small(watched.page.screenshot(), 64))
    return target


def page_pictures(chromium, names, folder):
    "Name -> picture of a report, of the index, of a page of the documentation; dark where the name says so."
    from modnb.runs.notebook_page import to_html

    for name, report in REPORTS.items():
        if name in names or not names:
            made = to_html(laboratory.ROOT / "nbs" / "experiments" / f"{report}.ipynb", folder / f"{name}.html")
            yield page_picture(chromium, name, made, "dark" if name == "report-routing" else "light")
    if "grid" in names or not names:
        yield page_picture(chromium, "grid", grid_index(folder / "runs"))
    for name, page in DOCS.items():
        if name in names or not names:
            yield page_picture(chromium, name, laboratory.ROOT / "_docs" / f"{page}.html", "dark" if name == "docs-laws" else "light")


if __name__ == "__main__":
    if reason := laboratory.missing():
        sys.exit(f"{reason} is missing")
    with tempfile.TemporaryDirectory() as folder, laboratory.browser() as chromium:
        (Path(folder) / "pages").mkdir()
        for path in page_pictures(chromium, sys.argv[1:], Path(folder) / "pages"):
            print(f"{path.relative_to(laboratory.ROOT)}: {path.stat().st_size:,} bytes")
        chosen = {name: EXPLORERS[name] for name in EXPLORERS if name in sys.argv[1:] or not sys.argv[1:]}
        with laboratory.jupyterlab(Path(folder)) if chosen else contextlib.nullcontext() as server:
            for name, prepare in chosen.items():
                path = take(chromium, server, name, prepare)
                print(f"{path.relative_to(laboratory.ROOT)}: {path.stat().st_size:,} bytes")
