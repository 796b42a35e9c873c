"""Another base seed: with MODNB_TEST_SEED=n every seed that a cell, a test or the package writes down starts another sequence.

What others have published with its seeds is drawn by `numpy.random.RandomState`, `numpy.random.seed` and `random.seed`, and stays as it is.
Processes that a test starts are not shifted."""
import os
import sys

BASE = int(os.environ.get("MODNB_TEST_SEED", 0))
OFFSET = 1_000_003 * BASE # far from the few seeds that tests write side by side


def shifted(function):
    "The function, its seed moved by the offset."
    def call(seed=None):
        return function(seed + OFFSET if isinstance(seed, int) else seed)
    return call


def shift():
    "Move the seeds of PyTorch, of NumPy's generators and of the noise of masks."
    import numpy
    import torch

    import modnb.masks.sampling as sampling

    class Generator(torch.Generator):
        def manual_seed(self, seed):
            return super().manual_seed((int(seed) + OFFSET) % 2**63)

    keys, noise = sampling.make_keys, lambda *names, **more: keys(BASE, *names, **more)
    torch.Generator, torch.manual_seed = Generator, shifted(torch.manual_seed)
    numpy.random.default_rng = shifted(numpy.random.default_rng)
    for module in [m for name, m in sys.modules.items() if name.startswith("modnb.") and getattr(m, "make_keys", None) is keys]:
        module.make_keys = noise
