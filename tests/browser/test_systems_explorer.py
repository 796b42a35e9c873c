"""The systems explorer in JupyterLab: usage and example show what the same explorer without a browser shows."""
import pytest
from seen import Notebook, eventually

from modnb.view.widgets import systems_explorer


@pytest.fixture(scope="module")
def reference():
    "The same explorer, trained in this process with the same seed."
    explorer = systems_explorer("arithmetic", row="blind to digits")
    explorer.train(wait=True)
    explorer.example.value = 8
    return explorer


@pytest.fixture(scope="module")
def notebook(lab, chromium):
    found = Notebook(chromium, lab, "systems.ipynb")
    found.run_all()
    return found


@pytest.fixture
def same(notebook, reference):
    "A function that compares pictures and numbers with the reference."
    def compare():
        for name, picture in (("usage", reference.pictures[0]), ("example", reference.pictures[1]), ("curves", reference.trainer.curves)):
            assert notebook.bytes_of(notebook.picture(name)) == picture.image.value, f"the picture {name!r} is another"
        assert notebook.rows("modnb-systems") == notebook.parsed(reference.numbers.value)
    return lambda: eventually(compare)


def test_it_runs_and_shows_usage_next_to_the_example(notebook, reference, same):
    assert notebook.errors() == []
    same()
    left, right = (notebook.picture(name).bounding_box() for name in ("usage", "example"))
    assert left["y"] == right["y"] and left["x"] + left["width"] <= right["x"] and right["x"] + right["width"] <= 1280      # side by side


def test_time_and_example_by_keyboard(notebook, reference, same):
    before = [notebook.bytes_of(notebook.picture(name)) for name in ("usage", "example")]
    notebook.press("training step", "Home")
    notebook.reads("training step", "0")
    reference.time.step.value = 0
    same()
    assert notebook.bytes_of(notebook.picture("usage")) != before[0]
    notebook.press("example", "ArrowRight")
    notebook.reads("example", "9")
    reference.example.value = 9
    same()
    assert notebook.bytes_of(notebook.picture("example")) != before[1] and notebook.errors() == []


def test_another_system_is_trained_by_the_button(notebook, reference, same):
    notebook.control("system").locator("select").select_option(label="robots and tasks")
    steps = notebook.control("steps").locator("input")
    steps.fill("24")
    steps.press("Enter")
    notebook.settle()
    notebook.button("Train").click()
    reference.choice.system.value, reference.choice.steps.value = "robots and tasks", 24
    reference.train(wait=True)
    notebook.page.wait_for_function("document.querySelector('.modnb-note').textContent.includes('training 24/24 · 100% · done')")
    same()
    assert notebook.errors() == []
