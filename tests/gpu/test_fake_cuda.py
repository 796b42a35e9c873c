"""Forward passes on CUDA tensors without numbers: what a CUDA build of PyTorch checks where there is no GPU.

`FakeTensorMode` gives tensors made inside it a shape, a type and a device, and refuses to mix devices. `make test-fake-cuda`
runs this file in an environment with a CUDA build; `--device cpu` runs it on fake CPU tensors, which checks the tests themselves.
"""
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call

from modnb.masks import sampling
from modnb.masks.estimators import ESTIMATORS, get_estimator
from modnb.metrics import entropy
from modnb.models.convolutional import CNN
from modnb.models.feedforward import FeedForward
from modnb.routing import LAWS, make_law
from modnb.systems.gated import build

WHY = "needs a CUDA build of PyTorch (make test-fake-cuda), or --device cpu"


@pytest.fixture
def fake(request):
    "A device of fake tensors."
    name = request.config.getoption("--device")
    if name == "card" or name != "cpu" and torch.version.cuda is None: pytest.skip(WHY)
    if name == "cuda" and torch.cuda.is_available(): pytest.skip("there is a GPU: the other tests use it")
    device = torch.device("cpu" if name == "cpu" else "cuda")
    with FakeTensorMode(), torch.no_grad(): yield device


def on(device, net):
    "A network and fake parameters on the device for it."
    return net, {n: torch.empty(p.shape, device=device) for n, p in (*net.named_parameters(), *net.named_buffers())}


def same(t, device): assert t.device.type == device.type


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
def test_mask_estimators(fake, name):
    weight, logits = torch.empty(1, 12, device=fake), torch.empty(1, 1, 12, device=fake)
    keys = torch.empty(1, 1, 2, 2, dtype=torch.int32, device=fake)
    estimator = get_estimator(name)
    masked, _ = estimator.draw(weight, logits, keys, sampling.Place((3, 4)), 0.5, "eager")
    same(masked, fake)
    same(estimator.price(logits, 0.5), fake)
    same(estimator.finish(logits), fake)


# made outside of the mode, which networks cannot be built in
NETS = {"feedforward": (FeedForward(6, (8,), 3, seed=0), (5, 6)), "cnn": (CNN(10, seed=0), (2, 3, 32, 32))}
GATED = {gating: build("mlp", gating, rules=4, width=8, seed=0) for gating in ("monolithic", "modular")}


@pytest.mark.parametrize("name", NETS)
def test_masked_forward_passes(fake, name):
    net, shape = NETS[name]
    net, weights = on(fake, net)
    masks = {n: torch.empty(t.shape, dtype=torch.bool, device=fake) for n, t in weights.items() if t.is_floating_point()}
    given = {n: t * masks[n] if n in masks else t for n, t in weights.items()}
    same(functional_call(net.eval(), given, (torch.empty(shape, device=fake),)), fake)


@pytest.mark.parametrize("name", sorted(LAWS))
def test_laws(fake, name):
    law = make_law(name, 4, 2)
    scores = torch.empty(5, *law.shape, device=fake)
    noise = torch.empty(3, 5, *law.noise_shape, device=fake)
    a = law.draw(scores.expand(3, *scores.shape), noise)
    same(a, fake)
    for t in (law.mode(scores), law.inclusion(scores), law.counts(scores)): same(t, fake)


@pytest.mark.parametrize("gating", GATED)
def test_gated_networks(fake, gating):
    net, weights = on(fake, GATED[gating])
    out, _ = functional_call(net, weights, (torch.empty(5, 2 + 4, device=fake),))
    same(out, fake)


def test_entropies(fake):
    p = torch.empty(6, 2, 4, device=fake)
    for of in (entropy.entropy_a, entropy.entropy_b, entropy.information, entropy.usage): same(of(p), fake)
