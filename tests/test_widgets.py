"""The explorers without a browser: what a control does to state, numbers and pictures; stopping, going on, errors."""
import hashlib
import json
import re
import shutil

import pytest
import torch
from torch import nn
from tree import ROOT

from modnb.masks import masked
from modnb.runs import run
from modnb.runs.store import note
from modnb.metrics.collapse import Activation, modules_in_order
from modnb.view.widgets import gate_explorer, mask_explorer, own_study, routing_explorer, run_browser, systems_explorer
from modnb.view.widgets.masks import cut


@pytest.fixture(scope="module")
def trained():
    "A mask explorer whose masks were learned, shared by the tests that only look."
    explorer = mask_explorer()
    explorer.train(wait=True)
    return explorer


@pytest.fixture
def explorer(trained):
    "The same, with every control where it began."
    trained.view.layer.value, trained.view.threshold.value = "layers.0.weight", 0.5
    for box in trained.cuts.boxes.values():
        box.value = False
    for box in trained.cuts.where.values():
        box.value = True
    return trained


def shown(picture):
    return hashlib.sha1(picture.image.value).hexdigest()


def cells(html):
    "Rows of a table, as texts."
    rows = [re.findall(r"<t[dh][^>]*>([^<]*)<", row) for row in re.findall(r"<tr>(.*?)</tr>", html)]
    return {row[0]: row[1:] for row in rows}


def test_training_shows_curves_masks_and_numbers(explorer):
    rows = explorer.trainer.job.messages.rows
    assert explorer.trainer.job.state == "done" and {r[0] for r in rows} == {"network", "masks"}
    assert explorer.trainer.bar.value == 1 and "300/300" in explorer.trainer.line.value and explorer.results.layout.display is None
    masks = explorer.work.masks
    both = int((masks["add"]["layers.1.weight"] & masks["mul"]["layers.1.weight"]).sum())
    either = int((masks["add"]["layers.1.weight"] | masks["mul"]["layers.1.weight"]).sum())
    assert cells(explorer.numbers.value)["layers.1.weight"][0] == f"{both / either:.3f}"


def test_layer_and_threshold_change_picture_and_numbers(explorer):
    first, bars = shown(explorer.layer), shown(explorer.bars)
    explorer.view.layer.value = "layers.2.weight"
    assert shown(explorer.layer) != first and explorer.layer.state["layer"] == "layers.2.weight"
    explorer.view.layer.value = "layers.0.weight"
    assert (shown(explorer.layer), shown(explorer.bars)) == (first, bars)
    before = cells(explorer.numbers.value)
    explorer.view.threshold.value = 0.9
    kept = {f: int(sum((p > 0.9).sum() for p in explorer.work.found.keep_prob(f).values())) for f in ("add", "mul")}
    assert all(f"{f}: {k:,} of 3,840" in explorer.numbers.value for f, k in kept.items())
    assert shown(explorer.layer) != first and cells(explorer.numbers.value) != before


@pytest.mark.parametrize("index, kind", [(0, "mask"), (0, "inverse"), (1, "mask"), (1, "inverse"), (0, "random")])
def test_a_cut_is_what_masking_says(explorer, index, kind):
    study, work, f = explorer.work.study, explorer.work, ("add", "mul")[index]
    explorer.cuts.boxes[index, kind].value = True
    expected = study.accuracy(masked(work.net, cut(work.masks, [(f, kind)])))
    assert explorer.after == expected and explorer.before == {"add": 1.0, "mul": 1.0}
    assert {n: r[1] for n, r in cells(explorer.accuracy.value).items() if n in expected} == {n: f"{100 * a:.1f} %" for n, a in expected.items()}
    gone = work.masks[f].total - work.masks[f].kept if kind == "inverse" else work.masks[f].kept
    assert f"{gone:,} of 3,840 weights cut" in explorer.accuracy.value
    assert expected[f] > 0.9 if kind == "inverse" else expected[f] < 0.6
    picture = shown(explorer.asked)
    explorer.cuts.boxes[index, kind].value = False
    assert explorer.after == explorer.before and shown(explorer.asked) != picture and f"{0:,} of 3,840 weights cut" in explorer.accuracy.value


