"""Masks, training, routing and metrics on a device, compared with the CPU."""
import copy

import pytest
import torch
from torch import nn

from modnb.data.stream import Stream
from modnb.data.toy_maps import regimes
from modnb.masks import Masks, learn_masks, masked
from modnb.masks.estimators import ESTIMATORS as MASK_ESTIMATORS
from modnb.metrics.entropy import selection_entropies
from modnb.metrics.sharing import overlap
from modnb.models.feedforward import FeedForward
from modnb.routing import LAWS, make_law
from modnb.routing.comparison import ROWS, trial
from modnb.training import fit, fit_ensemble

LOSS = nn.functional.cross_entropy
CPU = torch.device("cpu")


def network(device=CPU, seed=0): return FeedForward(6, (8,), 3, seed=seed).to(device)


def batch(device=CPU, rows=8, seed=0):
    g = torch.Generator(CPU).manual_seed(seed)
    return torch.randn(rows, 6, generator=g, device=CPU).to(device), torch.randint(3, (rows,), generator=g, device=CPU).to(device)


def learned(device, data_device=None, net=None, **options):
    net = network(device) if net is None else net
    data = {name: [batch(data_device or device, seed=i)] for i, name in enumerate("ab")}
    return learn_masks(net, data, LOSS, **dict(steps=3, samples=2) | options)


def near(a, b, tolerance=1e-4): torch.testing.assert_close(a.detach().cpu(), b.detach().cpu(), rtol=tolerance, atol=tolerance)


def test_base_network_stays_bit_equal(device):
    net = network(device)
    before = {n: t.clone() for n, t in net.state_dict().items()}
    learned(device, net=net, steps=5)
    for n, t in net.state_dict().items(): assert torch.equal(t, before[n]) and t.device.type == device.type


@pytest.mark.parametrize("batching", ["vmap", "loop"])
def test_logits_are_those_of_the_cpu_loop(device, batching):
    here = learned(device, batching=batching, backend="eager")
    there = learned(CPU, batching="loop", backend="eager")
    for f, logits in here.logits.items():
        for n, t in logits.items():
            assert t.device.type == device.type
            near(t, there.logits[f][n], 1e-3)


@pytest.mark.parametrize("estimator", sorted(MASK_ESTIMATORS))
@pytest.mark.parametrize("granularity", ["weight", "row"])
def test_mask_estimators(device, estimator, granularity):
    found = learned(device, estimator=estimator, granularity=granularity)
    assert all(t.device.type == device.type for m in found.masks.values() for t in m.values())
    assert all(t.isfinite().all() for l in found.logits.values() for t in l.values())


@pytest.mark.parametrize("options", [dict(memory="low"), dict(clip="published"), dict(optimizer="sgd"), dict(together=False),
                                     dict(lr=lambda i: 0.1 / (i + 1)), dict(init=1.0, fixed=["layers.0.weight"])], ids=" ".join)
def test_options_of_learn_masks(device, options):
    assert learned(device, **options).history.value.notna().all()


def test_batches_on_the_cpu_are_moved(device):
    found = learned(device, data_device=CPU)
    near(found.logits["a"]["layers.0.weight"], learned(device).logits["a"]["layers.0.weight"])


def test_several_networks(device):
    nets = [network(device, seed) for seed in range(2)]
    found = learn_masks(nets, {"a": [batch(device)]}, LOSS, steps=3, samples=2)
    assert [f.masks["a"]["layers.0.weight"].device.type for f in found] == [device.type] * 2


def test_weights_trained_with_masks(device):
    found = learn_masks(network(device), {"a": [batch(device)]}, LOSS, steps=3, samples=2, train_weights=True)
    assert found.weights["layers.0.weight"].device.type == device.type


def test_mask_algebra_and_files(device, tmp_path):
    masks = learned(device).masks
    both = masks["a"] & ~masks["b"] | masks["a"] ^ masks["b"]
    assert {t.device.type for t in both.values()} == {device.type}
    again = Masks.random_like(masks["a"], seed=3)
    assert again.kept == masks["a"].kept and again == Masks.random_like(masks["a"].to("cpu"), seed=3).to(device)
    both.save(tmp_path / "m.safetensors")
    assert Masks.load(tmp_path / "m.safetensors") == both.to("cpu") # across devices
    assert len(overlap(masks["a"], masks["b"])) > 0
    x, _ = batch(device)
    near(masked(network(device), masks["a"])(x), masked(network(), masks["a"].to("cpu"))(x.cpu()))


