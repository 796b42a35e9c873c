"""Nothing of the user's is ever changed: every public function that takes a network leaves it, and the batches, bit for bit as they were."""
import importlib
import inspect
import pkgutil

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import modnb.masks
import modnb.training
from modnb.masks.ablation import ablate, materialize, pruned, variants
from modnb.masks.algebra import check_model, masked
from modnb.masks.batching import Batched, check_shapes
from modnb.masks.choice import choose_beta
from modnb.masks.learner import FunctionLogits, FunctionMasks, MaskLearner, StepLearner
from modnb.masks.learning import learn_masks
from modnb.masks.callbacks import MaskTracker
from modnb.masks.memory import check_memory, memory_rows, predicted_memory
from modnb.masks.network import masked_parameters, model_hash, select, unwrapped
from modnb.masks.pruning import prune_masks, with_prune
from modnb.masks.settings import MaskSettings
from modnb.masks.study import learn_each, named_tensors
from modnb.masks.units import assigned, frozen_parameters, make_pools, make_units
from modnb.models.copies import full_copy, structural_copy
from modnb.models.shrink import shrink
from modnb.training.ensembles import fit_ensemble
from modnb.training.fit import measure
from modnb.training.groups import Member, choose_size


class Restless(nn.Module):
    "Changes its input, a buffer, two attributes and a parameter in every call, also in eval mode."
    def __init__(self):
        super().__init__()
        self.table, self.bag = nn.Embedding(4, 6, max_norm=0.1), nn.EmbeddingBag(4, 6, max_norm=0.1)
        self.linear, self.norm = nn.Linear(6, 6), nn.BatchNorm1d(6)
        self.register_buffer("calls", torch.zeros(()))
        self.number, self.latest, self.kept = 0, None, [1]

    def forward(self, x):
        x.mul_(2)
        self.calls += 1
        self.number = self.number + 1
        row = F.embedding(torch.tensor([1]), self.table.weight, max_norm=0.05) + self.table(torch.tensor([2])) + self.bag(torch.tensor([[0, 3]]))
        self.latest = self.norm(self.linear(x) + row)
        return self.latest


def setting():
    "A network with a frozen norm inside, gradients, and a parameter that needs none; and a batch."
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net, x, y = Restless(), torch.randn(8, 6), torch.randint(0, 6, (8,))
    net.train()
    net.norm.eval()
    net.linear.bias.requires_grad_(False)
    net.linear.weight.grad = torch.ones(6, 6)
    return net, (x, y)


def snapshot(net, batch):
    "All that must stay."
    def plain(value): return (value.detach().clone(), value.requires_grad, value.grad if value.is_leaf else None) if isinstance(value, torch.Tensor) else value
    held = [{n: plain(v) for n, v in vars(m).items() if not n.startswith("_")} for m in net.modules()]
    hooks = [len(v) for m in net.modules() for n, v in vars(m).items() if n.endswith("_hooks")]
    tensors = {n: plain(t) for n, t in (*net.named_parameters(), *net.named_buffers())}
    return held, hooks, tensors, [t.clone() for t in batch], [type(m) for m in net.modules()], list(net.kept)


def same(a, b):
    if isinstance(a, torch.Tensor): return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict): return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)): return len(a) == len(b) and all(map(same, a, b))
    return a is b or a == b


WEIGHT = {"linear.weight": torch.rand(6, 6, generator=torch.Generator().manual_seed(0)) < 0.5}
def linear(name, param): return name.startswith("linear")
def score(view): return float(view(torch.ones(4, 6)).detach().sum())
def masks(net): return {"a": modnb.masks.Masks(WEIGHT, model=model_hash(net))}


def learning(**options):
    def call(net, batch): return learn_masks(net, {"a": [batch]}, F.cross_entropy, **({"samples": 2, "steps": 2, "where": linear} | options))
    return call


def one_step(net, batch): MaskLearner(net, ["a"], F.cross_entropy, samples=2, steps=2, where=linear).step(0, [batch])


def both_ways(net, batch):
    weights = {"linear.weight": torch.stack([net.linear.weight.detach()] * 2).requires_grad_()}
    given = [t.view(2, 4, *t.shape[1:]) for t in batch]
    for batching in ("auto", "loop", "channels-last"):
        batched = Batched(net, F.cross_entropy, batching)
        batched.settle(weights, *given)
        batched.loop(weights, *given).sum().backward()