def test_cuts_join_and_keep_to_their_layers(explorer):
    masks = explorer.work.masks
    explorer.cuts.boxes[0, "mask"].value = explorer.cuts.boxes[1, "mask"].value = True
    assert explorer.left == ~(masks["add"] | masks["mul"])
    explorer.cuts.where["early"].value = False
    assert [bool(t.all()) for t in explorer.left.values()] == [True, True, False]
    explorer.cuts.boxes[1, "mask"].value = explorer.cuts.boxes[0, "mask"].value = False
    explorer.cuts.boxes[0, "random"].value = True
    first = explorer.left
    explorer.cuts.again.click()
    assert explorer.left != first and explorer.left.kept == first.kept


def test_static_render_is_the_screen(explorer):
    explorer.view.layer.value = "layers.1.weight"
    one = explorer.still().png
    explorer.cuts.boxes[0, "mask"].value = True
    two = explorer.still().png
    assert one[:4] == b"\x89PNG" and one != two == explorer.still().png
    assert "application/vnd.jupyter.widget-view+json" in explorer._repr_mimebundle_()


def own(**more):
    "A study of two bits; it learns in no time."
    x = torch.tensor([[a, b, q] for q in (0.0, 1.0) for a in (0.0, 1.0) for b in (0.0, 1.0)])
    y = torch.where(x[:, 2] == 0, x[:, 0], x[:, 1] + 2).long()
    parts = {f: (x[s].repeat(2, 1), y[s].repeat(2)) for f, s in (("first", slice(0, 4)), ("second", slice(4, 8)))}
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 4))
    return net, own_study(net, {f: [p] for f, p in parts.items()}, nn.functional.cross_entropy, parts, train=[(x, y)], **{"fit": {"steps": 150, "lr": 3e-2}, "learn": {"steps": 60, "lr": 0.2}} | more)


def stop_when(explorer, ready):
    "Press Train, and Stop from within the work as soon as it is ready: however fast or slow it is."
    job = explorer.trainer.job
    show, interval = job.changed, job.interval

    def press(job):
        show(job)
        if job.running and ready():
            explorer.trainer.end.click()

    job.changed, job.interval = press, 0.0
    explorer.trainer.begin.click()
    assert job.wait(300).state == "stopped"
    job.changed, job.interval = show, interval


def test_your_own_network_stays_as_it_is():
    net, study = own()
    before = {n: t.clone() for n, t in net.state_dict().items()}
    explorer = mask_explorer(study)
    explorer.train(wait=True)
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())
    assert explorer.settings.study.value == "your own network" and explorer.view.pair.value == ("first", "second") and explorer.before == {"first": 1.0, "second": 1.0}
    assert list(explorer.view.layer.options) == ["0.weight", "2.weight"] and explorer.asked.state["rows"] == ["0", "1", "2", "3"]


def test_stop_keeps_and_going_on_arrives_where_an_unbroken_run_does():
    _, study = own(learn={"steps": 300, "lr": 0.2, "batching": "vmap"}) # a race for the fastest route would decide the last bits
    explorer, whole = mask_explorer(study), mask_explorer(study)
    stop_when(explorer, lambda: explorer.work.masks is not None and explorer.trainer.job.messages.event.step >= 30)
    step = explorer.trainer.job.messages.event.step
    assert 0 < step < 300 and explorer.work.found is not None and "what was learned is kept" in explorer.trainer.line.value
    assert explorer.trainer.begin.description == "Go on" and explorer.trainer.end.disabled and not explorer.settings.beta.disabled
    explorer.view.threshold.value = 0.8
    assert explorer.layer.state["masks"]["first"].kept < explorer.work.masks["first"].kept
    explorer.train(wait=True)
    whole.train(wait=True)
    assert explorer.trainer.job.state == "done" and all(torch.equal(t, whole.work.found.logits[f][n]) for f, ls in explorer.work.found.logits.items() for n, t in ls.items())
    curve = [r for r in explorer.trainer.job.messages.rows if r[0] == "masks" and r[2] == "first/kept"]
    assert [r[1] for r in curve] == sorted({r[1] for r in curve}) and curve[-1][1] == 300


def test_other_settings_and_other_studies():
    _, study = own()
    explorer = mask_explorer(study)
    explorer.train(wait=True)
    net, kept = explorer.work.net, explorer.work.masks["first"].kept
    explorer.settings.beta.value = 0.5
    explorer.train(wait=True)
    assert explorer.work.net is net and explorer.work.masks["first"].kept < kept     # other masks, the same network
    explorer.settings.fit_steps.value = 160
    assert explorer.work.net is not net and explorer.work.masks is None and explorer.results.layout.display == "none"
    explorer.settings.study.value = "two additions"
    assert explorer.view.pair.value == ("pair 1", "pair 2") and explorer.settings.mask_steps.value == 300 and explorer.trainer.job.state == "ready"


