"""Processes of the command `modnb`, and waiting for what they do."""
import subprocess
import sys
import time


def shell(*words, **options):
    return subprocess.Popen([sys.executable, "-m", "modnb.runs.cli", *words], text=True, **options)


def wait_for(what, seconds=300, every=0.02):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited too long"
        time.sleep(every)
