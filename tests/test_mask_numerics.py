"The arithmetic of learning masks against plain loops of its own: clipping as published, precision, parameters of any shape, seeds and settings."
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from modnb.masks.learner import MaskLearner
from modnb.masks.learning import learn_masks
from modnb.masks.network import select, weights_only
from modnb.masks.sampling import Place, sample
from modnb.masks.units import gates


def mlp(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3))


def rows(seed, n=16):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, 6, generator=g), torch.randint(0, 3, (n,), generator=g)


def scaled(outputs, targets):
    "A loss whose gradients have norms around 1, so that clipping acts on some steps only."
    return 3 * F.cross_entropy(outputs, targets)


class Published:
    "The published step, written out: Adam knows the logits alone, and nothing else is ever cleared."
    def __init__(self, net, loss, learner, function=0, which=0, where=weights_only):
        self.net, self.loss, self.learner, self.of = net, loss, learner, (function, which)
        self.weights = {n: nn.Parameter(p.detach().clone()) for n, p in net.named_parameters() if p.is_floating_point()}
        self.logits = {n: nn.Parameter(torch.zeros(1, 1, p.numel(), dtype=torch.float64)) for n, p in select(net, where).items()}

    def step(self, step, x, y, norm):
        "Gradients of the logits after clipping, as the learner's step should have them."
        (f, s), samples = self.of, self.learner.samples
        for n, logits in self.logits.items():
            logits.data.copy_(self.learner.logits_before[n][f:f + 1, s:s + 1])
            if n not in self.learner.fixed: logits.grad = None
        keys, total = self.learner.keys(step)[f:f + 1, s:s + 1], 0
        masks = {u.name: sample(torch.ones(1, u.size, dtype=torch.float64), self.logits[u.name], keys, Place(u.shape, offset=u.offset))
                 for u in self.learner.units}
        for k, (xk, yk) in enumerate(zip(x.chunk(samples), y.chunk(samples))):
            drawn = {n: self.weights[n] * m[0, 0, k].view_as(self.weights[n]) for n, m in masks.items()}
            total = total + self.loss(torch.func.functional_call(self.net, self.weights | drawn, xk), yk) / samples
        (total + self.learner.beta / len(x) * sum(logits.sum() for logits in self.logits.values())).backward()
        everything = [*self.logits.values(), *self.weights.values()]
        before = nn.utils.clip_grad_norm_(everything, norm)
        return float(before), {n: logits.grad for n, logits in self.logits.items()}


def follow(learner, drivers, batches, norm, steps=6):
    "Largest relative difference of the logits' gradients over some steps, and the norms before clipping."
    worst, norms = 0.0, []
    for step in range(steps):
        if not learner.settled: learner.settle([b[0] for b in batches])
        learner.logits_before = {u.name: u.unpack(learner.logits[u.name].detach()).clone() for u in learner.units}
        learner.step(step, [b[step % len(b)] for b in batches])
        for driver in drivers:
            f, s = driver.of
            before, truth = driver.step(step, *batches[f][step % len(batches[f])], norm)
            norms.append(before)
            for u in learner.units:
                if u.name in learner.fixed: continue
                mine = u.unpack(u.gradient)[f:f + 1, s:s + 1]
                worst = max(worst, float((mine - truth[u.name]).abs().max() / truth[u.name].abs().max()))
    return worst, norms


def doubles(seed): return [(x.double(), y) for x, y in (rows(seed), rows(seed + 1), rows(seed + 2))]


ROUTES = {"vmap": dict(batching="vmap"), "loop": dict(batching="loop"), "low memory": dict(memory="low")}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("norm", [1.0, 0.3])
def test_published_clipping_is_one_norm_over_everything_that_was_never_cleared(route, norm):
    "Two functions at once, each as if trained alone."
    net, batches = mlp().double(), [doubles(1), doubles(5)]
    clip = "published" if norm == 1.0 else ("published", norm)
    learner = MaskLearner(net, ["a", "b"], scaled, steps=100, lr=0.05, beta=0.1, clip=clip, **ROUTES[route])
    worst, norms = follow(learner, [Published(net, scaled, learner, f) for f in range(2)], batches, norm)
    assert worst < 1e-4 and max(norms) > norm


def test_published_clipping_of_several_networks_is_that_of_each():
    nets, batches = [mlp(s).double() for s in range(3)], [doubles(1)]
    learner = MaskLearner(nets, ["a"], scaled, steps=100, lr=0.05, beta=0.1, clip="published", batching="vmap")
    worst, _ = follow(learner, [Published(n, scaled, learner, 0, s) for s, n in enumerate(nets)], batches, 1.0)
    assert worst < 1e-4


