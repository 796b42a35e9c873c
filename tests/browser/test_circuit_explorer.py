"""The circuit explorer in JupyterLab: graph, losses and numbers are what the same explorer without a browser shows."""
import pytest
import torch
from seen import Notebook, eventually

from modnb.circuits.finders import GumbelEdges, find_edges
from modnb.circuits.induction import RepeatTask, induction_truth, train_repeater
from modnb.circuits.tasks import EdgeTask
from modnb.view.widgets import circuit_explorer


@pytest.fixture(scope="module")
def reference():
    "The same explorer, trained in this process with the same seeds."
    torch.set_num_threads(1)
    repeats = RepeatTask(vocab=16, length=18, shortest=4, longest=8, width=32, heads=4)
    net, _ = train_repeater(repeats, seed=1, steps=300, batch_size=32, every=300)
    task = EdgeTask(net, [repeats.batch(16, seed) for seed in range(4)])
    truth = torch.stack(list(induction_truth(net, repeats.draw(300, 99), task.graph).values())).any(0)
    scores = find_edges(task, GumbelEdges(steps=120)).scores
    explorer = circuit_explorer(EdgeTask(net, [repeats.batch(50, 98)]), scores, truth, size=int(truth.sum()))
    explorer.cut.value = explorer.cut.options[1][1]
    return explorer


@pytest.fixture(scope="module")
def notebook(lab, chromium):
    found = Notebook(chromium, lab, "circuits.ipynb")
    found.run_all()
    return found


@pytest.fixture
def same(notebook, reference):
    "A function that compares pictures and numbers with the reference."
    def compare():
        for name, picture in (("circuit", reference.graph), ("losses", reference.losses)):
            assert notebook.bytes_of(notebook.picture(name)) == picture.image.value, f"the picture {name!r} is another"
        assert notebook.page.locator(".modnb-note").first.inner_text() in reference.numbers.value
    return lambda: eventually(compare)


def test_it_runs_and_shows_graph_and_losses_side_by_side(notebook, same):
    assert notebook.errors() == []
    same()
    left, right = (notebook.picture(name).bounding_box() for name in ("circuit", "losses"))
    assert left["y"] < right["y"] + right["height"] and right["y"] < left["y"] + left["height"]
    assert left["x"] + left["width"] <= right["x"] and right["x"] + right["width"] <= 1280
    assert "precision" in notebook.page.locator(".modnb-note").first.inner_text()


def test_an_edge_is_cut(notebook, reference, same):
    before = [notebook.bytes_of(notebook.picture(name)) for name in ("circuit", "losses")]
    cut = notebook.control("cut").locator("select")
    label, number = reference.cut.options[3]
    cut.select_option(label=label)
    notebook.settle()
    reference.cut.value = number
    same()
    now = [notebook.bytes_of(notebook.picture(name)) for name in ("circuit", "losses")]
    assert now[0] != before[0] and now[1] == before[1]
    assert f"without {label}" in notebook.page.locator(".modnb-note").first.inner_text()
    cut.select_option(label="nothing")
    notebook.settle()
    reference.cut.value = -1
    same()
    assert "without" not in notebook.page.locator(".modnb-note").first.inner_text()


def test_edges_kept_by_keyboard(notebook, reference, same):
    size = reference.size.value
    notebook.press("edges kept", "ArrowLeft", 4)
    notebook.reads("edges kept", str(size - 4))
    reference.size.value = size - 4
    same()
    options = [text.replace("\N{NO-BREAK SPACE}", " ") for text in notebook.control("cut").locator("option").all_inner_texts()]
    assert options == [label for label, _ in reference.cut.options] and len(options) == size - 3
    assert notebook.errors() == []


def test_edges_kept_by_mouse(notebook, reference, same):
    notebook.drag("edges kept", 60)
    size = int(notebook.readout("edges kept").inner_text())
    assert size > reference.size.value
    reference.size.value = size
    same()
    assert notebook.errors() == []