def test_errors_are_shown_and_leave_the_explorer_usable():
    _, study = own()
    study.loss = lambda outputs, targets: nn.functional.cross_entropy(outputs, targets) * float("nan")
    explorer = mask_explorer(study)
    explorer.train(wait=True)
    assert explorer.trainer.job.state == "failed" and "FloatingPointError" in explorer.trainer.problem.value and not explorer.trainer.begin.disabled
    study.loss = nn.functional.cross_entropy
    explorer.open()
    explorer.train(wait=True)
    assert explorer.trainer.job.state == "done" and explorer.trainer.problem.value == ""
    with pytest.raises(ValueError, match="did you mean 'two additions'"):
        mask_explorer("two aditions")


@pytest.fixture(scope="module")
def gates():
    "A gate explorer whose network was trained."
    explorer = gate_explorer(steps=60)
    explorer.train(wait=True)
    return explorer


def test_gates_follow_the_training_and_the_slider_goes_back(gates):
    work, rows = gates.work, gates.trainer.job.messages.rows
    assert gates.trainer.job.state == "done" and work.measured == list(range(0, 61, 2)) and gates.time.step.value == gates.time.step.max == 60 and gates.matrix.state["step"] == 60
    assert {r[2] for r in rows} == {"error", "train_loss", "collapse_avg", "collapse_worst", "alignment", "adaptation", "inverse_mutual_information"}
    last, curves = shown(gates.matrix), shown(gates.trainer.curves)
    gates.time.step.value = 20
    assert shown(gates.matrix) != last and shown(gates.trainer.curves) != curves and "step 20 of 60" in gates.numbers.value
    now, before, random = cells(gates.numbers.value)["Alignment"]
    assert (now, before, random) == (f"{Activation(work.gates[20]).metrics['alignment']:.3f}", f"{Activation(work.gates[0]).metrics['alignment']:.3f}", "0.750")
    assert [v for _, step, m, v in rows if (step, m) == (20, "alignment")] == [Activation(work.gates[20]).metrics["alignment"]]
    gates.time.step.value = 60
    assert (shown(gates.matrix), shown(gates.trainer.curves)) == (last, curves)


def test_matching_only_sorts_the_modules(gates):
    order = [t.get_text() for t in gates.matrix.still().axes[0].get_xticklabels()]
    numbers = gates.numbers.value
    gates.matched.value = False
    plain = [t.get_text() for t in gates.matrix.still().axes[0].get_xticklabels()]
    assert order == [str(m) for m in modules_in_order(gates.work.gates[60])] and plain == ["0", "1", "2", "3"] and gates.numbers.value == numbers
    gates.matched.value = True


def test_other_gates_are_other_networks():
    explorer = gate_explorer(steps=4)
    explorer.train(wait=True)
    net = explorer.work.net
    explorer.choice.rules.value = 2
    assert explorer.work.net is not net and explorer.work.gates == {} and explorer.results.layout.display == "none"
    explorer.choice.arch.value = "rnn"
    assert explorer.choice.steps.value == 200 and explorer.work.settings.arch == "rnn"
    explorer.choice.steps.value, explorer.choice.gating.value, explorer.choice.balance.value = 3, "gt-modular", 1.0
    explorer.train(wait=True)
    assert explorer.trainer.job.state == "done" and cells(explorer.numbers.value)["Alignment"] == ["0.000", "0.000", "0.500"]
    with pytest.raises(ValueError, match="arch: 'mpl' is unknown"):
        gate_explorer(arch="mpl")


def test_settings_that_cannot_be_are_named_and_leave_the_explorer_usable():
    explorer = gate_explorer(arch="mha", rules=8, width=8, steps=2)
    explorer.choice.width.value = 3
    assert "width: 3 given; too small for 16 heads" in explorer.problem.value
    explorer.trainer.begin.click()
    assert explorer.trainer.job.state == "ready" and "too small" in explorer.trainer.problem.value and not explorer.trainer.begin.disabled
    explorer.choice.width.value = 8
    explorer.train(wait=True)
    assert explorer.trainer.job.state == "done" and explorer.problem.value == explorer.trainer.problem.value == ""


