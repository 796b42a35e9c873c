"Random small networks and random masks over units: a smaller network computes what the masked one does, and `torch.nn.utils.prune` too."
import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune

from modnb.masks import Masks, masked, materialize
from modnb.masks.pruning import prune_methods
from modnb.models.convolutional import CNN, ResNet
from modnb.models.shrink import shrink

ACTIVATIONS = (nn.ReLU, nn.Tanh, nn.GELU, nn.Sigmoid, nn.Softplus, lambda: nn.LeakyReLU(inplace=True), lambda: nn.Dropout(0.3))


class Add(nn.Module):
    "A residual connection around a part that keeps the shape."
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x): return x + self.inner(x)


@st.composite
def linear_networks(draw):
    "Linear layers, with all that may stand between them; the shape of a batch."
    width, layers = draw(st.integers(1, 4)), []
    shape = (3, width)
    for _ in range(draw(st.integers(1, 4))):
        new = draw(st.integers(1, 6))
        layers.append(nn.Linear(width, new, bias=draw(st.booleans())))
        width = new
        for _ in range(draw(st.integers(0, 2))):
            kind = draw(st.sampled_from(("activation", "batch norm", "layer norm", "residual", "group norm")))
            if kind == "activation": layers.append(draw(st.sampled_from(ACTIVATIONS))())
            if kind == "batch norm": layers.append(nn.BatchNorm1d(width, affine=draw(st.booleans())))
            if kind == "layer norm": layers.append(nn.LayerNorm(width))
            if kind == "group norm": layers.append(nn.GroupNorm(1, width))
            if kind == "residual": layers.append(Add(nn.Sequential(nn.Linear(width, 5), draw(st.sampled_from(ACTIVATIONS))(), nn.Linear(5, width))))
    layers += draw(st.sampled_from(([], [nn.Softmax(-1)], [nn.LogSoftmax(-1)])))
    return nn.Sequential(*layers), shape


@st.composite
def image_networks(draw):
    "Convolutions with and without padding, groups, pooling, and a linear layer or a mean at the end."
    channels, layers = draw(st.integers(1, 3)), []
    shape = (2, channels, 12, 12)
    for _ in range(draw(st.integers(1, 3))):
        new = draw(st.integers(1, 5))
        layers.append(nn.Conv2d(channels, new, draw(st.sampled_from((1, 3))), padding=draw(st.sampled_from((0, 1, "same"))), bias=draw(st.booleans()),
                                padding_mode=draw(st.sampled_from(("zeros", "replicate")))))
        channels = new
        for _ in range(draw(st.integers(0, 3))):
            kind = draw(st.sampled_from(("activation", "batch norm", "max", "average", "depthwise", "group norm", "residual")))
            if kind == "activation": layers.append(draw(st.sampled_from(ACTIVATIONS))())
            if kind == "batch norm": layers.append(nn.BatchNorm2d(channels, track_running_stats=draw(st.booleans())))
            if kind == "max": layers.append(nn.MaxPool2d(3, 1, padding=1))
            if kind == "average": layers.append(nn.AvgPool2d(3, 1, padding=1, count_include_pad=draw(st.booleans())))
            if kind == "depthwise": layers.append(nn.Conv2d(channels, channels, 3, padding=draw(st.integers(0, 1)), groups=channels))
            if kind == "group norm": layers.append(nn.GroupNorm(1, channels))
            if kind == "residual": layers.append(Add(nn.Sequential(nn.Conv2d(channels, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, channels, 1))))
    layers.append(draw(st.sampled_from((nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d(2), nn.Identity()))))
    with torch.no_grad(): size = nn.Sequential(*copy.deepcopy(layers)).eval()(torch.zeros(shape)).flatten(1).shape[1]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(size, 4), nn.ReLU(), nn.Linear(4, 2)), shape


def settled(net, seed):
    "In double precision and eval mode, with statistics and scales as after a training."
    generator = torch.Generator().manual_seed(seed)
    net.double().eval()
    with torch.no_grad():
        for p in net.parameters(): p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype) / max(1, p[0].numel() if p.dim() else 1)**0.5)
        for b in net.buffers():
            if b.is_floating_point(): b.copy_(torch.rand(b.shape, generator=generator, dtype=b.dtype) + 0.5)
    return net


def unit_masks(net, seed, cut):
    "Rows, columns and single biases or scales that are cut, each with a probability."
    generator = torch.Generator().manual_seed(seed + 1)
    masks = {}
    for name, p in net.named_parameters():
        keep = torch.rand(p.shape[:1], generator=generator) >= cut
        masks[name] = keep.view(-1, *[1] * (p.dim() - 1)).expand(p.shape).clone()
        if p.dim() > 1: masks[name] &= (torch.rand(p.shape[1], generator=generator) >= cut / 2).view(-1, *[1] * (p.dim() - 2))
    return Masks(masks)


