"""The tests of a GPU, on a device that follows a GPU's rules, in a process of their own: PyTorch cannot forget such a device."""
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_a_device_that_follows_the_rules_of_a_gpu():
    "Everything that runs on a card is where the card is; what a notebook shows works there, too."
    command = [sys.executable, "-m", "pytest", "-q", "-c", "tests/pytest.ini", "--rootdir", ".", "-p", "no:cacheprovider", "--device", "card", "tests/gpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout[-4000:]
