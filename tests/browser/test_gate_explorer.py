"""The gate explorer in JupyterLab: what is on the screen is what the same explorer without a browser says."""
import pytest
from seen import Notebook, eventually

from modnb.view.widgets import gate_explorer


@pytest.fixture(scope="module")
def reference():
    "The same explorer, trained in this process with the same seeds."
    explorer = gate_explorer(arch="rnn", rules=3, data_seed=1)
    explorer.train(wait=True)
    return explorer


@pytest.fixture(scope="module")
def notebook(lab, chromium):
    found = Notebook(chromium, lab, "gates.ipynb")
    found.run_all()
    return found


@pytest.fixture
def same(notebook, reference):
    "A function that compares pictures and numbers with the reference."
    def compare():
        for name, picture in (("gates", reference.matrix), ("curves", reference.trainer.curves)):
            assert notebook.bytes_of(notebook.picture(name)) == picture.image.value, f"the picture {name!r} is another"
        assert notebook.rows("modnb-metrics") == notebook.parsed(reference.numbers.value)
    return lambda: eventually(compare)


def test_it_runs_and_shows_the_right_pictures(notebook, reference, same):
    assert notebook.errors() == []
    same()
    assert notebook.readout("training step").inner_text() == "200" and notebook.rows("modnb-metrics")[2][0] == "Alignment"
    assert notebook.rows("modnb-metrics")[2][1] == f"{reference.trainer.job.messages.history.last()['alignment']:.3f}"


def test_time_by_keyboard(notebook, reference, same):
    before = notebook.bytes_of(notebook.picture("gates"))
    notebook.press("training step", "Home")
    notebook.reads("training step", "0")
    reference.time.step.value = 0
    same()
    assert notebook.bytes_of(notebook.picture("gates")) != before
    first = notebook.rows("modnb-metrics")
    assert [row[1] for row in first] == [row[2] for row in first]          # now is before the training
    notebook.press("training step", "ArrowRight", 3)
    notebook.reads("training step", "18")
    reference.time.step.value = 18
    same()


def test_time_by_mouse(notebook, reference, same):
    before = notebook.bytes_of(notebook.picture("gates"))
    notebook.drag("training step", 90)
    step = int(notebook.readout("training step").inner_text())
    assert step > 18
    reference.time.step.value = step
    same()
    assert notebook.bytes_of(notebook.picture("gates")) != before and f"step {reference.work.at(step)} of 200" in notebook.page.locator(".modnb-note").nth(1).inner_text()


def test_matching_on_and_off(notebook, reference, same):
    box = notebook.page.get_by_role("checkbox", name="match modules to rules").first
    before = notebook.bytes_of(notebook.picture("gates"))
    box.set_checked(False)
    reference.matched.value = False
    same()
    assert notebook.bytes_of(notebook.picture("gates")) != before
    box.focus()
    notebook.page.keyboard.press("Space")
    reference.matched.value = True
    same()
    assert notebook.bytes_of(notebook.picture("gates")) == before and notebook.errors() == []


def test_slider_to_picture(notebook):
    "A figure to read, not a bound: it depends on the machine and its load."
    median, all_of_them = notebook.latency("training step", notebook.picture("gates"), ["ArrowLeft", "ArrowRight"] * 5)
    print(f"\ngate explorer, 'training step' to new picture: median {median:.0f} ms, {min(all_of_them):.0f} to {max(all_of_them):.0f} ms")
    assert len(all_of_them) == 10


def test_another_gating_is_trained_by_the_button(notebook, reference, same):
    "What the reference learns with the same choice is what the screen shows."
    notebook.control("gating").locator("select").select_option(label="Modular")
    steps = notebook.control("steps").locator("input")
    steps.fill("40")
    steps.press("Enter")
    notebook.settle()
    notebook.button("Train").click()
    reference.choice.gating.value, reference.choice.steps.value = "modular", 40
    reference.train(wait=True)
    notebook.page.wait_for_function("document.querySelector('.modnb-note').textContent.includes('network 40/40 · 100% · done')")
    same()
    assert notebook.errors() == []


def test_stop_keeps_what_was_learned_and_goes_on(notebook):
    steps = notebook.control("steps").locator("input")
    steps.fill("20000")
    steps.press("Enter")
    notebook.settle()
    notebook.button("Train").click()
    line = notebook.page.locator(".modnb-note").first
    notebook.page.wait_for_function("document.querySelector('.modnb-note').textContent.match(/network [1-9]\\d*\\/20000.*step\\/s.*left/)")
    notebook.button("Stop").click()
    notebook.button("Go on").wait_for(state="visible")
    assert "stopped; what was learned is kept" in line.inner_text()
    step = int(line.inner_text().split()[1].partition("/")[0])
    assert 0 < step < 20000
    notebook.settle()
    told, done, looks = map(int, notebook.run_cell("print(explorer.trainer.job.messages.event.step, explorer.work.step, len(explorer.work.gates))").split())
    assert told == step and done - step in (0, 1) and looks == 1 + done // 666          # the update that was under way is finished, and not told
    notebook.button("Go on").click()
    notebook.page.wait_for_function(f"+(document.querySelector('.modnb-note').textContent.match(/network (\\d+)\\/20000/) || [0, 0])[1] > {step}")
    notebook.button("Stop").click()
    notebook.button("Go on").wait_for(state="visible")
    assert notebook.errors() == []
