"""The mask explorer in JupyterLab: what is on the screen is what the same explorer without a browser says."""
import pytest
from seen import Notebook, eventually

from modnb.view.widgets import mask_explorer


@pytest.fixture(scope="module")
def reference():
    "The same explorer, trained in this process with the same seeds."
    explorer = mask_explorer()
    explorer.train(wait=True)
    explorer.view.layer.value = "layers.1.weight"
    explorer.cuts.boxes[0, "mask"].value = True
    return explorer


@pytest.fixture(scope="module")
def notebook(lab, chromium):
    found = Notebook(chromium, lab, "masks.ipynb")
    found.run_all()
    return found


@pytest.fixture
def same(notebook, reference):
    "A function that compares pictures and numbers with the reference."
    def compare():
        for name, picture in (("layer", reference.layer), ("bars", reference.bars), ("cut", reference.asked)):
            assert notebook.bytes_of(notebook.picture(name)) == picture.image.value, f"the picture {name!r} is another"
        assert notebook.rows("modnb-overlap") == notebook.parsed(reference.numbers.value)
        assert notebook.rows("modnb-accuracy") == notebook.parsed(reference.accuracy.value)
    return lambda: eventually(compare)


def test_it_runs_and_shows_the_right_pictures(notebook, same):
    assert notebook.errors() == []
    same()


def test_layers_by_keyboard(notebook, reference, same):
    before = notebook.bytes_of(notebook.picture("layer"))
    notebook.press("layer", "ArrowRight")
    notebook.reads("layer", "layers.2.weight")
    reference.view.layer.value = "layers.2.weight"
    same()
    assert notebook.bytes_of(notebook.picture("layer")) != before


def test_threshold_by_mouse(notebook, reference, same):
    before = notebook.bytes_of(notebook.picture("layer"))
    notebook.drag("kept if p >", 40)
    threshold = float(notebook.readout("kept if p >").inner_text())
    assert threshold > 0.6
    reference.view.threshold.value = threshold
    same()
    assert notebook.bytes_of(notebook.picture("layer")) != before


def test_cuts_change_accuracy_and_confusion_at_once(notebook, reference, same):
    boxes = {kind: notebook.page.get_by_role("checkbox", name=text, exact=True) for kind, text in (("mask", "its mask"), ("inverse", "all but its mask"), ("random", "as many at random"))}
    for i, kind, on in ((0, "mask", False), (1, "inverse", True), (1, "inverse", False), (0, "random", True)):
        boxes[kind].nth(i).set_checked(on)
        reference.cuts.boxes[i, kind].value = on
        same()
    boxes["mask"].nth(1).focus()
    notebook.page.keyboard.press("Space")
    reference.cuts.boxes[1, "mask"].value = True
    same()
    assert notebook.rows("modnb-accuracy")[1][1] == "100.0 %" and notebook.errors() == []


def test_slider_to_picture(notebook):
    "A figure to read, not a bound: it depends on the machine and its load."
    for label in ("layer", "kept if p >"):
        median, all_of_them = notebook.latency(label, notebook.picture("layer"), ["ArrowLeft", "ArrowRight"] * 5)
        print(f"\nmask explorer, {label!r} to new picture: median {median:.0f} ms, {min(all_of_them):.0f} to {max(all_of_them):.0f} ms")
        assert len(all_of_them) == 10


def test_stop_keeps_what_was_learned_and_goes_on(notebook):
    steps = notebook.control("mask steps").locator("input")
    steps.fill("3000")
    steps.press("Enter")
    notebook.button("Train").click()
    line = notebook.page.locator(".modnb-note").first
    notebook.page.wait_for_function("document.querySelector('.modnb-note').textContent.match(/masks [1-9]\\d*\\/3000.*step\\/s.*left/)")
    curves = notebook.bytes_of(notebook.picture("curves"))
    notebook.press("layer", "ArrowLeft")                  # the kernel answers while it trains
    notebook.button("Stop").click()
    notebook.button("Go on").wait_for(state="visible")
    assert "stopped; what was learned is kept" in line.inner_text() and notebook.bytes_of(notebook.picture("curves")) != curves
    step = int(line.inner_text().split()[1].partition("/")[0])
    assert 0 < step < 3000
    notebook.settle()
    before = notebook.bytes_of(notebook.picture("layer"))
    notebook.press("layer", "ArrowLeft")
    notebook.page.wait_for_timeout(1500)
    notebook.settle()
    assert notebook.bytes_of(notebook.picture("layer")) != before or notebook.readout("layer").inner_text() == "layers.0.weight"
    notebook.button("Go on").click()
    notebook.page.wait_for_function(f"+(document.querySelector('.modnb-note').textContent.match(/masks (\\d+)\\/3000/) || [0, 0])[1] > {step}")
    notebook.button("Stop").click()
    notebook.button("Go on").wait_for(state="visible")
    assert notebook.errors() == []


def test_an_interrupted_kernel_is_usable(notebook):
    "Last: it leaves the error that an interruption leaves."
    notebook.run_cell("explorer.train(wait=True)", wait=False)
    notebook.page.wait_for_function("document.querySelector('.modnb-note').textContent.includes('step/s')")
    notebook.command("notebook:interrupt-kernel")
    notebook.button("Go on").wait_for(state="visible")
    notebook.settle()
    assert any("KeyboardInterrupt" in e for e in notebook.errors())
    assert notebook.run_cell("print(6 * 7, explorer.trainer.job.state)") == "42 stopped"
    assert notebook.complaints == []
