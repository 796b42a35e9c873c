"""The numeric tests as other machines would run them: `python tests/machines.py [mode ...]`, by default every mode that this machine has.

Results differ in their last bits between processors and thread counts, and training amplifies that. A mode is an environment; it is left out,
and that is said, where this machine cannot run as that other one. Tests that compute nothing (packaging, killed processes, documentation) are the
same in all modes, and not run: those that count are marked `numeric`."""
import argparse
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ONE = {"OMP_NUM_THREADS": "1"}
MODES = {
    "default": {"ATEN_CPU_CAPABILITY": "default"} | ONE,
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2"} | ONE,
    "avx512": {"ATEN_CPU_CAPABILITY": "avx512"} | ONE,
    "compatible": {"MKL_CBWR": "COMPATIBLE", "ONEDNN_MAX_CPU_ISA": "SSE41"} | ONE,
    "oldest": {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE", "ONEDNN_MAX_CPU_ISA": "SSE41"} | ONE,
    "threads-2": {"OMP_NUM_THREADS": "2"},
    "seed-1": {"MODNB_TEST_SEED": "1"} | ONE,
}
CAN = """
import torch
print(torch.backends.cpu.get_cpu_capability(), torch.backends.mkl.is_available(), torch.backends.mkldnn.is_available())
"""


def environment(mode):
    ours = {name for values in MODES.values() for name in values}
    return {k: v for k, v in os.environ.items() if k not in ours} | MODES[mode]


def lacking(mode):
    "Why this machine cannot run in a mode; empty if it can."
    done = subprocess.run([sys.executable, "-c", CAN], env=environment(mode), capture_output=True, text=True, check=True)
    capability, mkl, onednn = done.stdout.split()
    wanted = MODES[mode].get("ATEN_CPU_CAPABILITY", capability)
    if wanted.lower() not in (capability.lower(), "default"):
        return f"this processor has no {wanted}"
    if "MKL_CBWR" in MODES[mode] and (mkl, onednn) == ("False", "False"):
        return "this build of PyTorch has neither MKL nor oneDNN"
    return ""


def command(workers, more):
    words = [sys.executable, "-m", "pytest", "-c", "tests/pytest.ini", "--rootdir", ".", "-q", "-m", "numeric"]
    return [*words, "-n", str(workers), "--dist", "loadgroup", "--no-loadscope-reorder", *more, "tests"]


def run(mode, workers, more):
    "Passed, failed, seconds; the tests' own output goes where ours goes."
    began, lines = time.monotonic(), []
    with subprocess.Popen(command(workers, more), cwd=ROOT, env=environment(mode), stdout=subprocess.PIPE, text=True) as child:
        for line in child.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    found = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|error)", lines[-1] if lines else "")}
    failed = found.get("failed", 0) + found.get("error", 0)
    return found.get("passed", 0), failed or int(child.returncode != 0), time.monotonic() - began


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("modes", nargs="*", metavar="mode", help=f"of {', '.join(MODES)}; default: all")
    parser.add_argument("--workers", type=int, default=1, help="test processes side by side; half of them where a mode has two threads")
    parser.add_argument("--args", type=shlex.split, default=[], help="more for pytest, such as \"-k masks\"")
    args = parser.parse_args()
    if wrong := [m for m in args.modes if m not in MODES]:
        parser.error(f"mode: {wrong[0]!r} is unknown; choose of {', '.join(MODES)}")
    rows = []
    for mode in args.modes or MODES:
        print(f"\n{mode}: {' '.join(f'{k}={v}' for k, v in MODES[mode].items())}", flush=True)
        if why := lacking(mode):
            print(f"left out: {why}", flush=True)
            rows.append((mode, "-", "-", why))
            continue
        threads = int(MODES[mode].get("OMP_NUM_THREADS", 1))
        passed, failed, seconds = run(mode, max(1, args.workers // threads), args.args)
        rows.append((mode, passed, failed, f"{seconds:.0f} s"))
    print(f"\n{'mode':<12}{'passed':>8}{'failed':>8}")
    for mode, passed, failed, note in rows:
        print(f"{mode:<12}{passed:>8}{failed:>8}  {note}")
    return any(failed for _, _, failed, _ in rows if failed != "-")


if __name__ == "__main__":
    sys.exit(main())