@pytest.mark.parametrize("make", [lambda: gate_explorer(steps=240), lambda: routing_explorer("two maps of the plane", steps=240)], ids=["gates", "routing"])
def test_stopped_explorers_keep_look_back_and_go_on(make):
    explorer = make()
    stop_when(explorer, lambda: explorer.work.step >= 24)
    step = explorer.work.step
    assert 24 <= step < 240 and explorer.trainer.begin.description == "Go on" and "what was learned is kept" in explorer.trainer.line.value
    explorer.time.step.value = 8
    assert "step 8 of 240" in explorer.numbers.value
    explorer.train(wait=True)
    assert explorer.trainer.job.state == "done" and explorer.time.step.max == 240 and explorer.time.step.value == 8      # who looks back is left there
    whole = make()
    whole.train(wait=True)
    assert whole.trainer.job.messages.rows == explorer.trainer.job.messages.rows and whole.time.step.value == 240


@pytest.fixture(scope="module")
def routing():
    explorer = routing_explorer("four maps of the plane", steps=60)
    explorer.train(wait=True)
    return explorer


def test_both_sides_show_the_same_step_and_seed(routing):
    before = [shown(p) for p in routing.pictures]
    routing.seed.value, routing.time.step.value = 3, 30
    assert all(shown(p) != old and p.state["seed"] == 3 and "step 30" in p.state["title"] for p, old in zip(routing.pictures, before))
    told = {name: v for _, step, name, v in routing.trainer.job.messages.rows if step == 30}
    row = next(r for name, r in cells(routing.numbers.value).items() if name.startswith("H_b"))
    assert (row[0], row[2]) == tuple(f"{told[f'{side}/H_b/3']:.3f}" for side in (0, 1))
    routing.time.step.value = 0
    first = cells(routing.numbers.value)
    assert all(r[0] == r[2] for name, r in first.items() if name) and len(first) == 6           # both begin with the same weights


def test_what_a_side_shows_is_what_its_router_says(routing):
    routing.time.step.value, routing.seed.value = 60, 1
    for side, picture in zip(routing.work.sides, routing.pictures):
        chosen = side.net.predict(side.task.x)[1][1, :, 0]
        bars = [p.get_height() for p in picture.still().axes[1].patches]
        assert bars == pytest.approx([100 * float((chosen == m).float().mean()) for m in range(4)])


def test_other_estimators_and_tasks_begin_anew(routing):
    explorer = routing_explorer("two maps of the plane", steps=3)
    explorer.train(wait=True)
    explorer.choice.task.value = "eight maps in eight dimensions"
    assert explorer.choice.steps.value == 600 and explorer.work.step == 0 and explorer.results.layout.display == "none"
    explorer.choice.steps.value, explorer.choice.left.value = 2, "soft output"
    explorer.train(wait=True)
    assert explorer.work.sides[0].row == "soft output" and "principal component" in explorer.pictures[0].still().axes[0].get_xlabel() and explorer.still().png[:4] == b"\x89PNG"
    with pytest.raises(ValueError, match="right: 'EM' is unknown"):
        routing_explorer(right="EM")


@pytest.fixture(scope="module")
def systems():
    "A systems explorer whose network was stopped on the way, then trained to the end."
    explorer = systems_explorer("arithmetic", "exact marginal", steps=4, seed=1)
    stop_when(explorer, lambda: explorer.work.step >= 2)
    explorer.stopped = explorer.work.step, explorer.trainer.begin.description, explorer.trainer.line.value, explorer.choice.seed.disabled
    explorer.train(wait=True)
    return explorer


def test_a_stopped_system_goes_on_and_arrives_where_an_unbroken_run_does(systems):
    step, button, line, locked = systems.stopped
    assert 2 <= step < 4 and button == "Go on" and "what was learned is kept" in line and not locked
    whole = systems_explorer("arithmetic", "exact marginal", steps=4, seed=1)
    whole.train(wait=True)
    assert systems.trainer.job.state == whole.trainer.job.state == "done" and whole.trainer.job.messages.rows == systems.trainer.job.messages.rows
    assert all(torch.equal(t, whole.work.states[4][n]) for n, t in systems.work.states[4].items())