def test_default_device(device):
    "Everything also works where the device is the default one."
    with torch.device(device):
        masks = learned(device, estimator="edge-popup").masks["a"]
        assert Masks.random_like(masks, seed=1).kept == masks.kept
        learned(device, estimator="random")
        assert FeedForward(6, (8,), 3, seed=0)(batch(device)[0]).device.type == device.type
        fit(network(device), [batch(device)], LOSS, 2)


def test_state_moves_between_devices(device, tmp_path):
    net = network(device)
    fit(net, [batch(device)], LOSS, 3)
    torch.save(net.state_dict(), tmp_path / "net.pt")
    other = network()
    other.load_state_dict(torch.load(tmp_path / "net.pt", map_location="cpu", weights_only=True))
    near(other(batch()[0]), net(batch(device)[0]))


def test_fit_and_resume(device, tmp_path):
    whole, parts = network(device), network(device)
    data = Stream(lambda g: batch(device, seed=int(torch.randint(9, (), generator=g))), seed=0)
    fit(whole, data, LOSS, 6)
    fit(parts, data, LOSS, 6, stop=None, checkpoint=tmp_path / "c.pt", checkpoint_every=2)
    for a, b in zip(whole.parameters(), parts.parameters()): assert torch.equal(a, b)


def test_fit_follows_the_cpu(device):
    here, there = network(device), network()
    data = [batch(seed=i) for i in range(3)] # on the CPU: batches are moved
    fit(here, data, LOSS, 3)
    fit(there, data, LOSS, 3)
    for a, b in zip(here.parameters(), there.parameters()): near(a, b, 1e-3)


def test_ensembles(device):
    nets = [network(device, seed) for seed in range(4)]
    alone = [copy.deepcopy(net) for net in nets]
    streams = [[batch(device, seed=s)] for s in range(4)]
    fit_ensemble(nets, streams, LOSS, 3)
    for net, stream in zip(alone, streams): fit(net, stream, LOSS, 3)
    for net, one in zip(nets, alone):
        for a, b in zip(net.parameters(), one.parameters()): near(a, b, 1e-3)


def test_autocast(device):
    if device.type == "card": pytest.skip("autocast is PyTorch's own on a GPU; the card has none")
    found = learned(device, autocast=torch.bfloat16)
    assert found.logits["a"]["layers.0.weight"].dtype == torch.float32
    fit(network(device), [batch(device)], LOSS, 2, autocast=torch.bfloat16)


@pytest.mark.parametrize("name", sorted(LAWS))
def test_laws(device, name):
    law = make_law(name, 4, 2)
    scores = torch.randn(5, *law.shape, generator=torch.Generator().manual_seed(0))
    here = scores.to(device)
    a = law.sample(here, 3, torch.Generator(device).manual_seed(0))
    assert a.device.type == device.type and law.enumerate().shape[-1] == a.shape[-1]
    near(law.log_prob(here, a), law.log_prob(scores, a.cpu()))
    for what in ("entropy", "inclusion", "counts", "mode"): near(getattr(law, what)(here), getattr(law, what)(scores))


@pytest.mark.parametrize("row", sorted(ROWS))
def test_routing_estimators_by_row(device, row):
    task = regimes(range(2), n=24)
    for name in ("x", "y", "rule"): setattr(task, name, getattr(task, name).to(device))
    frame, net, _ = trial(task, row, range(2), steps=3, batch_size=8, every=2, noise=True)
    assert {p.device.type for p in net.parameters()} == {device.type} and len(frame)


def test_selection(device):
    p = torch.softmax(torch.randn(16, 2, 4, generator=torch.Generator().manual_seed(0)), -1)
    here, there = selection_entropies(p.to(device)), selection_entropies(p)
    assert abs(here.H_a - there.H_a).max() < 1e-6


def test_two_streams(device):
    "A training on a stream of its own gives the bits of one on the default stream."
    if device.type != "cuda": pytest.skip("streams are CUDA's")
    plain = learned(device)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream): other = learned(device)
    torch.cuda.current_stream().wait_stream(stream)
    for f in plain.logits:
        for n in plain.logits[f]: near(plain.logits[f][n], other.logits[f][n], 1e-5)


def test_recorded_steps_are_eager_steps(device):
    "Graph replay: a number as learning rate is recorded on CUDA, a function never is."
    recorded = learned(device, steps=12, lr=1e-2)
    eager = learned(device, steps=12, lr=lambda i: 1e-2)
    for f in recorded.logits:
        for n in recorded.logits[f]: near(recorded.logits[f][n], eager.logits[f][n], 1e-3)
