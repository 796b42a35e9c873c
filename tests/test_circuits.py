"""Units by name and gates on the layouts of other libraries, and on stand-ins with the same module trees where those are not installed."""
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from modnb.circuits import Mean, Resample, gated, learn_gates
from modnb.circuits.gates import GatedNetwork
from modnb.masks import Masks, learn_masks, masked, weights_only
from modnb.masks.network import model_hash
from modnb.masks.units import make_pools, make_units
from modnb.models.layout import find_layers, named_units
from modnb.models.standins import BertLike, GPT2Like, LlamaLike, T5Like, seeded

os.environ.setdefault("HF_HUB_OFFLINE", "1")
WORDS = torch.randint(2, 11, (8, 6), generator=torch.Generator().manual_seed(0))
VECTORS = torch.randn(8, 6, 12, generator=torch.Generator().manual_seed(0))


def library():
    return pytest.importorskip("transformers", reason="transformers: not installed; pip install 'modnb[pretrained]'")


def config(kind, **options):
    return getattr(library(), kind)(vocab_size=11, bos_token_id=0, eos_token_id=0, pad_token_id=0, attn_implementation="eager", **options)


def pretrained(name):
    "A tiny random instance of a layout of `transformers`."
    t = library()
    if name == "GPT-2": return t.GPT2LMHeadModel(config("GPT2Config", n_embd=12, n_layer=2, n_head=3, n_positions=16))
    if name == "BERT": return t.BertModel(config("BertConfig", hidden_size=12, num_hidden_layers=2, num_attention_heads=3, intermediate_size=20), add_pooling_layer=False)
    if name == "Llama": return t.LlamaForCausalLM(config("LlamaConfig", hidden_size=12, num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=2, intermediate_size=20))
    return t.T5ForConditionalGeneration(config("T5Config", d_model=12, d_kv=5, d_ff=20, num_layers=2, num_heads=3, decoder_start_token_id=0, feed_forward_proj="gated-gelu" if name == "T5, gated" else "relu"))


def encoder(first):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.TransformerEncoder(nn.TransformerEncoderLayer(12, 3, 20, batch_first=first), 2, enable_nested_tensor=False)

        def forward(self, x): return self.inner(x) if first else self.inner(x.transpose(0, 1)).transpose(0, 1)
    return Net()


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(12, 3, batch_first=True)

    def forward(self, x): return self.attention(x, x, x, need_weights=False)[0]


STANDINS = {"GPT-2": GPT2Like, "BERT": BertLike, "Llama": lambda: LlamaLike(heads=6), "T5": T5Like}
OWN = {"encoder layers": lambda: encoder(True), "encoder layers, positions first": lambda: encoder(False), "attention": Attention}
NAMES = [f"{source} {name}" for source in ("stand-in", "transformers") for name in STANDINS] + ["transformers T5, gated", *OWN]


def make(name, seed=0):
    source, _, layout = name.partition(" ")
    if name in OWN: return seeded(OWN[name], seed)
    net = seeded(STANDINS[layout] if source == "stand-in" else lambda: pretrained(layout), seed)
    if source == "transformers": # as they are initialized, a tiny network says nearly nothing
        with torch.no_grad(): [p.mul_(12) for n, p in net.named_parameters() if p.dim() == 2 and "embed" not in n]
    return net


def inputs(name):
    if name in OWN: return VECTORS
    if name.startswith("stand-in"): return WORDS
    return {"input_ids": WORDS} | ({"labels": WORDS} if "T5" in name else {})


def call(net, given): return net(**given) if isinstance(given, dict) else net(given)
def plain(output): return output if isinstance(output, torch.Tensor) else output.logits if "logits" in output else output.last_hidden_state


def loss(output, target):
    return F.cross_entropy(plain(output)[..., :5].flatten(0, 1), target.flatten())


def batch(name): return (inputs(name), torch.randint(5, (8, 6), generator=torch.Generator().manual_seed(1)))


def kinds(name): return ["head"] if name == "attention" else ["head", "neuron", "layer", "dimension"]


@pytest.mark.parametrize("name", NAMES)
def test_every_layout_is_found(name):
    layers = find_layers(make(name))
    both = "T5" in name
    assert len(layers) == (4 if both else 1 if name == "attention" else 2)
    assert all(a.heads == (6 if "Llama" in name else 3) for layer in layers for a in layer.attentions)
    assert [len(layer.attentions) for layer in layers] == ([1, 1, 2, 2] if both else [1] * len(layers))
    assert layers[0].name == ("encoder layer 0" if both else "layer 0")
    if name != "attention": assert all(f.neurons == (48 if name == "transformers GPT-2" else 20) for layer in layers for f in layer.feedforwards)


def by_hand(net, kind):
    "The units of a network as a function of names and parameters: each is spread to the shape of its parameter."
    groups = {n: (g.name, index) for g in named_units(net, kind) for n, index in g.members.items()}
    shapes = {n: p.shape for n, p in net.named_parameters()}
    def grouping(name, param): return groups[name][0], groups[name][1].expand(shapes[name]).clone()
    return grouping, lambda name, param: name in groups


