"""The routing explorer in JupyterLab: both columns show what the same explorer without a browser shows."""
import pytest
from seen import Notebook, eventually

from modnb.view.widgets import routing_explorer


@pytest.fixture(scope="module")
def reference():
    "The same explorer, trained in this process with the same seeds."
    explorer = routing_explorer("four maps of the plane")
    explorer.train(wait=True)
    explorer.seed.value = 2
    return explorer


@pytest.fixture(scope="module")
def notebook(lab, chromium):
    found = Notebook(chromium, lab, "routing.ipynb")
    found.run_all()
    return found


@pytest.fixture
def same(notebook, reference):
    "A function that compares pictures and numbers with the reference."
    def compare():
        for name, picture in (("left", reference.pictures[0]), ("right", reference.pictures[1]), ("curves", reference.trainer.curves)):
            assert notebook.bytes_of(notebook.picture(name)) == picture.image.value, f"the picture {name!r} is another"
        assert notebook.rows("modnb-routing") == notebook.parsed(reference.numbers.value)
    return lambda: eventually(compare)


def test_it_runs_and_shows_both_sides(notebook, reference, same):
    assert notebook.errors() == []
    same()
    left, right = (notebook.picture(name).bounding_box() for name in ("left", "right"))
    assert left["y"] == right["y"] and left["x"] + left["width"] <= right["x"] and right["x"] + right["width"] <= 1280      # side by side
    assert notebook.bytes_of(notebook.picture("left")) != notebook.bytes_of(notebook.picture("right"))


def test_time_by_keyboard(notebook, reference, same):
    before = [notebook.bytes_of(notebook.picture(name)) for name in ("left", "right")]
    notebook.press("training step", "Home")
    notebook.reads("training step", "0")
    reference.time.step.value = 0
    same()
    now = [notebook.bytes_of(notebook.picture(name)) for name in ("left", "right")]
    assert all(a != b for a, b in zip(now, before))
    rows = notebook.rows("modnb-routing")
    assert [r[1] for r in rows] == [r[3] for r in rows]        # the same first weights


def test_time_by_mouse(notebook, reference, same):
    notebook.drag("training step", 120)
    step = int(notebook.readout("training step").inner_text())
    assert step > 0
    reference.time.step.value = step
    same()
    rows = notebook.rows("modnb-routing")
    assert [r[1] for r in rows] != [r[3] for r in rows]


def test_seed_by_keyboard(notebook, reference, same):
    before = notebook.bytes_of(notebook.picture("left"))
    notebook.press("seed", "ArrowRight")
    notebook.reads("seed", "3")
    reference.seed.value = 3
    same()
    assert notebook.bytes_of(notebook.picture("left")) != before and notebook.errors() == []


def test_slider_to_picture(notebook):
    "A figure to read, not a bound: it depends on the machine and its load."
    for name in ("left", "right"):
        median, all_of_them = notebook.latency("training step", notebook.picture(name), ["ArrowLeft", "ArrowRight"] * 5)
        print(f"\nrouting explorer, 'training step' to new picture on the {name}: median {median:.0f} ms, {min(all_of_them):.0f} to {max(all_of_them):.0f} ms")
        assert len(all_of_them) == 10


def test_another_estimator_is_trained_by_the_button(notebook, reference, same):
    notebook.control("right").locator("select").select_option(label="oracle  (given)")
    steps = notebook.control("steps").locator("input")
    steps.fill("60")
    steps.press("Enter")
    notebook.settle()
    notebook.button("Train").click()
    reference.choice.right.value, reference.choice.steps.value = "oracle", 60
    reference.train(wait=True)
    notebook.page.wait_for_function("document.querySelector('.modnb-note').textContent.includes('routing 60/60 · 100% · done')")
    same()
    assert notebook.errors() == []


def test_stop_keeps_what_was_learned_and_goes_on(notebook):
    steps = notebook.control("steps").locator("input")
    steps.fill("30000")
    steps.press("Enter")
    notebook.settle()
    notebook.button("Train").click()
    line = notebook.page.locator(".modnb-note").first
    notebook.page.wait_for_function("document.querySelector('.modnb-note').textContent.match(/routing [1-9]\\d*\\/30000.*step\\/s.*left/)")
    notebook.button("Stop").click()
    notebook.button("Go on").wait_for(state="visible")
    assert "stopped; what was learned is kept" in line.inner_text()
    step = int(line.inner_text().split()[1].partition("/")[0])
    notebook.settle()
    assert 0 < step < 30000 and int(notebook.run_cell("print(explorer.work.step)")) - step in (0, 1)     # the update that was under way is finished, and not told
    notebook.button("Go on").click()
    notebook.page.wait_for_function(f"+(document.querySelector('.modnb-note').textContent.match(/routing (\\d+)\\/30000/) || [0, 0])[1] > {step}")
    notebook.button("Stop").click()
    notebook.button("Go on").wait_for(state="visible")
    assert notebook.errors() == []