CALLS = {    # public function -> ways to call it with a network and a batch
    learn_masks: [learning(batching=b) for b in ("auto", "loop", "channels-last")] + [learning(memory="low"), learning(train_weights=True), learning(evaluate=lambda m: {"a/kept": m["a"].kept}), learning(clip="published"),
                                                                                      lambda net, batch: learning()([net, setting()[0]], batch)],
    masked: [lambda net, batch: masked(net, WEIGHT)(batch[0].clone()).sum(), lambda net, batch: masked(net, WEIGHT).eval()(batch[0].clone())],
    ablate: [lambda net, batch: ablate(net, masks(net), lambda view: {"score": score(view)})],
    variants: [lambda net, batch: [view(batch[0].clone()) for view in variants(net, masks(net)).values()]],
    pruned: [lambda net, batch: pruned(net, WEIGHT)(batch[0].clone())],
    materialize: [lambda net, batch: materialize(net, WEIGHT, example=batch[0].clone())], shrink: [lambda net, batch: shrink(net).net(batch[0].clone())],
    with_prune: [lambda net, batch: with_prune(net, WEIGHT)(batch[0].clone()).sum().backward()], prune_masks: [lambda net, batch: prune_masks(net)],
    masked_parameters: [lambda net, batch: masked_parameters(net, WEIGHT)],
    MaskTracker.observe: [lambda net, batch: MaskTracker({"a": [batch]}, F.cross_entropy, every=1, samples=2, steps=2, where=linear).observe(net, 1)],
    learn_each: [lambda net, batch: learn_each([net], [{"a": [batch]}], F.cross_entropy, samples=2, steps=2, where=linear)],
    named_tensors: [lambda net, batch: named_tensors("0", {}, net)],
    choose_beta: [lambda net, batch: choose_beta(net, [batch], F.cross_entropy, score, low=1e-4, high=1e-3, ratio=4, tolerance=1e9, samples=2, steps=2, where=linear)],
    MaskLearner: [one_step], Batched: [both_ways],
    memory_rows: [lambda net, batch: memory_rows([net], 1, MaskSettings(where=linear))], predicted_memory: [lambda net, batch: predicted_memory(net, where=linear)],
    check_memory: [lambda net, batch: check_memory([net], 1, MaskSettings(where=linear))],
    FunctionLogits: [lambda net, batch: FunctionLogits(net, ["a"], MaskSettings(clip="published"))],
    StepLearner: [lambda net, batch: StepLearner(net, ["a"], MaskSettings(where=linear)).keys(0)],
    FunctionMasks: [lambda net, batch: FunctionMasks(net, ["a"], MaskSettings(where=linear)).masks()],
    select: [lambda net, batch: select(net)], model_hash: [lambda net, batch: model_hash(net)], unwrapped: [lambda net, batch: unwrapped(net)],
    make_units: [lambda net, batch: make_units([net], linear, "row")],
    make_pools: [lambda net, batch: make_pools(net, make_units([net], linear, "row"), "row")],
    assigned: [lambda net, batch: assigned(net, "row", dict(net.named_parameters()))],
    frozen_parameters: [lambda net, batch: frozen_parameters([net], make_units([net], linear, "weight"))],
    check_model: [lambda net, batch: check_model(model_hash(net), net)],
    check_shapes: [lambda net, batch: check_shapes([net, setting()[0]])],
    full_copy: [lambda net, batch: full_copy(net)(batch[0].clone())],
    structural_copy: [lambda net, batch: structural_copy(net, {n: p.detach().clone() for n, p in net.named_parameters()})(batch[0].clone())],
    choose_size: [lambda net, batch: choose_size([Member(n, F.cross_entropy, "sgd", 0.0, None) for n in (full_copy(net), full_copy(net))], tuple(torch.stack([t, t]) for t in batch), least=0.0)],
    fit_ensemble: [lambda net, batch: fit_ensemble([full_copy(net), full_copy(net)], [[batch], [batch]], F.cross_entropy, 2)],
}
TRAINED = {    # function -> why a network that it is given may change
    "fit": "trains it", "train_classifier": "trains it", "Learner": "trains it", "Member": "trains it", "Fit": "holds it", "trainable": "gives its parameters",
    "call_net": "is a call of it", "Twin": "Batched watches it", "seeds_of": "is given their number", "per_unit": "is given their number", "found_units": "is given its number", "measure": "calls it, in eval mode", "in_mode": "is about its mode", "predict": "calls it, in eval mode",
    "fit_network": "trains it", "fit_classifier": "trains it", "FunctionStudy": "trains it", "accuracies": "calls it",
    "learn_functions": "gives it to learn_masks", "learn_classes": "gives it to learn_masks", "seed_result": "keeps its tensors", "loaded": "compares its hash"}


def takes_a_network():
    "Public classes and functions of masks and training that have an argument for a network."
    found = {}
    for package in (modnb.masks, modnb.training):
        for info in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            module = importlib.import_module(info.name)
            for name in getattr(module, "__all__", ()):
                thing = getattr(module, name)
                if not callable(thing) or getattr(thing, "__module__", None) != info.name: continue
                if not (inspect.isfunction(thing) or (isinstance(thing, type) and thing.__init__ is not dict.__init__)): continue    # a name for a type
                if isinstance(thing, type) and issubclass(thing, Exception): continue
                if {"net", "nets", "network"} & set(inspect.signature(thing).parameters): found[name] = thing
    return found


def test_every_public_function_that_takes_a_network_is_here():
    assert {name for name, thing in takes_a_network().items() if thing not in CALLS} == set(TRAINED)


@pytest.mark.parametrize("call", [pytest.param(call, id=f"{thing.__name__}-{i}") for thing, calls in CALLS.items() for i, call in enumerate(calls)])
def test_untouched(call):
    net, batch = setting()
    before = snapshot(net, batch)
    call(net, batch)
    for what, old, new in zip(("attributes", "hooks", "parameters and buffers", "batch", "classes", "list"), before, snapshot(net, batch)): assert same(old, new), what


def test_trials_leave_no_trace_in_the_training():
    "The first calls are watched and compared; the masks are those of the plain loop, and the random numbers go on as if nothing had been."
    (net, batch), states = setting(), []
    logits = []
    for batching in ("loop", "auto"):
        torch.manual_seed(0)
        logits.append(learning(batching=batching, steps=5)(net, batch).logits["a"]["linear.weight"])
        states.append(torch.get_rng_state())
    assert torch.allclose(*logits, atol=1e-4) and torch.equal(*states)


def test_measure_puts_modes_back():
    net, batch = setting()
    measure(net, lambda n: {"score": score(n)})
    assert [m.training for m in (net, net.norm, net.linear)] == [True, False, True]
