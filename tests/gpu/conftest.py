"""Tests of a GPU. `python -m pytest tests/gpu` runs them on CUDA, `--device cpu` or `--device card` without a GPU."""
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
WHY = "no GPU here: PyTorch sees no CUDA device (--device cpu or --device card runs these tests without one)"


@pytest.fixture
def device(request):
    "The device under test; without one the test is skipped."
    import card

    name = request.config.getoption("--device")
    if name == "fake": pytest.skip("of tests/gpu/test_fake_cuda.py")
    if name.startswith("cuda") and not torch.cuda.is_available(): pytest.skip(WHY)
    if name != card.NAME:
        yield torch.device(name)
        return
    if not card.AVAILABLE: pytest.skip(f"the card needs PyTorch 2.9, this is {torch.__version__}")
    with card.plugged() as found: yield found