@pytest.mark.parametrize("networks", [linear_networks, image_networks], ids=["linear", "images"])
def test_random_networks(networks):
    @settings(max_examples=30)
    @given(networks(), st.integers(0, 99), st.sampled_from((0.2, 0.5, 0.8, 1.0)))
    def check(made, seed, cut):
        net, shape = made
        settled(net, seed)
        masks = unit_masks(net, seed, cut)
        before = {n: t.clone() for n, t in net.state_dict().items()}
        small = materialize(net, masks)
        x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        expected = masked(net, masks)(x.clone())
        assert torch.allclose(small.net(x.clone()), expected, atol=1e-10, rtol=1e-9)
        assert torch.allclose(masks.to_prune(net)(x.clone()), expected, atol=1e-10, rtol=1e-9)
        assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())
        assert small.after <= small.before + 40 and all("in place" in why for why in small.whole.values())
    check()


@pytest.mark.parametrize("make", [lambda: CNN(channels=(4, 5, 6, 7)), lambda: ResNet(14, width=4)], ids=["cnn", "resnet"])
@pytest.mark.parametrize("cut", [0.3, 0.6, 1.0])
def test_our_networks(make, cut):
    net = settled(make(), 0)
    small = materialize(net, unit_masks(net, 0, cut), example=torch.randn(2, 3, 16, 16, dtype=torch.float64))
    assert small.after < (1 - cut / 2) * small.before and not small.whole
    assert type(small.net) is type(net) and [n for n, _ in small.net.named_modules()] == [n for n, _ in net.named_modules()]


def rows(n, cut): return torch.arange(n) >= cut


class Twice(nn.Module):
    "One layer that is called twice; with biases its constant inputs differ between the calls."
    def __init__(self, bias):
        super().__init__()
        self.enter, self.again, self.leave = nn.Linear(3, 6, bias=bias), nn.Linear(6, 6, bias=bias), nn.Linear(6, 2)

    def forward(self, x): return self.leave(torch.tanh(self.again(torch.tanh(self.again(torch.tanh(self.enter(x)))))))


class Features(nn.Module):
    "Hidden units are an output, if they are asked for."
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 6), nn.Linear(6, 2)

    def forward(self, x, scale=None, features=False):
        h = F.relu(self.first(x))
        if scale is not None: h = h.mul(scale)
        return (self.second(h), h) if features else self.second(h)


class Direct(nn.Module):
    "Weights that are read without a call of their layer."
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 6), nn.Linear(6, 2)

    def forward(self, x): return self.second(F.relu(F.linear(x, self.first.weight, self.first.bias)))


class Shape(nn.Module):
    "A view with a size that was written down, one with that of a layer, and a scale that reads a shape."
    def __init__(self, way):
        super().__init__()
        self.conv, self.linear, self.way = nn.Conv2d(1, 6, 3), nn.Linear(24, 2), way

    def forward(self, x):
        h = torch.relu(self.conv(x))
        if self.way == "written": return self.linear(h.view(-1, 24))
        if self.way == "layer": return self.linear(h.view(-1, self.linear.in_features))
        if self.way == "scale": return self.linear(h.flatten(1)) * h.shape[1]
        return self.linear(h.view(h.size(0), -1))


class Mixed(nn.Module):
    "Random numbers, a softmax over hidden units, a transposition and attention."
    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(3, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, x):
        h = self.second(self.first(x).softmax(-1).transpose(1, 2).transpose(1, 2))
        return self.third(self.attention(h, h, h)[0])


class Joined(nn.Module):
    "Two towers side by side, a gate, and one residual tower."
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.gate, self.out = nn.Linear(3, 4), nn.Linear(3, 5), nn.Linear(9, 9), nn.Linear(3, 9), nn.Linear(9, 2)

    def forward(self, x):
        h = torch.cat([self.a(x).relu(), torch.sigmoid(self.b(x))], dim=-1)
        return self.out((h + self.c(h)) * self.gate(x).sigmoid() + 1)


CASES = {"twice": (lambda: Twice(False), (4, 3)), "twice with biases": (lambda: Twice(True), (4, 3)), "features": (Features, (4, 3)), "direct": (Direct, (4, 3)), "written": (lambda: Shape("written"), (4, 1, 4, 4)),
         "layer": (lambda: Shape("layer"), (4, 1, 4, 4)), "scale": (lambda: Shape("scale"), (4, 1, 4, 4)), "flat": (lambda: Shape(""), (4, 1, 4, 4)),
         "mixed": (Mixed, (4, 5, 3)), "joined": (Joined, (4, 5, 3))}
