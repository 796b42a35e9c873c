"""Masks on networks, losses and inputs that other people write: right, the same on each route, or refused with a reason."""
import threading
from collections import UserDict
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torch.nn.utils.prune as prune
from torch import nn
from torch.utils.checkpoint import checkpoint

from modnb.masks import Masks, ablate, learn_masks, masked, pruned
from modnb.masks.batching import Batched, _disagreement, _gradients
from modnb.training import fit_ensemble
from modnb.training.checkpoint import CheckpointError

ROUTES = ("auto", "vmap", "loop", "channels-last")


def rows(seed=1, n=16):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, 6, generator=g), torch.randint(0, 3, (n,), generator=g)


def mlp(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


class Body(nn.Module):
    "A network whose forward pass is given."
    def __init__(self, forward, **more):
        super().__init__()
        self.body, self.run = mlp(), forward
        for name, value in more.items(): setattr(self, name, value)

    def forward(self, *inputs, **named): return self.run(self, *inputs, **named)


def learn(net, data=None, loss=F.cross_entropy, **options):
    return learn_masks(net, data or {"a": [rows(1), rows(2)]}, loss, **({"steps": 4, "lr": 0.1, "beta": 1e-2} | options))


def distance(a, b): return max(float((a.logits["a"][n] - b.logits["a"][m]).abs().max()) for n, m in zip(a.logits["a"], b.logits["a"]))


def message(call, *args, **options):
    with pytest.raises((ValueError, TypeError)) as error: call(*args, **options)
    return str(error.value)


# what runs in the backward pass

class Recomputed(torch.autograd.Function):
    "A linear layer that reads its weight again in the backward pass."
    @staticmethod
    def forward(ctx, x, weight, module):
        ctx.save_for_backward(x)
        ctx.module = module
        return x @ weight.T

    @staticmethod
    def backward(ctx, grad): return grad @ ctx.module.weight, grad.T @ ctx.saved_tensors[0], None


def by_function(self, x):
    first = self.body[0]
    return self.body[2](torch.tanh(Recomputed.apply(x, first.weight, first) + first.bias))


def by_hook(self, x):
    h = self.body[:2](x)
    if h.requires_grad: h.register_hook(lambda grad: grad * self.body[2].weight.sum(0))
    return self.body[2](h)


def by_hook_plainly(self, x):
    h = self.body[:2](x)
    scale = self.body[2].weight.detach().sum(0)
    return self.body[2](h * scale + (h - h * scale).detach())


BACKWARD = {"not reentrant": (lambda self, x: checkpoint(self.body, x, use_reentrant=False), lambda self, x: self.body(x)),
            "reentrant": (lambda self, x: checkpoint(self.body, x, use_reentrant=True), lambda self, x: self.body(x)),
            "own function": (by_function, lambda self, x: self.body(x)), "hook on a tensor": (by_hook, by_hook_plainly)}


@pytest.mark.filterwarnings("ignore:None of the inputs")
@pytest.mark.parametrize("kind", BACKWARD)
def test_backward_pass_sees_the_masked_weights(kind):
    special, plain = BACKWARD[kind]
    x, y = rows(5)
    g = torch.Generator().manual_seed(0)
    keep = {n: torch.rand(2, *p.shape, generator=g) < 0.5 for n, p in Body(plain).named_parameters()}
    weights = {n: p.detach() * keep[n] for n, p in Body(plain).named_parameters()}
    given = x.view(2, 8, 6), y.view(2, 8)
    truth = _gradients(lambda w: Batched(Body(plain), F.cross_entropy, "loop").loop(w, *given), weights)
    assert _disagreement(_gradients(lambda w: Batched(Body(special), F.cross_entropy, "loop").loop(w, *given), weights), truth) < 1e-4
    assert distance(learn(Body(special), batching="loop"), learn(Body(plain), batching="loop")) < 1e-3
    assert distance(learn(Body(special)), learn(Body(plain), batching="loop")) < 1e-3


@pytest.mark.parametrize("kind", ["not reentrant", "own function", "hook on a tensor"])
def test_backward_pass_of_a_masked_view_that_comes_later(kind):
    special, plain = BACKWARD[kind]
    nets, grads = (Body(special), Body(plain)), []
    mask = {"body.0.weight": torch.rand(8, 6, generator=torch.Generator().manual_seed(0)) < 0.5}
    for net in nets:
        view = masked(net, mask)
        losses = [F.cross_entropy(view(x), y) for x, y in (rows(1), rows(2))]
        sum(losses).backward()
        grads.append([net.body[0].weight.grad, net.body[2].weight.grad])
    assert _disagreement(*grads) < 1e-4


def test_vmap_by_name_is_refused_where_it_would_be_wrong():
    for special in (by_hook, by_function): assert message(learn, Body(special), batching="vmap").startswith("batching: 'vmap' cannot run net")


# copies

def test_networks_that_keep_things_work_before_and_after_a_call():
    def keeping(self, x):
        self.latest = self.body(x)
        self.history = [self.latest]
        return self.latest
    nets = [Body(keeping, lock=threading.Lock(), generator=torch.Generator()) for _ in range(2)]
    nets[1](rows()[0])
    assert distance(*map(learn, nets)) == 0
    mask = {"body.0.weight": torch.ones(8, 6, dtype=torch.bool)}
    assert torch.equal(pruned(nets[1], mask)(rows()[0]), masked(nets[1], mask)(rows()[0]))
    assert len(fit_ensemble([nets[1], Body(keeping)], [[rows()], [rows()]], F.cross_entropy, 2)) == 2


WRAPPED = {"pruned": lambda layer: prune.l1_unstructured(layer, "weight", 0.5), "weight norm": nn.utils.parametrizations.weight_norm,
           "spectral norm by hook": nn.utils.spectral_norm, "spectral norm": nn.utils.parametrizations.spectral_norm}


@pytest.mark.parametrize("kind", WRAPPED)
def test_gradients_of_computed_weights(kind):
    net = mlp().eval()
    WRAPPED[kind](net[0])
    net(rows()[0])
    found = {batching: learn(net, batching=batching) for batching in ("auto", "loop")}
    assert distance(*found.values()) < 1e-3 and not found["auto"].reason
    own = next(n for n in found["loop"].masks["a"] if n.startswith("0."))
    assert any((found["loop"].logits["a"][own] - 2).abs().flatten() > 1e-3)
    nothing = masked(net, {own: torch.zeros_like(net.get_parameter(own), dtype=torch.bool)})
    if kind == "pruned": assert torch.equal(nothing(rows()[0])[0], nothing(rows()[0])[1])
    kept = pruned(net, {own: torch.rand_like(net.get_parameter(own)) < 0.5})
    assert kept(rows()[0]).shape == (16, 3) and kept[0] is not net[0]


# several networks

def differing(kind):
    nets = [Body(lambda self, x: self.body(x)) for _ in range(2)]
    if kind == "activation": nets[1].body[1] = nn.ReLU()
    if kind == "tensor":
        for i, net in enumerate(nets): net.scale, net.run = torch.tensor(1.0 + i), lambda self, x: self.body(x * self.scale)
    if kind == "number":
        for i, net in enumerate(nets): net.scale, net.run = 1 + i, lambda self, x: self.body(x * self.scale)
    if kind == "slope":
        for i, net in enumerate(nets): net.body[1] = nn.LeakyReLU(0.1 + i)
    if kind == "hook": nets[1].body[0].register_forward_hook(lambda module, inputs, output: output * 2)
    return nets


@pytest.mark.parametrize("kind", ["activation", "tensor", "number", "slope", "hook"])
def test_networks_that_differ_are_each_run_as_they_are(kind):
    nets = differing(kind)
    together = learn(nets)
    assert [f.route for f in together] == ["loop", "loop"] and "network 1 differs from network 0 in" in together[0].reason
    for seed, (net, found) in enumerate(zip(nets, together)): assert distance(found, learn(net, seed=seed, batching="loop")) < 1e-4
    assert message(learn, nets, batching="vmap").startswith("net: network 1 differs")


# losses

WRONG_LOSSES = {"a tensor of shape": lambda o, y: F.cross_entropy(o, y, reduction="none"), "a dict": lambda o, y: {"loss": F.cross_entropy(o, y)},
                "a tuple": lambda o, y: (F.cross_entropy(o, y), {}), "a float": lambda o, y: float(o.detach().sum()) if not torch._C._functorch.is_batchedtensor(o) else 0.0,
                "a NoneType": lambda o, y: None, "a tensor without a gradient": lambda o, y: o.detach().mean()}


@pytest.mark.parametrize("batching", ROUTES)
@pytest.mark.parametrize("what", WRONG_LOSSES)
def test_a_loss_that_is_no_number_is_refused_alike_on_each_route(what, batching):
    assert message(learn, mlp(), loss=WRONG_LOSSES[what], batching=batching).startswith(f"loss: returned {what}")


@pytest.mark.parametrize("batching", ROUTES)
def test_a_loss_of_one_element(batching):
    loss = lambda o, y: F.cross_entropy(o, y).view(1, 1)
    assert distance(learn(mlp(), loss=loss, batching=batching), learn(mlp(), batching=batching)) == 0


def test_a_loss_that_uses_the_network_itself_is_found_out(caplog):
    caplog.set_level("WARNING", logger="modnb")
    net = mlp()
    penalty = lambda o, y: F.cross_entropy(o, y) + 0.1 * sum(p.square().sum() for p in net.parameters())
    assert message(learn, net, loss=penalty).startswith("loss: depends on the parameter '0.weight' of net itself")
    frozen = mlp().requires_grad_(False)
    teacher = lambda o, y: F.mse_loss(o, frozen(y))
    learn(frozen, {"a": [(rows()[0], rows()[0])]}, teacher, batching="loop")
    assert "loss reads the parameter '0.weight' of net itself" in caplog.text
    with pytest.raises(ValueError, match="net: its forward pass reads the parameter"):
        inner = mlp()
        learn(Body(lambda self, x: inner(x), inner=inner))


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_gradients_may_be_switched_off_outside(context):
    net, batches = mlp(), [rows(1), rows(2)]
    with context():
        found = learn(net, {"a": batches})
        assert not torch.is_grad_enabled()
    assert distance(found, learn(net)) == 0
    with torch.inference_mode(): made = mlp()
    assert message(learn, made).startswith("net: Sequential was made under torch.inference_mode")


# inputs, names, callbacks

@dataclass
class Output:
    logits: torch.Tensor
    hidden: tuple = ()


@pytest.mark.parametrize("batching", ("auto", "vmap", "loop"))
def test_inputs_of_any_mapping_and_outputs_of_any_class(batching):
    net = Body(lambda self, x, more: Output(self.body(x * more["scale"][0])))
    x, y = rows()
    scale = torch.ones(16, 1)
    loss = lambda out, targets: F.cross_entropy(out.logits, targets["y"])
    plain = learn(net, {"a": [({"x": x, "more": {"scale": (scale,)}}, {"y": y})]}, loss, batching=batching)
    given = UserDict(x=x, more=UserDict(scale=[scale]))
    assert distance(learn(net, {"a": [(given, UserDict(y=y))]}, loss, batching=batching), plain) == 0
    assert given["x"] is x and type(given["more"]) is UserDict
    assert "one row per example" in message(learn, net, {"a": [({"x": x, "more": None}, y)]}, loss)


def test_names_of_functions_are_made_plain():
    data = [rows()]
    plain = learn(mlp(), {"a": data, "b": data})
    found = learn(mlp(), {np.str_("a"): data, np.str_("b"): data})
    assert distance(plain, found) == 0 and [type(f) for f in found.masks] == [str, str]
    assert [type(f) for f in learn(mlp(), {np.int64(3): data}).masks] == [int]
    for names in ([("a", "b")], [None], [1.5], [1, "1"]): assert message(learn, mlp(), {n: data for n in names}).startswith("data: ")


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), np.mean([0, 1]), torch.tensor(0.5), torch.tensor([0.5])])
def test_what_evaluate_returns_is_made_plain(tmp_path, value):
    found = learn(mlp(), {"a/b": [rows()], "a": [rows()]}, evaluate=lambda masks: {"a/b/accuracy": value, "a/accuracy": value}, checkpoint=tmp_path / "masks.pt")
    last = found.history.query("metric == 'accuracy'")
    assert list(last.function) == ["a/b", "a"] and list(last.value) == [0.5, 0.5] and found.history.value.dtype == float


