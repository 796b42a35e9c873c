"""The run browser in JupyterLab: filter, figure and report are what the same functions say without a browser."""
import hashlib

import pytest
from seen import Notebook, eventually


@pytest.fixture(scope="module")
def notebook(lab, chromium):
    found = Notebook(chromium, lab, "runs.ipynb")
    found.run_all()
    found.page.wait_for_function("document.querySelector('.modnb-note').textContent.includes('done')")
    return found


def options(notebook):
    return [t.replace("\xa0", " ").split() for t in notebook.page.locator(".modnb-runs select option").all_inner_texts()]


def counted(notebook, text):
    notebook.page.locator(".modnb-note").filter(has_text=text).first.wait_for()
    notebook.settle()


def expected(notebook, code):
    "The PNG that the kernel draws anew from the frame, by the pure function."
    return notebook.run_cell(f"import hashlib; from modnb.view.widgets.controls import png; print(hashlib.sha1(png({code})).hexdigest())")


def drawn(notebook, code):
    "Wait until the figure is the one that the kernel draws anew."
    notebook.settle()

    def check():
        assert hashlib.sha1(notebook.bytes_of(notebook.picture("runs"))).hexdigest() == wanted

    wanted = expected(notebook, code)
    eventually(check)


def test_all_runs_are_listed(notebook):
    counted(notebook, "37 of 37: 36 done, 1 failed")
    assert len(options(notebook)) == 37 and notebook.errors() == []
    drawn(notebook, "render_runs(browser.whole, browser.axes.x.value, browser.axes.y.value)")


def test_filter_narrows_table_and_figure(notebook):
    before = notebook.bytes_of(notebook.picture("runs"))
    notebook.control("filter").locator("input").fill("wind=0.1 seed<3")
    counted(notebook, "9 of 37: 9 done")
    assert len(options(notebook)) == 9
    drawn(notebook, "render_runs(filtered(browser.whole, 'wind=0.1 seed<3'), browser.axes.x.value, browser.axes.y.value)")
    assert notebook.bytes_of(notebook.picture("runs")) != before
    notebook.control("filter").locator("input").fill("wnd=0.1")
    notebook.page.locator(".modnb-problem").filter(has_text="did you mean 'wind'").wait_for()
    notebook.control("filter").locator("input").fill("")
    counted(notebook, "37 of 37")
    assert notebook.errors() == []


def test_axes_color_and_panels(notebook):
    for label, value in (("along", "steps"), ("height", "distance"), ("color", "wind"), ("panels", "seed")):
        notebook.control(label).locator("select").select_option(label=value)
    drawn(notebook, "render_runs(browser.whole, 'steps', 'distance', 'wind', 'seed')")


def test_a_click_opens_the_run(notebook):
    chosen = notebook.page.locator(".modnb-runs select")
    chosen.scroll_into_view_if_needed()
    box, line = chosen.bounding_box(), chosen.locator("option").nth(2).bounding_box()
    notebook.page.mouse.click(box["x"] + 60, line["y"] + line["height"] / 2)
    frame = notebook.page.frame_locator("iframe.modnb-report")
    frame.get_by_text("This run has no report").wait_for()
    row = options(notebook)[2]
    assert row[0] in frame.locator("body").inner_text() and "distance" in frame.locator("body").inner_text()
    notebook.button("next").focus()
    notebook.page.keyboard.press("Space")
    chosen.locator("option:checked").filter(has_not_text=row[0]).wait_for(state="attached")
    below = chosen.evaluate("s => s.selectedOptions[0].textContent").split()[0]
    assert below in [o[0] for o in options(notebook)] and below != row[0]
    frame.get_by_text(below).first.wait_for()
    notebook.run_cell("f = browser.reader.folders[browser.table.list.value]; _ = (f.path / 'report.html').write_text('<h1>The report of ' + f.signature + '</h1>'); browser.open(); print('written')")
    frame.get_by_text(f"The report of {below}").wait_for()
    assert notebook.errors() == []
