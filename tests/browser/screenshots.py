"""Pictures of the explorers for the README and the documentation: `python tests/browser/screenshots.py` writes nbs/images/explore-*.png."""
import io
import sys
import tempfile
from pathlib import Path

import lab as laboratory
from seen import Notebook

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


EXPLORERS = {"masks": masks, "gates": gates, "routing": routing, "systems": systems, "runs": runs} # notebook -> what is done before the picture is taken


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


if __name__ == "__main__":
    if reason := laboratory.missing():
        sys.exit(f"{reason} is missing")
    with tempfile.TemporaryDirectory() as folder, laboratory.jupyterlab(Path(folder)) as server, laboratory.browser() as chromium:
        for name, prepare in EXPLORERS.items():
            if not sys.argv[1:] or name in sys.argv[1:]:
                path = take(chromium, server, name, prepare)
                print(f"{path.relative_to(laboratory.ROOT)}: {path.stat().st_size:,} bytes")