@pytest.mark.parametrize("result", [{"accuracy": 1.0}, {"a/accuracy": "0.5"}, {"a": {"accuracy": 1.0}}, {"a/accuracy": None}, {"a/accuracy": np.ones(2)}, 0.5, {"a/": 1.0}])
def test_what_evaluate_must_not_return_is_said_before_the_first_step(result):
    steps = []
    assert message(learn, mlp(), evaluate=lambda masks: result, callbacks=[lambda event: steps.append(event.step)]).startswith("evaluate: ")
    assert not any(steps)


def test_functions_with_the_names_of_our_rows():
    mask = Masks({"0.weight": torch.ones(8, 6, dtype=torch.bool)})
    measure = lambda view: {"mean": view(rows()[0]).mean()}
    for names in (["full"], ["x", "not x"]): assert message(ablate, mlp(), dict.fromkeys(names, mask), measure).startswith("masks: ")
    assert len(ablate(mlp(), dict.fromkeys(["x", "not x"], mask), measure, inverse=False)) == 3


@pytest.mark.parametrize("batching", ["auto", "loop"])
def test_what_the_loss_and_the_batch_hold_gets_no_gradient(batching):
    head, net, (x, y) = nn.Linear(3, 3), Body(lambda self, x: self.body(x) * self.scale), rows()
    net.scale = torch.ones(3, requires_grad=True)
    loss = lambda o, t: F.cross_entropy(head(o), t)
    held = [*head.parameters(), net.scale, x.requires_grad_()]
    found = learn(net, {"a": [(x, y)]}, loss, batching=batching)
    assert all(t.grad is None for t in held)
    for t in held: t.requires_grad_(False)
    assert distance(found, learn(net, {"a": [(x, y)]}, loss, batching=batching)) == 0


