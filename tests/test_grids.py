"""Grids under fire: workers, clients and whole clusters are killed, disks are full, files are cut; nothing may be lost, doubled or believed too early."""
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from shell import shell, wait_for

from modnb.runs import Grid, Runs, plan, run
from modnb.runs.lock import holder
from modnb.runs.store import load_frame, load_tensors


def grid_shell(*words, **options):
    "`modnb grid toys.walk ...` with two workers, in a process group of its own."
    return shell("grid", "toys.walk", *words, "--workers", "2", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True, **options)


def workers_of(client):
    "The processes below a client that compute; those that manage are called otherwise."
    found = []
    for p in psutil.Process(client.pid).children(recursive=True):
        try:
            if "spawn_main" in " ".join(p.cmdline()) and p.status() != psutil.STATUS_ZOMBIE:
                found.append(p)
        except psutil.Error:
            pass
    return found


def clients_in(place):
    "Processes that name the toy experiment, in this folder: those of other tests are none of our business."
    found = psutil.process_iter(["cmdline", "cwd"])
    return [p for p in found if p.pid != os.getpid() and p.info["cwd"] == str(place) and "toys.walk" in " ".join(p.info["cmdline"] or [])]


class Reader(threading.Thread):
    "Reads everything that is there or has changed, over and over: no file may ever be half, no run that was done may ever change."

    def __init__(self, root):
        super().__init__(daemon=True)
        self.root, self.over, self.done, self.known, self.reads, self.faults = root, threading.Event(), {}, {}, 0, []

    def look(self, path):
        try:
            state = os.stat(path)
            state = (state.st_ino, state.st_size, state.st_mtime_ns)
            if self.known.get(path) == state:
                return
            if path.name == "result.parquet":
                load_frame(path)
            elif path.name == "status.json":
                text = path.read_text()
                if json.loads(text)["state"] == "done" and self.done.setdefault(path, text) != text:
                    self.faults.append(f"{path} was done and has changed")
            else:
                [json.loads(line) for line in path.read_text().splitlines()] if path.name == "metrics.jsonl" else json.loads(path.read_text())
            self.known[path] = state # as it was before it was read
            self.reads += 1
        except FileNotFoundError:
            pass
        except Exception as error: # half a file raises whatever its reader raises
            self.faults.append(f"{path}: {error!r}")

    def run(self):
        while not self.over.wait(0.01):
            for path in self.root.glob("walk/*/*"):
                if path.name in ("status.json", "params.json", "metrics.jsonl", "result.parquet"):
                    self.look(path)


def being_written(root, seconds):
    "Wait until some file is being written, or for that long."
    end = time.monotonic() + seconds
    while time.monotonic() < end and not any(root.glob("walk/*/.part-*")):
        time.sleep(0.001)


def kill(client, what, root, dice):
    "Kill a worker, the client or all of them, at a random moment or in the middle of a write."
    time.sleep(dice.uniform(0.05, 0.4))
    if dice.random() < 0.5:
        being_written(root, 0.5)
    if what == "worker":
        if found := workers_of(client):
            dice.choice(found).kill()
    elif what == "client":
        client.kill()
    else:
        os.killpg(client.pid, signal.SIGKILL)


def busy(client, root):
    "Wait until the client's workers compute; False if it has ended."
    wait_for(lambda: client.poll() is not None or any(holder(p) for p in root.glob("walk/*/lock")))
    return client.poll() is None


