"Masks during a training: the training is what it would have been, bit for bit, in a plain loop, in Lightning and in the Trainer of Hugging Face."
import os
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from modnb.masks.callbacks import MaskTracker, lightning_callback, trainer_callback

os.environ.setdefault("HF_HUB_OFFLINE", "1")


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.2), nn.Linear(12, 2))


def examples(n=48):
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(1))
    return x, (x[:, 0] > 0).long()


def loader(shuffle=True):
    "Shuffles with the global generator."
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*examples()), batch_size=8, shuffle=shuffle)


def tracker(loss=F.cross_entropy, data=None, **options):
    return MaskTracker({"sign": loader() if data is None else data}, loss, **{"every": 3, "at": [0], "steps": 2, "samples": 2, "backend": "eager"} | options)


def random_numbers():
    return random.random(), float(np.random.rand()), torch.rand(3).tolist()


def seeded(): random.seed(0), np.random.seed(0), torch.manual_seed(1)


def everything(net, optimizer):
    "All that a training leaves."
    state = [t.clone() for t in (*net.state_dict().values(), *(p.grad for p in net.parameters() if p.grad is not None))]
    moments = [v for s in optimizer.state.values() for v in s.values() if isinstance(v, torch.Tensor)]
    return state + moments, [m.training for m in net.modules()], [len(m._forward_hooks) for m in net.modules()], random_numbers()


def same(a, b):
    return len(a[0]) == len(b[0]) and all(map(torch.equal, a[0], b[0])) and a[1:] == b[1:]


def plain_loop(observed):
    "What a minimal trainer does, with noise from all generators."
    net = network().train()
    net[1].eval() # a frozen layer stays frozen
    seeded()
    optimizer, step = torch.optim.Adam(net.parameters(), lr=1e-2), 0
    if observed: observed.observe(net, step)
    for x, y in [batch for _ in range(2) for batch in loader()]:
        optimizer.zero_grad()
        F.cross_entropy(net(x) + random.random() + np.random.rand(), y).backward()
        optimizer.step()
        step += 1
        if observed: observed.observe(net, step)
    return everything(net, optimizer)


def test_plain_loop():
    observed = tracker()
    assert same(plain_loop(None), plain_loop(observed))
    assert list(observed.masks) == [0, 3, 6, 9, 12] and observed.to_frame().value.between(0, 1).all()


def test_lightning(tmp_path, monkeypatch):
    lightning = pytest.importorskip("lightning", reason="lightning: not installed; pip install 'modnb[lightning]'")
    import warnings

    monkeypatch.chdir(tmp_path)

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = network()

        def forward(self, x): return self.net(x)
        def training_step(self, batch, i): return F.cross_entropy(self.net(batch[0]), batch[1])
        def configure_optimizers(self): return torch.optim.Adam(self.parameters(), lr=1e-2)

    def train(observed):
        module = Module()
        seeded()
        options = dict(accelerator="cpu", max_epochs=2, accumulate_grad_batches=2, logger=False, enable_checkpointing=False, enable_progress_bar=False,
                       enable_model_summary=False)
        trainer = lightning.Trainer(**options, callbacks=[lightning_callback(observed)] if observed else [])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer.fit(module, loader())
        return everything(module, trainer.optimizers[0])

    for observed in (tracker(every=2), tracker(every=2, part="net")):
        assert same(train(None), train(observed)) and list(observed.masks) == [0, 2, 4, 6]


def test_hugging_face(tmp_path):
    wanted = "not installed; pip install 'modnb[trainer]'"
    transformers = pytest.importorskip("transformers", reason=f"transformers: {wanted}")
    pytest.importorskip("accelerate", reason=f"accelerate: {wanted}")
    words = torch.randint(5, 40, (24, 6), generator=torch.Generator().manual_seed(0))
    rows = [{"input_ids": w, "labels": w.sum() % 2} for w in words]
    data = [({"input_ids": words[:8]}, words[:8].sum(1) % 2)]

    def train(observed, folder):
        torch.manual_seed(0)
        config = transformers.BertConfig(vocab_size=50, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, num_labels=2)
        model = transformers.BertForSequenceClassification(config)
        args = transformers.TrainingArguments(str(folder), max_steps=6, per_device_train_batch_size=4, report_to=[], save_strategy="no", logging_strategy="no", use_cpu=True,
                                              disable_tqdm=True, seed=3)
        trainer = transformers.Trainer(model=model, args=args, train_dataset=rows, callbacks=[trainer_callback(observed)] if observed else [])
        trainer.train()
        return everything(model, trainer.optimizer.optimizer if hasattr(trainer.optimizer, "optimizer") else trainer.optimizer)

    observed = tracker(lambda output, y: F.cross_entropy(output.logits, y), data)
    assert same(train(None, tmp_path / "a"), train(observed, tmp_path / "b"))
    assert list(observed.masks) == [0, 3, 6] and set(observed.masks[3]) == {"sign"}


@pytest.mark.parametrize("make, name, extra", [(lightning_callback, "lightning", "lightning"), (trainer_callback, "transformers", "trainer")], ids=["lightning", "transformers"])
def test_missing_library(make, name, extra, monkeypatch):
    import sys
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf"{name} is not installed: pip install 'modnb\[{extra}\]'"):
        make(tracker())
