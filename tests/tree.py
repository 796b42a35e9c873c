"""The working tree as the tests see it: what a commit of it would hold, whether it is committed yet or not."""
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def quiet_environment(**more):
    "The environment for a process of its own: nothing that a notebook, a git hook or another checkout left in ours."
    strange = {"PYTHONPATH", "MODNB_RUNS", "IN_TEST", "MPLBACKEND"} # under IN_TEST nbdev exports nothing; with a backend of ours a kernel shows no figures
    return {k: v for k, v in os.environ.items() if k not in strange and not k.startswith("GIT_")} | {"OMP_NUM_THREADS": "1"} | more


def run(*words, cwd=ROOT, timeout=300, **environment):
    "Run a program; its output as text."
    return subprocess.run([str(w) for w in words], cwd=cwd, env=quiet_environment(**environment), capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)


def python(*words, **rest):
    "Run Python."
    return run(sys.executable, *words, **rest)


def tracked():
    "Every file that git does not ignore. An empty repository is asked: so it also works in an unpacked archive, and whoever owns the checkout."
    with tempfile.TemporaryDirectory() as empty:
        for words in (["init", "-q", empty], [f"--git-dir={empty}/.git", f"--work-tree={ROOT}", "ls-files", "-z", "--others", "--exclude-standard"]):
            done = run("git", *words)
            assert done.returncode == 0, done.stderr
    return [ROOT / name for name in sorted(done.stdout.split("\0")) if name]


def copy_to(place):
    "The working tree, copied."
    for path in tracked():
        target = place / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    return place