def test_kills(place, request):
    "Killed at least twenty times, the grid ends complete, with the results of one that nobody touched."
    kills, dice, root = 100 if request.config.getoption("--long") else 21, random.Random(0), place / "runs"
    seeds = list(range(3 * kills))
    words = (f"seed={seeds}", "sleep=0.02", "rows=[30000]", "--runs", "runs")
    reader = Reader(root)
    reader.start()
    client, told = grid_shell(*words), {"worker": 0, "client": 0, "cluster": 0}
    for i in range(kills):
        what = ("worker", "client", "worker", "cluster", "worker", "worker", "worker")[i % 7]
        if not busy(client, root):
            break
        kill(client, what, root, dice)
        told[what] += 1
        if what != "worker":
            below = client.wait()
            wait_for(lambda: not clients_in(place), every=0.1) # its workers end by themselves
            client = grid_shell(*words)
            assert below == -signal.SIGKILL
    assert sum(told.values()) >= 20, (told, client.poll(), client.stderr.read() if client.poll() is not None else "")
    assert client.wait(timeout=300) == 0, client.stderr.read()
    reader.over.set()
    reader.join()
    assert reader.faults == [] and reader.reads > 3 * len(seeds)

    grid = Grid("toys.walk", seed=seeds, rows=30_000, runs="runs")
    assert set(grid.status().state) == {"done"} and len(grid.to_frame()) == 30_000 * len(seeds)
    assert len((place / "walkers.home").read_text().split()) <= len(seeds) + 2 * sum(told.values()) and len(reader.done) == len(seeds)
    for one in grid.runs[:: max(1, len(seeds) // 12)]:
        whole = plan("toys.walk", params=one.params, runs="elsewhere").compute(progress=False)
        assert one.result.frame.equals(whole.result.frame) and load_tensors(one.folder.path / "masks.safetensors") == {}
    attempts = grid.status().attempts
    assert attempts.max() > 1, "no kill hit a run"


def test_two_clients_compute_each_run_once(place):
    words = ("seed=[0,1,2,3,4,5,6,7,8,9]", "sleep=0.01", "--runs", "runs")
    clients = [grid_shell(*words) for _ in range(2)]
    told = [client.communicate(timeout=300)[1] for client in clients]
    assert [client.returncode for client in clients] == [0, 0], told
    status = Runs("runs").status()
    assert set(status.state) == {"done"} and status.attempts.tolist() == [1] * 10
    assert len((place / "walkers").read_text().split()) == 10
    assert all("10" in text.splitlines()[-1] and "done" in text.splitlines()[-1] for text in told), told


def test_disk_full(place):
    "The system refuses to write more: the run has failed, says so, and is not done; with room it can be had."
    def little():
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    child = shell("run", "toys.walk", "rows=100000", "--runs", "runs", stderr=subprocess.PIPE, preexec_fn=little)
    assert child.wait() != 0 and "File too large" in child.stderr.read()
    status = Runs("runs").status()
    assert status.state.tolist() == ["failed"] and "File too large" in status.problem[0] and len(Runs("runs").to_frame()) == 0
    grid = Grid("toys.walk", rows=100_000, runs="runs")
    assert grid.run(workers=1, progress=False).status().state.tolist() == ["failed"] # shown, and left alone
    assert grid.run(workers=1, progress=False, retry="failed").status().state.tolist() == ["done"]


FULL = '''
import os, sys
from modnb.runs import Runs, plan
mount = sys.argv[1]
it = plan("toys.walk", rows=100_000, runs=mount)
try: it.compute(progress=False)
except OSError as error: print(error.strerror)
print(it.status["state"], Runs(mount).status().problem[0], len(Runs(mount).to_frame()), sep="|")
os.system(f"mount -o remount,size=64m {mount}")
print(it.compute(progress=False).status["state"])
'''


def test_disk_really_full(place):
    "The same on a file system of 300 KiB; the room kept in reserve makes it possible to write down why."
    mount = place / "small"
    mount.mkdir()
    script = f'mount -t tmpfs -o size=300k none {mount} && exec {sys.executable} -c "$0" {mount}'
    done = subprocess.run(["unshare", "-m", "sh", "-c", script, FULL], capture_output=True, text=True) if shutil.which("unshare") else None
    if done is None or "ermi" in done.stderr or "permitted" in done.stderr:
        pytest.skip("no right to mount a small file system here")
    lines = done.stdout.splitlines()
    assert len(lines) == 3 and "No space left" in lines[0] and lines[1].startswith("failed|OSError") and lines[1].endswith("|0") and lines[2] == "done", done.stdout + done.stderr


def test_folder_removed_in_the_middle(place):
    "Whoever computed it notices, and it is computed again."
    client = grid_shell("seed=[0,1]", "sleep=0.03", "--runs", "runs")
    path = plan("toys.walk", seed=1, runs="runs").folder.path
    wait_for(lambda: (path / "checkpoints" / "walk.json").exists())
    shutil.rmtree(path, ignore_errors=True)
    shutil.rmtree(path, ignore_errors=True)
    assert client.wait(timeout=300) == 0, client.stderr.read()
    assert plan("toys.walk", seed=1, runs="runs").result.frame.equals(run("toys.walk", seed=1, runs="elsewhere").frame)


def test_damage_is_named_and_mended(place):
    grid = Grid("toys.walk", seed=range(5), runs="runs").run(workers=1, progress=False)
    before = grid.to_frame()
    folders = [r.folder.path for r in grid.runs]
    (folders[0] / "result.parquet").write_bytes((folders[0] / "result.parquet").read_bytes()[: 1000])
    (folders[1] / "params.json").write_text('{"params": ')
    (folders[2] / "status.json").write_text("")
    shutil.rmtree(folders[3])
    (folders[4] / "metrics.jsonl").unlink()
    told = grid.status()
    assert told.state.tolist() == ["damaged", "damaged", "damaged", "new", "damaged"] and len(grid.to_frame()) == 0
    assert [p.split()[0] for p in told.problem if p] == ["result.parquet", "params.json", "status.json", "metrics.jsonl"]
    assert grid.run(workers=1, progress=False).status().state.tolist() == ["done"] * 5 and grid.to_frame().equals(before)


def test_hostile_values_stay_values(place):
    "Through YAML, a worker, the folder and the table."
    hostile = ["'", '"""', "a\nb", "{seed}", "%s", "\\", "$HOME `id`", "__import__('os').system('touch pwned')", "</script><script>alert(1)</script>", "null", "1e-3", "[1, 2]", "é\u2028\U0001f600", ""]
    (place / "toys" / "words.py").write_text('''
import pandas as pd
from modnb.runs import Params as Base, Result
class Params(Base):
    note: str = ""
def run(params, log):
    return Result(pd.DataFrame({"metric": ["length"], "value": [len(params.note)]}))
''')
    import yaml

    Path("grid.yaml").write_text(yaml.safe_dump({"experiment": "toys.words", "parameters": {"note": hostile}}))
    child = shell("grid", "grid.yaml", "--runs", "runs", "--workers", "1", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = child.communicate(timeout=300)
    assert child.returncode == 0, err
    frame = Runs("runs").to_frame()
    assert sorted(frame.note) == sorted(hostile) and all(len(n) == v for n, v in zip(frame.note, frame.value)) and not Path("pwned").exists()
    assert "<script>" not in Runs("runs")._repr_html_() and "<script>" not in Grid.from_yaml("grid.yaml", runs="runs")._repr_html_()


@pytest.mark.parametrize("words", [["script.py"], ["-"]], ids=["file", "stdin"])
def test_a_script_needs_no_guard(place, words):
    "Workers do not import the script again; it may even come from stdin, and hold the experiment itself."
    code = """
from modnb.runs import Experiment, Grid, Params, Result
import pandas as pd
class Toy(Params):
    seed: int = 0
def toy(params, log):
    return Result(pd.DataFrame({"metric": ["seed"], "value": [params.seed]}))
for what in ("toys.walk", Experiment("mine", Toy, toy)):
    grid = Grid(what, seed=[0, 1], runs="runs").run(workers=1, progress=False)
    print(grid.status().state.tolist(), __name__, "__file__" in globals())
"""
    Path("script.py").write_text(code)
    done = subprocess.run([sys.executable, *words], input=code if words == ["-"] else None, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2 and all(line.startswith("['done', 'done'] __main__") for line in lines), done.stdout


MISSING = {"yaml": (["grid", "toys.walk", "seed=[1]"], "grid"), "distributed": (["grid", "toys.walk", "seed=1"], "grid"), "dask_jobqueue": (["grid", "toys.walk", "--cluster", "slurm.yaml"], "grid"),
           "papermill": (["report", "toys.walk"], "report"), "nbclient": (["grid", "toys.walk", "--report", "each"], "report"), "jupyterlab": (["lab"], "lab")}


@pytest.mark.parametrize("name", MISSING)
def test_a_command_names_the_extra_that_is_missing(place, monkeypatch, capsys, name):
    from modnb.runs.cli import main

    words, extra = MISSING[name]
    Path("slurm.yaml").write_text("system: slurm")
    monkeypatch.setitem(sys.modules, name, None) # as if it were not installed
    assert main(words) == 2 and capsys.readouterr().err.splitlines()[-1] == f"modnb: {name} is not installed: pip install 'modnb[{extra}]'"


def test_an_import_names_the_extra_that_is_missing(monkeypatch):
    from modnb.data import images
    from modnb.checks import Missing

    for name, extra, use in (("sklearn", "data", lambda: images.image_set("digits")), ("ipywidgets", "report", lambda: __import__("modnb.view.widgets"))):
        for loaded in [m for m in sys.modules if m.startswith("modnb.view.widgets")]:
            monkeypatch.delitem(sys.modules, loaded)
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(Missing, match=rf"{name} is not installed: pip install 'modnb\[{extra}\]'"):
            use()


def test_ten_thousand_are_not_needed_to_see_one_pass(place, monkeypatch):
    "The table reads each small file of a run once or twice, whatever the number of runs."
    grid = Grid("toys.walk", seed=range(20), steps=5, runs="runs")
    for one in grid.runs:
        one.compute(progress=False)
    opened, real = [], open
    monkeypatch.setattr("builtins.open", lambda path, *rest, **more: opened.append(str(path)) or real(path, *rest, **more))
    frame = Runs("runs").to_frame()
    monkeypatch.undo()
    ours = [p for p in opened if "/walk/" in p]
    assert len(frame) == 20 and len(ours) <= 20 * 6


def dask(*words):
    "A Dask process of its own."
    return subprocess.Popen([sys.executable, "-m", "distributed.cli.dask_" + words[0], *words[1:]], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_a_scheduler_that_runs_already(place):
    "Its workers compute, with the resources that are asked for; when it dies, the client says so and another call goes on."
    ours = [dask("scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", "where.json", "--no-dashboard")]
    wait_for(lambda: Path("where.json").exists())
    ours.append(dask("worker", "--scheduler-file", "where.json", "--nworkers", "1", "--nthreads", "4", "--resources", "GPU=1", "--no-dashboard"))
    try:
        grid = Grid("toys.walk", seed=range(4), steps=20, sleep=0.01, runs="runs").run("where.json", resources={"GPU": 0.5}, progress=False)
        assert set(grid.status().state) == {"done"} and len(set((place / "walkers").read_text().split())) == 1 # one process did all
        client = shell("grid", "toys.walk", "seed=[4,5,6,7]", "sleep=0.1", "--scheduler", "where.json", "--runs", "runs", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        path = plan("toys.walk", seed=4, runs="runs").folder.path
        wait_for(lambda: (path / "checkpoints" / "walk.json").exists())
        ours[0].kill()
        assert client.wait(timeout=300) == 1 and "goes on where this one stopped" in client.stderr.read()
    finally:
        for process in ours:
            process.kill()
            process.wait()
    wait_for(lambda: holder(path / "lock") is None)
    again = Grid("toys.walk", seed=[4, 5], runs="runs").run(workers=1, progress=False)
    assert set(again.status().state) == {"done"}


def test_a_client_looks_at_each_file_of_a_run_once(place, monkeypatch):
    "Resuming, the states and the table cost a fixed number of files per run, and one look for the experiment's source."
    import modnb.runs.grid
    from modnb.runs import Grid, store, table
    from modnb.runs.dispatch import runs_to_compute

    grid = Grid("toys.walk", seed=range(6), runs=place / "runs")
    for each in grid.runs:
        each.compute(progress=False)
    opened, sources = [], []
    read, look = store.read_json, table.source_version
    monkeypatch.setattr(store, "read_json", lambda path: opened.append(str(path)) or read(path))
    for module in (modnb.runs.grid, table, sys.modules["modnb.runs.dispatch"]):
        monkeypatch.setattr(module, "source_version", lambda name: sources.append(name) or look(name))
    for work in (lambda: runs_to_compute(grid, False, False), grid.status, lambda: repr(grid), grid.to_frame):
        opened.clear()
        sources.clear()
        work()
        assert len(opened) == len(set(opened)) == 2 * len(grid)
        assert sources == ["toys.walk"]
