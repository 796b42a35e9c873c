"Random small networks, dtypes, routes, batches: the gradient of the logits in one step against a plain loop."

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from modnb.masks.learner import MaskLearner
from modnb.masks.sampling import mix, to_uniform
from modnb.masks.units import weights_per_unit

TOLERANCE = {
    torch.float64: 1e-5,
    torch.float32: 1e-3,
    torch.bfloat16: 0.15,
    torch.float16: 0.03,
}  # of the gradient's norm
ACTIVATIONS = {"tanh": nn.Tanh, "gelu": nn.GELU, "relu": nn.ReLU}


class Scaled(nn.Module):
    "A parameter without axes, one without elements, and a residual connection."

    def __init__(self, inner, skip):
        super().__init__()
        self.inner, self.skip = inner, skip
        self.scale, self.nothing = nn.Parameter(torch.tensor(1.5)), nn.Parameter(torch.empty(0, 3))

    def forward(self, x):
        y = self.inner(x) * self.scale
        return x + y if self.skip and x.shape == y.shape else y


class Reader(nn.Module):
    "Tokens or steps: an embedding, a recurrent layer, and its last output."

    def __init__(self, kind, width):
        super().__init__()
        self.embedding, self.recurrent = nn.Embedding(7, width), kind(width, width, batch_first=True)

    def forward(self, x):
        out, _ = self.recurrent(self.embedding((3 * x).long().abs() % 7))
        return out[:, -1]


class Pictures(nn.Module):
    "A convolution, batch norm in eval mode, and the mean of each channel."

    def __init__(self, width):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, width, 2), nn.BatchNorm2d(width)

    def forward(self, x):
        return self.norm(self.conv(x[:, None, :4].reshape(-1, 1, 2, 2).repeat(1, 1, 2, 2))).mean((2, 3))


@st.composite
def networks(draw):
    "A recipe: kinds of layers and widths."
    first = draw(st.sampled_from(["linear", "linear", "linear", "lstm", "gru", "conv"]))
    blocks = draw(
        st.lists(
            st.tuples(
                st.sampled_from(["linear", "norm", "scaled"]),
                st.integers(1, 5),
                st.sampled_from(sorted(ACTIVATIONS)),
                st.booleans(),
            ),
            max_size=3,
        )
    )
    return first, draw(st.integers(1, 5)), blocks, draw(st.integers(0, 9))


def build(recipe, dtype, seed, soft):
    "The network of a recipe; `soft`: no kinks and no normalization, which low precision would turn into noise."
    first, width, blocks, start = recipe
    torch.manual_seed(100 * start + seed)
    layers = [
        {
            "linear": lambda: nn.Linear(6, width),
            "lstm": lambda: Reader(nn.LSTM, width),
            "gru": lambda: Reader(nn.GRU, width),
            "conv": lambda: Pictures(width),
        }[first]()
    ]
    for kind, wide, activation, flag in blocks:
        wide = width if kind == "norm" else wide
        layers.append(nn.Tanh() if soft else ACTIVATIONS[activation]())
        if kind == "norm":
            layers.append(nn.Identity() if soft else nn.LayerNorm(width))
        elif kind == "scaled":
            layers.append(Scaled(nn.Linear(width, wide, bias=flag), flag))
        else:
            layers.append(nn.Linear(width, wide, bias=flag))
        width = wide
    return nn.Sequential(*layers, nn.Linear(width, 3)).eval().to(dtype)


def loss(outputs, targets):
    return F.cross_entropy(outputs.double() if outputs.dtype == torch.float64 else outputs.float(), targets)


def batch(rows, dtype, seed):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 6, generator=g).to(dtype), torch.randint(3, (rows,), generator=g)


def gate(estimator, logits, u):
    "What a unit is multiplied by under fixed noise, differentiable in its logit."
    if estimator == "hard-concrete":
        return (torch.sigmoid((torch.logit(u) + logits) / (2 / 3)) * 1.2 - 0.1).clamp(0, 1)
    hard = (u < torch.sigmoid(logits.detach().float()).double()).double()
    soft = torch.sigmoid(logits + torch.log1p(-u) - torch.log(u))
    return hard + soft - soft.detach()


