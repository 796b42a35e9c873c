"Learning masks against plain loops: clipping as published, precision, parameters of any shape, seeds, settings."

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from modnb.masks.estimators import ESTIMATORS
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
        self.logits = {
            n: nn.Parameter(torch.zeros(1, 1, p.numel(), dtype=torch.float64)) for n, p in select(net, where).items()
        }

    def step(self, step, x, y, norm):
        "Gradients of the logits after clipping, as the learner's step should have them."
        (f, s), samples = self.of, self.learner.samples
        for n, logits in self.logits.items():
            logits.data.copy_(self.learner.logits_before[n][f : f + 1, s : s + 1])
            if n not in self.learner.fixed:
                logits.grad = None
        keys, total = self.learner.keys(step)[f : f + 1, s : s + 1], 0
        masks = {
            u.name: sample(
                torch.ones(1, u.size, dtype=torch.float64), self.logits[u.name], keys, Place(u.shape, offset=u.offset)
            )
            for u in self.learner.units
        }
        for k, (xk, yk) in enumerate(zip(x.chunk(samples), y.chunk(samples))):
            drawn = {n: self.weights[n] * m[0, 0, k].view_as(self.weights[n]) for n, m in masks.items()}
            total = total + self.loss(torch.func.functional_call(self.net, self.weights | drawn, xk), yk) / samples
        (total + self.learner.beta / len(x) * sum(logits.sum() for logits in self.logits.values())).backward()
        everything = [*self.logits.values(), *self.weights.values()]
        before = nn.utils.clip_grad_norm_(everything, norm)
        return float(before), {n: logits.grad for n, logits in self.logits.items()}


def follow(learner, drivers, batches, norm, steps=5):
    "Largest relative difference of the logits' gradients over some steps, and the norms before clipping."
    worst, norms = 0.0, []
    for step in range(steps):
        if not learner.settled:
            learner.settle([b[0] for b in batches])
        learner.logits_before = {u.name: u.unpack(learner.logits[u.name].detach()).clone() for u in learner.units}
        learner.step(step, [b[step % len(b)] for b in batches])
        for driver in drivers:
            f, s = driver.of
            before, truth = driver.step(step, *batches[f][step % len(batches[f])], norm)
            norms.append(before)
            for p in learner.pools:
                if p.name in learner.fixed:
                    continue
                mine = p.unpack(p.gradient)[f : f + 1, s : s + 1]
                worst = max(worst, float((mine - truth[p.name]).abs().max() / truth[p.name].abs().max()))
    return worst, norms


def doubles(seed):
    return [(x.double(), y) for x, y in (rows(seed), rows(seed + 1), rows(seed + 2))]


ROUTES = {"vmap": dict(batching="vmap"), "loop": dict(batching="loop"), "low memory": dict(memory="low")}


@pytest.mark.parametrize("route, norm", [("vmap", 1.0), ("loop", 0.3), ("low memory", 1.0)])
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


@pytest.mark.parametrize("route", ["vmap", "low memory"])
def test_published_clipping_of_a_convolutional_network_of_which_a_part_was_frozen_before(route):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Linear(6, 3)).double()
    batches = [[(x.view(-1, 1, 2, 3), y) for x, y in doubles(1)]]
    net(batches[0][0][0])    # statistics
    oracle = copy.deepcopy(net).eval()
    net[0].requires_grad_(False)
    learner = MaskLearner(net, ["a"], scaled, steps=100, lr=0.05, beta=0.1, clip="published", **ROUTES[route])
    worst, norms = follow(learner, [Published(oracle, scaled, learner)], batches, 1.0)
    assert worst < 1e-4 and max(norms) > 1.0


def test_published_clipping_counts_logits_that_stay():
    net, batches = mlp().double(), [doubles(1)]
    learner = MaskLearner(
        net, ["a"], scaled, steps=100, lr=0.05, beta=0.1, clip="published", fixed=["0.weight"], batching="loop"
    )
    start = learner.logits["0.weight"].clone()
    worst, _ = follow(learner, [Published(net, scaled, learner)], batches, 1.0)
    assert worst < 1e-4 and torch.equal(learner.logits["0.weight"].detach(), start)