WRONG = [dict(samples="2"), dict(samples=2.0), dict(steps=None), dict(every=1.5), dict(every="a"), dict(beta="x"), dict(lr=-1), dict(lr=float("nan")),
         dict(loss=None), dict(callbacks=print), dict(where=None), dict(where="weight"), dict(init={"0.weight": np.full((8, 6), np.nan)}),
         dict(init={"0.weight": np.ones((6, 8))}), dict(net=3), dict(net=F.relu), dict(net=[mlp(), mlp().double()]),
         dict(net=[nn.Linear(6, 3), nn.Linear(6, 4)]), dict(estimator=None), dict(checkpoint="tests")]


@pytest.mark.parametrize("given", WRONG, ids=[f"{n}-{i}" for i, options in enumerate(WRONG) for n in options])
def test_a_setting_that_does_not_fit_is_named(given):
    name, = given
    options = dict(net=mlp(), data={"a": [rows()]}, loss=F.cross_entropy) | given
    assert message(learn_masks, **options).startswith(f"{name}: ")


@pytest.mark.parametrize("layer", [nn.Embedding, nn.EmbeddingBag])
@pytest.mark.parametrize("batching", ["auto", "loop"])
def test_sparse_gradients_are_those_of_the_dense_layer(layer, batching):
    x, y = torch.arange(24).view(8, 3) % 5, torch.arange(8) % 3
    found = []
    for sparse in (False, True):
        torch.manual_seed(0)
        table = layer(6, 4, sparse=sparse)
        net = nn.Sequential(table, nn.Flatten(), nn.Linear(12 if layer is nn.Embedding else 4, 3))
        data, only = {"a": [(x, y)]}, [lambda name, p: "bias" not in name, lambda name, p: name.startswith("2")]
        found += [learn(net, data, batching=batching, where=only[0]), learn(net, data, batching=batching, clip="published", where=only)]
    assert distance(found[0], found[2]) < 1e-5 and distance(found[1], found[3]) < 1e-5