GOES = {"twice": True, "twice with biases": False, "features": False, "direct": False, "written": False, "layer": False, "scale": False, "flat": True, "mixed": False, "joined": True}


@pytest.mark.parametrize("case", CASES)
def test_exact_or_left(case):
    "Units that go are gone exactly; where it cannot be known, none goes."
    make, shape = CASES[case]
    net = settled(make(), 1)
    masks = {n: rows(len(p), 1).view(-1, *[1] * (p.dim() - 1)).expand(p.shape) for n, p in net.named_parameters() if p.dim() > 1}
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    small = materialize(net, masks, example=x)
    hidden = next(p.shape[0] for p in net.parameters())
    assert (next(small.net.parameters()).shape[0] < hidden) == GOES[case]
    if case == "features":
        for given in ({}, {"features": True}, {"scale": torch.arange(6.0, dtype=torch.float64)}):
            assert all(map(torch.allclose, small.net(x, **given), masked(net, masks)(x, **given)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_dtypes(dtype):
    net = settled(nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 8, bias=False), nn.ReLU(), nn.Linear(8, 3)), 0).to(dtype)
    masks = {"0.weight": rows(8, 4)[:, None].expand(8, 4), "2.weight": rows(8, 2).expand(8, 8)}
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    small = materialize(net, masks)
    assert {p.dtype for p in small.net.parameters()} == {dtype} and small.net[0].out_features == 4
    assert small.net[2].bias is not None # carries what the constant units added
    assert torch.allclose(small.net(x).float(), masked(net, masks)(x).float(), atol=float(8 * torch.finfo(dtype).eps), rtol=float(8 * torch.finfo(dtype).eps))


def test_tied_and_computed_weights():
    tied = settled(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)), 0)
    tied[2].weight = tied[0].weight
    masks = {"0.weight": rows(4, 2)[:, None].expand(4, 4)}
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    small = materialize(tied, masks, example=x).net
    assert small[2].weight is small[0].weight and small[0].out_features == 4
    normed = settled(nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), nn.ReLU(), nn.Linear(4, 2)), 0)
    masks = {"0.parametrizations.weight.original0": rows(4, 2)[:, None]}
    small = materialize(normed, masks, example=x).net
    assert small[0].out_features == 2 and type(small[0]) is nn.Linear
    handed = Masks(masks).to_prune(normed)
    assert torch.allclose(shrink(handed).net(x), masked(normed, masks)(x))


def test_what_is_kept_of_a_network():
    "Modes, gradients that are not wanted, and a smaller network that trains."
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)).train()
    net[1].eval()
    net[0].weight.requires_grad_(False)
    small = materialize(net, {"0.weight": rows(8, 4)[:, None].expand(8, 4)}).net
    assert [m.training for m in small.modules()] == [m.training for m in net.modules()]
    assert [p.requires_grad for p in small.parameters()] == [False] + [True] * 5
    small(torch.ones(3, 4)).sum().backward()
    assert small[3].weight.grad.shape == (2, 4)


def test_random_state_and_hooks():
    "Tracing draws no random numbers for the user; a layer with a hook is left."
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x): return self.second(torch.relu(self.first(x))) + torch.randn(2)

    net, seen = Noisy(), []
    with torch.no_grad(): net.first.weight[:2] = 0
    state = torch.get_rng_state()
    assert shrink(net).net.first.out_features == 2 and torch.equal(state, torch.get_rng_state())
    net.first.register_forward_hook(lambda module, args, out: seen.append(out.shape) or out * 2)
    assert shrink(net).net.first.out_features == 4 and not seen


def test_prune_of_pytorch():
    "Masks that `torch.nn.utils.prune` made are read, and its `remove` leaves a plain network."
    net = settled(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)), 0)
    by_hand = copy.deepcopy(net)
    prune.ln_structured(by_hand[0], "weight", amount=3, n=2, dim=0)
    masks = Masks.from_prune(by_hand)
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal(masked(net, masks)(x), by_hand(x)) and materialize(net, masks).net[0].out_features == 3
    whole = masks.select([]).to_prune(net, inplace=True)
    assert whole is net and not prune.is_pruned(net)
    masks.to_prune(net, inplace=True)
    for module in net.modules():
        for name in list(prune_methods(module)): prune.remove(module, name)
    assert set(net.state_dict()) == {"0.weight", "0.bias", "2.weight", "2.bias"} and torch.equal(net(x), by_hand(x))