@pytest.mark.parametrize(
    "route, options",
    [
        ("vmap", dict(granularity="row")),
        ("loop", dict(estimator="hard-concrete")),
        ("vmap", dict(estimator="continuous-sparsification")),
        ("loop", dict(estimator="edge-popup")),
        ("vmap", dict(estimator="hard-concrete", granularity="column")),
    ],
)
def test_what_piles_up_is_the_gradient_of_the_weights_under_every_estimator(options, route):
    net, (x, y) = mlp().double(), doubles(1)[0]
    learner = MaskLearner(net, ["a"], scaled, steps=100, clip=("published", 1e9), batching=route, **options)
    learner.settle([(x, y)])
    drawn = {
        u.name: u.unpack(gates(u, learner.estimator, learner.logits[u.name].detach(), learner.keys(0))).double()
        for u in learner.units
    }
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
    learner = MaskLearner(
        net, ["a"], scaled, steps=100, lr=1e-3, clip=("published", 1e9), train_weights=True, batching="loop"
    )
    assert set(learner.piles) == {n for n, _ in net.named_parameters() if "bias" in n}
    piled = []
    for step in range(2):
        learner.step(step, [batches[0]])
        piled.append({n: p.clone() for n, p in learner.piles.items()})
    assert all(float(piled[1][n].norm()) > 1.2 * float(piled[0][n].norm()) for n in piled[0])


@pytest.mark.parametrize(
    "options",
    [
        dict(batching="vmap"),
        dict(batching="loop"),
        dict(batching="loop", train_weights=True),
        dict(batching="vmap", fixed=["3.weight"]),
    ],
)
def test_published_clipping_goes_on_exactly_from_a_checkpoint(tmp_path, options):
    net, data = mlp(), {"a": [rows(s) for s in range(5)]}
    options = dict(steps=9, lr=0.05, clip="published", every=4, **options)
    whole = learn_masks(net, data, scaled, **options)

    def stop(event):
        if event.kind == "step" and event.step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn_masks(net, data, scaled, checkpoint=tmp_path / "masks.pt", callbacks=[stop], **options)
    resumed = learn_masks(net, data, scaled, checkpoint=tmp_path / "masks.pt", **options)
    assert all(torch.equal(whole.logits["a"][n], resumed.logits["a"][n]) for n in whole.logits["a"])
    with pytest.raises(ValueError, match="clip"):
        learn_masks(net, data, scaled, checkpoint=tmp_path / "masks.pt", **options | {"clip": 1.0})


def test_published_clipping_is_of_each_function_however_they_are_trained():
    "Together, alone, and side by side on copies of one network: the same masks."
    net, data = mlp(), {"a": [rows(1)], "b": [rows(2), rows(3)]}
    options = dict(steps=8, lr=0.05, clip="published", batching="loop")
    together = learn_masks(net, data, scaled, **options)
    alone = learn_masks(net, data, scaled, together=False, **options)
    twins = learn_masks([net, net], data, scaled, seed=[0, 0], **options)
    for f in data:
        for n, t in together.logits[f].items():
            for other in (alone, *twins):
                assert torch.allclose(t, other.logits[f][n], atol=1e-3)


LOW = [torch.float16, torch.bfloat16]
CALM = F.cross_entropy