def test_published_clipping_counts_logits_that_stay():
    net, batches = mlp().double(), [doubles(1)]
    learner = MaskLearner(net, ["a"], scaled, steps=100, lr=0.05, beta=0.1, clip="published", fixed=["0.weight"], batching="loop")
    start = learner.logits["0.weight"].clone()
    worst, _ = follow(learner, [Published(net, scaled, learner)], batches, 1.0)
    assert worst < 1e-4 and torch.equal(learner.logits["0.weight"].detach(), start)


@pytest.mark.parametrize("options", [dict(granularity="row"), dict(estimator="hard-concrete"), dict(estimator="continuous-sparsification"),
                                     dict(estimator="edge-popup"), dict(estimator="hard-concrete", granularity="column")])
@pytest.mark.parametrize("route", ["vmap", "loop"])
def test_what_piles_up_is_the_gradient_of_the_weights_under_every_estimator(options, route):
    net, (x, y) = mlp().double(), doubles(1)[0]
    learner = MaskLearner(net, ["a"], scaled, steps=100, clip=("published", 1e9), batching=route, **options)
    learner.settle([(x, y)])
    drawn = {u.name: u.unpack(gates(u, learner.estimator, learner.logits[u.name].detach(), learner.keys(0))).double() for u in learner.units}
    weights = {n: p.detach().clone().requires_grad_() for n, p in net.named_parameters()}
    total, samples = 0, learner.samples
    for k, (xk, yk) in enumerate(zip(x.chunk(samples), y.chunk(samples))):
        masked = {n: weights[n] * d[0, 0, k].view_as(weights[n]) for n, d in drawn.items()}
        total = total + scaled(torch.func.functional_call(net, weights | masked, xk), yk) / samples
    total.backward()
    learner.step(0, [(x, y)])
    natural = {u.name: u.unpack(learner.piles[u.name]) for u in learner.units}
    for n, w in weights.items():
        assert torch.allclose(natural.get(n, learner.piles[n]).view_as(w).double(), w.grad, rtol=1e-4, atol=1e-6), n


def test_trained_weights_are_cleared_and_the_rest_piles_up():
    "As in permuted MNIST, whose optimizer knows weights and logits; what is not masked is in no optimizer."
    net, batches = mlp().double(), doubles(1)
    learner = MaskLearner(net, ["a"], scaled, steps=100, lr=1e-3, clip=("published", 1e9), train_weights=True, batching="loop")
    assert set(learner.piles) == {n for n, _ in net.named_parameters() if "bias" in n}
    piled = []
    for step in range(2):
        learner.step(step, [batches[0]])
        piled.append({n: p.clone() for n, p in learner.piles.items()})
    assert all(float(piled[1][n].norm()) > 1.2 * float(piled[0][n].norm()) for n in piled[0])


@pytest.mark.parametrize("options", [dict(batching="vmap"), dict(batching="loop"), dict(batching="loop", train_weights=True), dict(batching="vmap", fixed=["3.weight"])])
def test_published_clipping_goes_on_exactly_from_a_checkpoint(tmp_path, options):
    net, data = mlp(), {"a": [rows(s) for s in range(5)]}
    options = dict(steps=9, lr=0.05, clip="published", every=4, **options)
    whole = learn_masks(net, data, scaled, **options)
    def stop(event):
        if event.kind == "step" and event.step == 4: raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): learn_masks(net, data, scaled, checkpoint=tmp_path / "masks.pt", callbacks=[stop], **options)
    resumed = learn_masks(net, data, scaled, checkpoint=tmp_path / "masks.pt", **options)
    assert all(torch.equal(whole.logits["a"][n], resumed.logits["a"][n]) for n in whole.logits["a"])
    with pytest.raises(ValueError, match="clip"): learn_masks(net, data, scaled, checkpoint=tmp_path / "masks.pt", **options | {"clip": 1.0})


def test_published_clipping_is_of_each_function_however_they_are_trained():
    "Together, alone, and side by side on copies of one network: the same masks."
    net, data = mlp(), {"a": [rows(1)], "b": [rows(2), rows(3)]}
    options = dict(steps=8, lr=0.05, clip="published", batching="loop")
    together = learn_masks(net, data, scaled, **options)
    alone = learn_masks(net, data, scaled, together=False, **options)
    twins = learn_masks([net, net], data, scaled, seed=[0, 0], **options)
    for f in data:
        for n, t in together.logits[f].items():
            for other in (alone, *twins): assert torch.allclose(t, other.logits[f][n], atol=1e-3)