def test_sliders_of_the_systems_explorer_move_what_they_say(systems):
    assert systems.time.step.value == systems.time.step.max == 4
    (usage, example), curves = map(shown, systems.pictures), shown(systems.trainer.curves)
    systems.example.value = 7
    assert shown(systems.pictures[0]) == usage and shown(systems.pictures[1]) != example and "step 4 of 4, example 7, seed 1" in systems.numbers.value
    systems.time.step.value = 0
    assert shown(systems.pictures[0]) != usage and shown(systems.trainer.curves) != curves
    told = {name: v for _, step, name, v in systems.trainer.job.messages.rows if step == 0}
    row = cells(systems.numbers.value)["10 terms"]
    assert row == ["held out", *[f"{100 * told['accuracy, 10 terms']:.0f} %"] * 2]


def test_another_system_begins_anew_with_its_rows(systems):
    explorer = systems_explorer("robots and tasks", "one network", steps=2)
    explorer.train(wait=True)
    assert [r[1] for r in explorer.rows if r[2] == "success, seen pairs"] == [0, 1, 2]        # a plain network is measured before it learns, too
    assert "no modules" in explorer.pictures[0].still().texts[0].get_text()
    explorer.choice.system.value = "SHAPES"
    assert explorer.work.row == explorer.choice.row.value == "layouts and words given" and explorer.rows == [] and explorer.results.layout.display == "none"
    with pytest.raises(ValueError, match="row: 'one network' is unknown"):
        systems_explorer("SHAPES", "one network")


def many(place, n):
    "A folder of n runs: one that was computed, and copies of it with other parameters."
    first = run("toys.walk", runs=place, progress=False, steps=5).folder.path
    status, about = (json.loads((first / f"{name}.json").read_text()) for name in ("status", "params"))
    for i in range(1, n):
        folder = first.parent / hashlib.sha1(str(i).encode()).hexdigest()[:12]
        shutil.copytree(first, folder)
        (folder / "params.json").write_text(json.dumps(about | {"signature": folder.name, "params": about["params"] | {"seed": i % 10, "steps": 10 * (1 + i % 7)}}))
        status["files"]["params.json"] = note(folder / "params.json")
        (folder / "status.json").write_text(json.dumps(status if i % 50 else status | {"state": "failed", "error": "ValueError: no wind"}))
    return first.parent.parent


def test_many_runs_are_filtered_ordered_paged_and_opened(place):
    browser = run_browser(many(place / "runs", 450))
    assert browser.trainer.job.wait(300).state == "done" and len(browser.whole) == 450
    table = browser.table
    assert "450 of 450: 442 done, 8 failed" in table.count.value and len(table.list.options) == 200 and table.page.max == 3
    table.page.value = 3
    assert len(table.list.options) == 50
    table.filter.value = "seed>=8 state=done"
    wanted = browser.whole[(browser.whole.seed >= 8) & (browser.whole.state == "done")]
    assert table.page.value == 1 and {key[1] for _, key in table.list.options} == set(wanted.run)
    table.order.value, table.falling.value = "steps", True
    assert [browser.reader.rows[key]["steps"] for _, key in table.list.options] == sorted(wanted.steps, reverse=True)
    browser.axes.x.value, browser.axes.y.value, before = "steps", "place", browser.figure.image.value
    browser.axes.color.value = "seed"
    assert browser.figure.image.value != before and len(browser.figure.state["frame"]) == len(wanted) and browser.figure.state["color"] == "seed"
    table.filter.value = "wind"
    table.list.index = 0
    assert len(table.list.options) == 8 and "ValueError: no wind" in browser.report.value and browser.problem.value == ""


def test_reading_runs_can_be_stopped_and_goes_on(place):
    browser = run_browser(many(place / "runs", 150))
    browser.trainer.job.stop()
    browser.trainer.job.wait(300)
    if browser.trainer.job.state == "stopped":
        assert len(browser.whole) <= 150 and browser.trainer.begin.description == "Go on"
        browser.read(wait=True)
    assert browser.trainer.job.state == "done" and len(browser.whole) == 150


@pytest.mark.parametrize("path", sorted((ROOT / "nbs" / "explore").glob("*.ipynb")), ids=lambda p: p.name)
def test_explorer_notebooks_show_a_picture_and_no_dead_widget(path):
    outputs = [o.get("data", {}) for c in json.loads(path.read_text(encoding="utf-8"))["cells"] for o in c.get("outputs", ())]
    assert any("image/png" in data for data in outputs)
    assert not any("application/vnd.jupyter.widget-view+json" in data for data in outputs), "run `make clean-notebooks`"