@pytest.mark.parametrize(
    "route, dtype",
    [("vmap", torch.float16), ("loop", torch.bfloat16), ("vmap", torch.bfloat16), ("low memory", torch.float64)],
)
def test_logits_and_their_optimizer_are_float32_whatever_the_network(dtype, route, tmp_path):
    "With a learning rate of 1e-3, a logit of 2 could not move in bfloat16; and checkpoints keep what was learned."
    net, data = mlp().to(dtype), {"a": [(x.to(dtype), y) for x, y in (rows(1), rows(2))]}

    def loss(outputs, targets):
        return F.cross_entropy(outputs.float(), targets)

    options = dict(steps=4, lr=1e-3, checkpoint=tmp_path / "masks.pt", **ROUTES[route])
    found = learn_masks(net, data, loss, **options)
    for t in found.logits["a"].values():
        assert t.dtype == torch.float32 and t.isfinite().all() and float((t - 2).abs().median()) > 1e-4
    state = torch.load(tmp_path / "masks.pt", weights_only=True)
    assert all(t.dtype == torch.float32 for t in state["logits"].values())
    assert all(t.dtype == torch.float32 for m in state["moments"] for t in m.values() if t.dim())
    again = learn_masks(net, data, loss, **options)
    assert all(torch.equal(t, again.logits["a"][n]) for n, t in found.logits["a"].items())


@pytest.mark.parametrize("estimator, dtype", list(zip(ESTIMATORS, LOW * len(ESTIMATORS))))
def test_every_estimator_learns_masks_of_a_network_in_half_precision(dtype, estimator):
    net, data = mlp().to(dtype), {"a": [(x.to(dtype), y) for x, y in (rows(1), rows(2))]}
    for granularity in ("weight", "row"):
        found = learn_masks(
            net, data, lambda o, y: F.cross_entropy(o.float(), y), steps=2, estimator=estimator, granularity=granularity
        )
        assert all(t.dtype == torch.float32 and t.isfinite().all() for t in found.logits["a"].values())


@pytest.mark.parametrize("dtype", [torch.float32, *LOW])
def test_the_same_share_is_drawn_in_every_precision(dtype):
    net = nn.Linear(64, 64, bias=False).to(dtype)
    learner = MaskLearner(net, ["a"], CALM, steps=9)
    copies = sample(learner.units[0].value, learner.logits["weight"].detach(), learner.keys(0))
    assert copies.dtype == dtype and abs(float((copies != 0).float().mean()) - 0.8808) < 0.02


def test_weights_trained_along_in_half_precision_move_by_little_steps():
    "An update of 1e-4 is lost in a bfloat16 weight of 1; so they are kept in single precision, and rounded for the network."
    net = nn.Linear(4, 4, bias=False).bfloat16()
    with torch.no_grad():
        net.weight.fill_(1.0)
    x, y = torch.randn(16, 4, generator=torch.Generator().manual_seed(0)).bfloat16(), torch.arange(16) % 4
    learner = MaskLearner(net, ["a"], lambda o, y: F.cross_entropy(o.float(), y), steps=9, lr=1e-4, train_weights=True)
    for step in range(3):
        learner.step(step, [(x, y)])
    assert (
        learner.weights()["weight"].dtype == torch.bfloat16
        and learner.weights(rounded=False)["weight"].dtype == torch.float32
    )
    assert 0 < float((learner.weights(rounded=False)["weight"] - 1).abs().max()) < 1e-3


def slope_of_a_root(outputs, targets):
    "A finite loss whose gradient is NaN, as a norm's is at zero."
    return F.cross_entropy(outputs, targets) + (outputs - outputs.detach()).square().sum().sqrt()


@pytest.mark.parametrize("route, clip", [("vmap", 1.0), ("loop", None), ("low memory", "published")])
def test_a_gradient_that_is_not_finite_is_an_error_and_never_an_empty_mask(route, clip):
    with pytest.raises(
        FloatingPointError,
        match="loss: its gradient is not finite for function 'a' at the logits of '0.weight' at step 0",
    ):
        learn_masks(mlp(), {"a": [rows(1)]}, slope_of_a_root, steps=2, clip=clip, **ROUTES[route])


def test_a_gradient_of_one_function_names_that_one():
    def loss(outputs, targets):
        return slope_of_a_root(outputs, targets) if (targets == 2).all() else F.cross_entropy(outputs, targets)

    bad = [(rows(1)[0], torch.full((16,), 2))]
    with pytest.raises(FloatingPointError, match="function 'b'"):
        learn_masks(
            mlp(), {"a": [(rows(1)[0], torch.zeros(16, dtype=torch.long))], "b": bad}, loss, steps=2, batching="loop"
        )