def plain(net, learner, f, s, x, y, exact=True):
    "Gradient of the logits of one function and network, sample by sample; in double precision, but for half-precision networks."
    low = not exact or next(net.parameters()).dtype in (torch.float16, torch.bfloat16)
    net = net if low else copy.deepcopy(net).double()
    kind, x = (next(net.parameters()).dtype, x if low else x.double())
    parameters, leaves, drawn = dict(net.named_parameters()), {}, [{} for _ in range(learner.samples)]
    price = 0
    for u in learner.units:
        start = u.unpack(learner.logits[u.name].detach())[f, s].double()
        leaf = leaves[u.name] = start.clone().requires_grad_()
        count = weights_per_unit(u)
        cost = (
            leaf
            if learner.estimator.name == "gumbel"
            else torch.sigmoid(leaf + 2 / 3 * torch.log(torch.tensor(11.0, dtype=torch.float64)))
        )
        price = price + (cost * count).sum()
        for k, key in enumerate(learner.keys(0)[f, s]):
            noise = to_uniform(
                mix(torch.arange(u.offset, u.offset + u.size, dtype=torch.int32), key[0], key[1])
            ).double()
            gates = gate(learner.estimator.name, leaf, noise)
            gates = gates if u.index is None else u.spread(gates)
            drawn[k][u.name] = parameters[u.name].detach() * gates.reshape(u.shape).to(kind)
    total = (
        sum(
            loss(torch.func.functional_call(net, drawn[k], xk), yk)
            for k, (xk, yk) in enumerate(zip(x.chunk(learner.samples), y.chunk(learner.samples)))
        )
        / learner.samples
    )
    grads = torch.autograd.grad(total + learner.beta / len(x) * price, list(leaves.values()), allow_unused=True)
    return torch.cat(
        [(torch.zeros_like(leaf) if g is None else g).flatten() for leaf, g in zip(leaves.values(), grads)]
    )


@st.composite
def cases(draw):
    "Everything that a step depends on."
    dtype = draw(st.sampled_from([torch.float32, torch.float32, torch.float64, torch.bfloat16, torch.float16]))
    samples = draw(st.integers(1, 4))
    functions = draw(st.integers(1, 3))
    return dict(
        recipe=draw(networks()),
        dtype=dtype,
        samples=samples,
        functions=functions,
        nets=draw(st.integers(1, 2)),
        rows=[samples * draw(st.integers(1, 3)) for _ in range(functions)],
        route=draw(st.sampled_from(["vmap", "loop", "low memory"])),
        everything=draw(st.booleans()),
        granularity=draw(st.sampled_from(["weight", "weight", "weight", "row", "column", "tensor"])),
        estimator=draw(st.sampled_from(["gumbel", "gumbel", "gumbel", "hard-concrete"])),
        seed=draw(st.sampled_from([0, 1, -3, 2**63 + 5])),
        init=draw(st.sampled_from([-1.0, 0.5, 2.0, "random"])),
        beta=draw(st.sampled_from([0.0, 1e-4, 0.5])),
        alone=draw(st.booleans()),
        published=draw(st.booleans()),
    )


ROUTES = {"vmap": dict(batching="vmap"), "loop": dict(batching="loop"), "low memory": dict(memory="low")}


def check(case):
    "One step of the learner against the plain loop."
    dtype, low = case["dtype"], case["dtype"] in (torch.float16, torch.bfloat16)
    nets = [build(case["recipe"], dtype, s, low) for s in range(case["nets"])]
    chosen = (lambda name, p: True) if case["everything"] else (lambda name, p: "bias" not in name)
    names = [f"f{i}" for i in range(case["functions"])]
    batches = [batch(r, dtype, i) for i, r in enumerate(case["rows"])]
    before = [{n: p.clone() for n, p in net.state_dict().items()} for net in nets]
    init = case["init"]
    if init == "random" and case["granularity"] == "weight":
        g = torch.Generator().manual_seed(0)
        init = {n: 2 * torch.randn(p.shape, generator=g) for n, p in nets[0].named_parameters()}
    options = dict(
        samples=case["samples"],
        steps=20,
        beta=case["beta"],
        clip=("published", 1e9) if case["published"] else None,
        where=chosen,
        granularity=case["granularity"],
        estimator=case["estimator"],
        seed=case["seed"],
        init=0.3 if init == "random" else init,
    )
    groups = [[i] for i in range(len(names))] if case["alone"] else [list(range(len(names)))]
    for group in groups:
        learner = MaskLearner(nets, [names[i] for i in group], loss, **options, **ROUTES[case["route"]])
        learner.settle([batches[i] for i in group])
        truth = {
            (f, s): plain(net, learner, f, s, *batches[i]) for f, i in enumerate(group) for s, net in enumerate(nets)
        }
        learner.step(0, [batches[i] for i in group])
        for (f, s), expected in truth.items():
            mine = torch.cat([p.unpack(p.gradient)[f, s].double() for p in learner.pools])
            gap = float((mine - expected).norm() / expected.norm().clamp_min(1e-6))
            if gap > TOLERANCE[dtype]:  # where rounding itself is amplified, as by layer norm of equal numbers
                rounded = plain(nets[s], learner, f, s, *batches[group[f]], exact=False)
                gap -= 10 * float((rounded - expected).norm() / expected.norm().clamp_min(1e-6))
            assert mine.isfinite().all() and gap < TOLERANCE[dtype], (gap, f, s)
        assert all(l.dtype == p.gradient.dtype == torch.float32 for l, p in zip(learner.logits.values(), learner.pools))
    assert all(torch.equal(t, b[n]) for net, b in zip(nets, before) for n, t in net.state_dict().items())


@pytest.mark.parametrize("part", range(2))
def test_gradients_are_those_of_a_plain_loop(request, part):
    "50 examples here, 2,000 with --long; the same ones each time."
    examples = 1000 if request.config.getoption("--long") else 25

    @settings(
        max_examples=examples, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(cases(), st.just(part))
    def run(case, part):
        check(case)

    run()