@pytest.mark.parametrize("name, kind", [(n, kind) for n in NAMES if "positions" not in n and "gated" not in n for kind in kinds(n)])
def test_masks_of_units_are_masks_of_weights_made_by_hand(name, kind):
    "Bit for bit; and the loop agrees with vmap where both can run."
    net = make(name)
    data, options = {"a": [batch(name)]}, dict(samples=2, steps=3, lr=0.3, init=0.5)
    grouping, here = by_hand(net, kind)
    before = model_hash(net)
    found = learn_masks(net, data, loss, granularity=kind, batching="loop", **options)
    again = learn_masks(net, data, loss, granularity=grouping, where=[weights_only, here], batching="loop", **options)
    assert found.masks["a"] == again.masks["a"] and all(torch.equal(t, again.logits["a"][n]) for n, t in found.logits["a"].items())
    spread = {n: found.units("a")[pool][index].expand(net.get_parameter(n).shape) for g in named_units(net, kind) for n, (pool, index) in {m: (g.name, i) for m, i in g.members.items()}.items() if n in found.masks["a"]}
    assert found.masks["a"] == Masks(spread)
    auto = learn_masks(net, data, loss, granularity=kind, **options)
    for n, t in found.logits["a"].items(): assert (auto.logits["a"][n] - t).abs().max() < 1e-2, auto.route
    assert model_hash(net) == before
    assert found.to_frame().unit.is_unique and len(found.to_frame()) == found.units("a").total


@pytest.mark.parametrize("name", NAMES)
def test_heads_by_output_are_heads_by_weights(name):
    "Gates of zero on heads and neurons are zeros in the columns that read them."
    net, given = make(name), inputs(name)
    for kind in kinds(name)[:2]:
        network = GatedNetwork(net, kind)
        kept = {pool: torch.arange(len(labels)) % 2 == 0 for pool, labels in network.labels.items()}
        readers = {site.module for site, _ in network.sites}
        units = make_units([net], lambda n, p: n.rpartition(".")[0] in readers and "weight" in n, kind)
        sizes = {p.name: p.size for p in make_pools(net, units, kind)}
        wide = {pool: torch.cat([t, torch.ones(sizes[pool] - len(t)).bool()]) for pool, t in kept.items()}
        with torch.no_grad():
            a = plain(call(gated(net, kept, kind), given))
            b = plain(call(masked(net, {u.name: u.full(wide[u.pool]) for u in units}), given))
            whole = plain(call(net, given))
        assert torch.allclose(a, b, atol=1e-4 * float(b.abs().max())) and not torch.allclose(a, whole, atol=1e-3 * float(whole.abs().max()))


@pytest.mark.parametrize("name", NAMES)
def test_samples_in_one_pass_are_samples_one_by_one(name):
    "Rows under different gates give what they give alone, with every replacement; the network is untouched."
    net, given = make(name), inputs(name)
    before, classes = model_hash(net), [type(m) for m in net.modules()]
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()]
    every = GatedNetwork(net, "head")
    g = torch.Generator().manual_seed(2)
    gates = {pool: torch.rand(8, len(labels), generator=g) for pool, labels in every.labels.items()}
    for replacement in (Mean([given]), Resample(lambda x: {n: t.flip(1) for n, t in x.items()} if isinstance(x, dict) else x.flip(1))):
        prepared = replacement.prepare(every, [])
        whole = plain(every.run(given, gates, replacement.values(every, prepared, given))).detach()
        for row in (0, 3):
            one = {n: t[row:row + 1] for n, t in given.items()} if isinstance(given, dict) else given[row:row + 1]
            alone = plain(every.run(one, {pool: t[row:row + 1] for pool, t in gates.items()}, replacement.values(every, prepared, one)))
            assert torch.allclose(alone[0], whole[row], atol=1e-4 * float(whole.abs().max()))
    assert model_hash(net) == before and [type(m) for m in net.modules()] == classes
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()] == hooks
    assert all(p.requires_grad and p.grad is None for p in net.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_gates_are_learned_on_every_layout(name):
    for kind in ("head",) if name == "attention" else ("head", "neuron", "sublayer", "layer"):
        found = learn_gates(make(name), {"a": [batch(name)]}, loss, units=kind, replacement="resample", samples=2, steps=3, lr=0.3, init=0.5, beta=0.1)
        frame = found.to_frame()
        assert frame.unit.is_unique and (frame.logit != 0.5).any() and frame.logit.notna().all()


class Reads(nn.Module):
    "A decoder whose output is what one head says."
    def __init__(self):
        super().__init__()
        self.net = GPT2Like()

    def forward(self, x):
        seen = []
        handle = self.net.h[1].attn.c_proj.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        try: self.net(x)
        finally: handle.remove()
        return seen[0][..., 4:8]


@pytest.mark.numeric
@pytest.mark.parametrize("seed", range(4))
def test_a_head_that_is_needed_stays(seed):
    "Its own output is asked for: the head is kept, the others of its layer, which nobody reads, are not."
    net = seeded(Reads, seed)
    with torch.no_grad(): target = net(WORDS)
    found = learn_gates(net, {"a": [(WORDS, target)]}, lambda o, y: 50 * (o - y).square().mean(), steps=150, lr=0.1, init=1.0, beta=0.05, seed=seed)
    frame = found.to_frame().set_index("unit").kept
    assert frame["layer 1, head 1"] and not frame["layer 1, head 0"] and not frame["layer 1, head 2"]


def test_the_package_does_not_import_transformers():
    code = "import sys, modnb.circuits, modnb.models.layout; assert 'transformers' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