def test_a_logit_that_is_not_finite_is_never_read_as_a_mask():
    learner = MaskLearner(mlp(), ["a"], CALM, steps=9)
    learner.logits["3.weight"][0, 0, 5] = float("nan")
    for read in (learner.masks, learner.final_logits):
        with pytest.raises(FloatingPointError, match="logits: not finite for function 'a' at '3.weight'"):
            read()


class Shapes(nn.Module):
    "Parameters without axes, without elements, with one axis, and of a convolution."

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.out = nn.Conv1d(1, 4, 3), nn.LayerNorm(4), nn.Linear(4, 3)
        self.scale, self.nothing, self.none = (
            nn.Parameter(torch.tensor(1.5)),
            nn.Parameter(torch.empty(0, 3)),
            nn.Parameter(torch.empty(0)),
        )

    def forward(self, x):
        return self.out(self.norm(self.conv(x[:, None]).mean(2))) * self.scale + self.nothing.sum()


@pytest.mark.parametrize(
    "estimator, route", [*zip(ESTIMATORS, ["vmap", "loop"] * len(ESTIMATORS)), ("gumbel", "low memory")]
)
def test_a_parameter_of_any_shape_has_masks(estimator, route):
    "One without axes is one weight, one row, one unit; one without elements contributes nothing."
    net = Shapes()
    for granularity in ("weight", "row", "column", "tensor"):
        found = learn_masks(
            net,
            {"a": [rows(1), rows(2)]},
            CALM,
            steps=2,
            estimator=estimator,
            granularity=granularity,
            where=lambda n, p: True,
            **ROUTES[route],
        )
        assert set(found.logits["a"]) == {n for n, p in net.named_parameters() if p.numel()}
        assert found.logits["a"]["scale"].shape == () and found.masks["a"].total == sum(
            p.numel() for p in net.parameters()
        )


ONE = dict(where=lambda n, p: n == "scale")


@pytest.mark.parametrize(
    "route, options",
    [
        ("vmap", dict(clip="published")),
        ("loop", dict(clip="published", **ONE)),
        ("vmap", dict(train_weights=True)),
        ("low memory", dict(init={"scale": torch.tensor(0.5)}, **ONE)),
    ],
)
def test_parameters_of_any_shape_with_everything_that_goes_along(options, route, tmp_path):
    for nets in (Shapes(), [Shapes(), Shapes()]):
        path = tmp_path / f"{type(nets).__name__}.pt"
        found = learn_masks(nets, {"a": [rows(1), rows(2)]}, CALM, steps=3, checkpoint=path, **ROUTES[route], **options)
        for one in found if isinstance(found, list) else [found]:
            assert one.logits["a"]["scale"].isfinite()


def test_only_parameters_without_elements():
    with pytest.raises(ValueError, match="where: selects only parameters without elements: nothing, none"):
        MaskLearner(Shapes(), ["a"], CALM, where=lambda n, p: n.startswith("no") and "norm" not in n)


@pytest.mark.parametrize(
    "seed", [0, 2**31, 2**63 + 5, -1, -(2**70), np.int8(-3), np.uint64(2**64 - 1), np.array(7), torch.tensor(7)]
)
def test_a_seed_of_any_size_and_type_gives_its_masks_and_resumes(seed, tmp_path):
    net, data, options = mlp(), {"a": [rows(1), rows(2)]}, dict(steps=2, batching="loop", estimator="edge-popup")
    found = learn_masks(net, data, CALM, seed=seed, checkpoint=tmp_path / "masks.pt", **options)
    plain = learn_masks(net, data, CALM, seed=int(seed), checkpoint=tmp_path / "masks.pt", **options)  # the same run
    other = learn_masks(net, data, CALM, seed=int(seed) + 1, **options)
    assert all(torch.equal(t, plain.logits["a"][n]) for n, t in found.logits["a"].items())
    assert not torch.equal(found.logits["a"]["0.weight"], other.logits["a"]["0.weight"])


