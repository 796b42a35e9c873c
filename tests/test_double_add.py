"Double addition and the choice of beta: what the reference's sweeps, counts and networks say."
import math

import pytest
import torch
from tree import ROOT

from modnb.experiments.masks import beta_sweep, double_add
from modnb.masks import weights_only
from modnb.runs import Grid
GRIDS = ROOT / "nbs" / "grids" / "masks"


def masked_weights(net):
    return sum(p.numel() for n, p in net.named_parameters() if weights_only(n, p))


@pytest.mark.parametrize("network, layers, weights", [("ff", (800,) * 4, 2_016_000), ("ff", (2000,) * 4, 12_240_000), ("together", (), 878_592), ("only_one_io", (), 878_592)])
def test_masked_weights_are_as_many_as_in_the_reference(network, layers, weights):
    params = double_add.Params.make(dict(layer_sizes=layers) if layers else {}, preset="paper")
    assert masked_weights(double_add.build(params, network, 0)) == weights


def test_grids_have_the_settings_of_the_sweeps():
    runs = {p.stem: [r.params for r in Grid.from_yaml(p).runs] for p in GRIDS.glob("double_add*.yaml")}
    assert {name: len(r) for name, r in runs.items()} == {"double_add_big": 10, "double_add_big_copyweight": 10, "double_add_big_first_full_mask": 10, "double_add_small_halfmask": 10,
                                                          "double_add_lstm": 20, "double_add_lstm_first_full_mask": 20}
    for p in (p for r in runs.values() for p in r):
        assert (p.digits, p.train_steps, p.mask_steps, p.batch_size, p.mask_batch_size, p.lr, p.mask_lr, p.mask_init, p.samples, p.valid) == (2, 20_000, 20_000, 128, 128, 1e-3, 1e-2, 2.0, 4, 10_000)
        assert double_add.beta_of(p, p.networks[0]) == (4e-4 if p.networks[0].startswith("ff") else 1e-4)
    assert runs["double_add_big"][0].layer_sizes == (2000,) * 4 and runs["double_add_small_halfmask"][0].layer_sizes == (800,) * 4
    assert (runs["double_add_lstm"][0].hidden_size, runs["double_add_lstm"][0].n_layers) == (256, 2)
    assert set(runs["double_add_big"]) == set(runs["double_add_big_first_full_mask"]) and set(runs["double_add_lstm"]) == set(runs["double_add_lstm_first_full_mask"])


@pytest.mark.parametrize("task, extra, ours, size", [("tuple_ff", {"layer_sizes": "2000,2000,2000,2000", "inv_mask_exclude_io": "fullmask", "mask_loss_weight": 4e-4}, "double_add_big_first_full_mask", 10),
                                                     ("tuple", {"state_size": 256, "n_layers": 2, "mask_loss_weight": 1e-4}, "double_add_lstm", 20)])
def test_published_sweep_files_load(tmp_path, task, extra, ours, size):
    "In the layout and with the names of the reference's sweep files; apart from beta, which they give as a number, they are our grids."
    lines = ["program: main.py", "method: grid", "parameters:"]
    single = dict(name="x", log="wandb", task=task, stop_after=20000, n_digits=2, mask_lr=1e-2, step_per_mask=20000, bias_no_mask=1) | extra
    lines += [line for n, v in single.items() for line in (f"  {n}:", f"    value: {v!r}")]
    lines += ["  sweep_id_for_grid_search:", "    distribution: categorical", f"    values: {list(range(1, 11))}"]
    lines += ["  tuple.mode:", "    values: [only_one_io, together]"] if task == "tuple" else []
    (tmp_path / "sweep.yaml").write_text("\n".join(lines))
    grid, mine = Grid.from_yaml(tmp_path / "sweep.yaml"), Grid.from_yaml(GRIDS / f"{ours}.yaml")
    assert grid.experiment.name == "double_add" and len(grid) == size
    same = lambda runs: {(r.params.networks, *((n, v) for n, v in r.params.to_dict().items() if n not in ("beta", "seed", "networks"))).__repr__() for r in runs}
    assert same(grid.runs) == same(mine.runs)
    assert all(math.isclose(r.params.beta, double_add.beta_of(mine.runs[0].params, r.params.networks[0])) for r in grid.runs)


def test_copied_interface_makes_both_pairs_one_computation():
    params = double_add.Params()
    net = double_add.build(params, "ff", 0)
    twin, task = double_add.copied(net), double_add.task_of(params, "ff_copied")
    numbers = torch.randint(10, (64, 2, 2), generator=torch.Generator().manual_seed(0))
    same, swapped = (task.read(twin(task.encode(n)[0])) for n in (numbers, numbers.flip(1)))
    assert torch.allclose(same, swapped.flip(1), atol=1e-6) # exchange the pairs, and the answers are exchanged
    assert torch.allclose(same[:, 1], task.read(net(task.encode(numbers)[0]))[:, 1], atol=1e-6) # pair 2 is as it was
    assert all(torch.equal(a, b) for a, b in zip(double_add.build(params, "ff", 0).parameters(), net.parameters()))


def test_groups_cover_the_tensors():
    ff, lstm = [f"layers.{i}.weight" for i in range(5)], ["lstm.weight_ih_l0", "lstm.weight_hh_l0", "lstm.weight_ih_l1", "lstm.weight_hh_l1", "output_projection.weight"]
    for network, names in (("ff", ff), ("together", lstm)):
        of = double_add.groups(network, names)
        assert sorted(of["io"] + of["hidden"]) == sorted(names) and of["early"] == names[:2] # floor(5 / 2), as the reference cuts here


def test_paper_sweep_has_the_reference_values():
    "26 values there; 1e-4 is listed twice, so 25 here, and the same as in the grid of single runs."
    grid = Grid.from_yaml(GRIDS / "add_mul_sensitivity.yaml")
    assert sorted({r.params.beta for r in grid.runs}) == sorted(beta_sweep.PAPER) and len(set(beta_sweep.PAPER)) == 25