def test_networks_without_numbers():
    assert message(learn, nn.Sequential(nn.LazyLinear(3))).startswith("net: its parameter '0.weight' has no shape yet")
    assert message(learn, mlp().to("meta")).startswith("net: Sequential is on the meta device")


def test_a_checkpoint_of_each_function_whatever_its_name(tmp_path):
    names = ["add", "a/b", "b" * 300, "\n"]
    options = dict(together=False, checkpoint=tmp_path / "masks.pt")
    found = [learn(mlp(), {name: [rows()] for name in names}, **options) for _ in range(2)]
    assert found[0].rows == found[1].rows
    assert len(list(tmp_path.iterdir())) == 4 and (tmp_path / "masks.pt.add").exists()
    with pytest.raises(CheckpointError, match="lr is 0.1 there and 0.2 here; .* or remove it"): learn(mlp(), dict.fromkeys(names, [rows()]), lr=0.2, **options)


def test_wrappers():
    wrapped = torch.compile(mlp(), backend="eager")
    assert distance(learn(wrapped), learn(mlp())) == 0 and list(learn(wrapped).masks["a"]) == ["0.weight", "2.weight"]
    assert "net.module" in message(learn, nn.DataParallel(mlp())) and "torch.jit" in message(learn, torch.jit.script(mlp()))
    assert "net.module" in message(masked, nn.DataParallel(mlp()), {})


def test_the_reason_names_the_module_that_asked():
    class Asks(nn.Module):
        def forward(self, x): return x if x.sum() > 0 else -x
    found = learn(nn.Sequential(nn.Linear(6, 8), nn.Sequential(Asks()), nn.Linear(8, 3)))
    assert found.route == "loop" and found.reason.startswith("1.0 (Asks): ")


# ensembles

@pytest.mark.parametrize("optimizer", [torch.optim.Adafactor, torch.optim.Muon, torch.optim.LBFGS])
def test_optimizers_that_look_at_whole_tensors_are_not_stacked(optimizer):
    nets = [nn.Linear(6, 3, bias=False) for _ in range(2)]
    assert message(fit_ensemble, nets, [[rows()]] * 2, F.cross_entropy, 2, optimizer=optimizer, group=2).startswith(("group: 2", "optimizer: LBFGS"))