@pytest.mark.parametrize("seeds", [np.arange(2), torch.arange(2), (0, 1), [np.int32(0), torch.tensor(1)], range(2), 0])
def test_seeds_of_several_networks_in_any_form(seeds):
    nets, data, options = [mlp(), mlp(1)], {"a": [rows(1)]}, dict(steps=1, batching="loop")
    found, plain = (learn_masks(nets, data, CALM, seed=s, **options) for s in (seeds, [0, 1]))
    assert all(torch.equal(f.logits["a"]["0.weight"], p.logits["a"]["0.weight"]) for f, p in zip(found, plain))


@pytest.mark.parametrize("seed", [True, 1.0, np.float32(2), "1", None, torch.tensor(1.0), np.bool_(True)])
def test_a_seed_that_is_no_integer_is_refused_by_name(seed):
    with pytest.raises(ValueError, match="seed: .* must be an integer"):
        learn_masks(mlp(), {"a": [rows(1)]}, CALM, steps=1, seed=seed)


SETTINGS = {"beta": 1e-4, "lr": 0.01, "init": 1.0, "steps": 3, "samples": 4, "clip": 1.0, "seed": 5}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_of_any_library_are_plain_numbers(name, tmp_path):
    value = SETTINGS[name]
    kinds = (
        (np.int64, torch.tensor)
        if isinstance(value, int)
        else (np.float64, np.array, lambda v: torch.tensor(v, dtype=torch.float64))
    )
    path, options = tmp_path / "masks.pt", {"steps": 3, "batching": "loop"}
    plain = learn_masks(mlp(), {"a": [rows(1)]}, CALM, checkpoint=path, **options | {name: value})
    for kind in kinds:  # the same training, so its checkpoint fits
        found = learn_masks(mlp(), {"a": [rows(1)]}, CALM, checkpoint=path, **options | {name: kind(value)})
        assert all(torch.equal(t, plain.logits["a"][n]) for n, t in found.logits["a"].items())


def test_the_price_is_chosen_among_numbers_of_any_library(tmp_path):
    from modnb.masks.choice import choose_beta

    low, high = np.logspace(-6, -2, 2)

    def choose(accuracy=0.5, **options):
        return choose_beta(
            mlp(), [rows(1)], CALM, lambda view: accuracy, samples=2, checkpoint=tmp_path / "choice.pt", **options
        )

    chosen = choose(
        np.float32(0.5), low=low, high=high, ratio=np.float64(1e3), tolerance=np.float64(0.1), steps=np.int64(2)
    )
    assert type(chosen.beta) is type(chosen.tolerance) is float
    assert choose(low=1e-6, high=1e-2, ratio=1e3, tolerance=0.1, steps=2).beta == chosen.beta
    with pytest.raises(ValueError, match="another run"):
        choose(low=1e-6, high=1e-2, ratio=1e3, steps=np.int64(3))  # NumPy's are compared, too


def test_first_logits_that_are_given_are_not_trained_themselves():
    init = {n: torch.full_like(p, 0.5) for n, p in select(mlp(), weights_only).items()}
    learn_masks(mlp(), {"a": [rows(1)]}, CALM, steps=2, lr=0.1, init=init, batching="loop")
    assert all((t == 0.5).all() for t in init.values())


def test_a_gradient_of_nothing_but_rounding_is_no_disagreement():
    "Layer norm of a single unit is constant: what comes back through it differs between the routes, and is zero."
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 1), nn.GELU(), nn.LayerNorm(1), nn.Linear(1, 3)).eval()
    data = {f: [(torch.randn(1, 6), torch.randint(3, (1,)))] for f in ("a", "b")}
    found = learn_masks(net, data, nn.functional.cross_entropy, samples=1, steps=2, batching="vmap")
    assert found.route == "vmap"
