"""What a notebook cannot show of `modnb.runs`: processes that are killed, that compete, and a terminal."""
import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import time

import pytest
from shell import shell, wait_for

from modnb.runs import Busy, NotDone, Runs, plan, run
from modnb.runs.lock import holder
from modnb.runs import store


def test_killed_run_is_resumed_to_the_same_result(place):
    whole = run("toys.walk", runs="elsewhere").frame
    half = plan("toys.walk", runs="runs")
    checkpoint = half.folder.path / "checkpoints" / "walk.json"
    child = shell("run", "toys.walk", "sleep=0.02", "--runs", "runs", stderr=subprocess.DEVNULL)
    wait_for(lambda: checkpoint.exists() and json.loads(checkpoint.read_text())[0] >= 20) # it is whole whenever it is there
    assert half.status["state"] == "running"
    child.send_signal(signal.SIGKILL)
    wait_for(lambda: half.status["state"] != "running") # before the child is reaped: a zombie holds no lock
    assert child.wait() == -signal.SIGKILL and half.status["state"] == "interrupted" and (half.folder.path / "lock").exists()
    with pytest.raises(NotDone, match="interrupted"):
        half.result.frame  # noqa: B018
    assert len(Runs("runs").to_frame()) == 0 and Runs("runs").status().state.tolist() == ["interrupted"]
    reached = json.loads(checkpoint.read_text())[0]
    assert 20 <= reached < 60

    mended = run("toys.walk", runs="runs")
    assert mended.frame.equals(whole) and mended.status["attempts"] == 2 and mended.result.extra == {"steps": 60}
    steps = [json.loads(line)["step"] for line in (mended.folder.path / "metrics.jsonl").read_text().splitlines()]
    assert len(steps) == len(set(steps)) and set(range(reached + 1, 61)) <= set(steps)


def test_death_between_any_two_writes(place, monkeypatch):
    "A process that dies before its k-th write leaves a run that is not done and can be completed."
    whole = run("toys.walk", runs="elsewhere").frame
    real, writes = store.write_whole, []

    class Death(BaseException):
        pass

    for k in range(100):
        def dying(path, content, k=k, count=[]): # noqa: B006
            count.append(path)
            if len(count) > k:
                raise Death
            return real(path, content)

        monkeypatch.setattr(store, "write_whole", dying)
        it = plan("toys.walk", runs=f"runs{k}")
        try:
            it.compute()
            break
        except Death:
            writes.append(it.status["state"])
        finally:
            monkeypatch.setattr(store, "write_whole", real)
        with pytest.raises(NotDone):
            it.result.frame  # noqa: B018
        assert it.compute().frame.equals(whole)
    assert it.done and len(writes) >= 4 and set(writes) == {"new", "interrupted"}, writes


def test_large_seeds_survive_every_table(place):
    "64 bits with and without a sign, next to runs that have no seed, in frames, Parquet, CSV and JSON."
    import pandas as pd
    from modnb.runs import Experiment, Params, Result

    class Other(Params):
        lr: float = 0.1

    seeds = [2**53 + 1, 2**63 - 1, -(2**63), 2**63 + 5, 2**64 - 1, 0]
    frame = lambda params, log: Result(pd.DataFrame({"metric": ["a", "b"], "own": [getattr(params, "seed", 7), None]}, dtype=object))
    run(Experiment("other", Other, frame), runs="runs")
    for count in (3, 6): # first those that fit 64 bits with a sign
        for seed in seeds[:count]:
            run("toys.walk", runs="runs", steps=1, seed=seed)
        table = Runs("runs").to_frame()
        assert sorted(table.seed.dropna()) == sorted(seeds[:count]) and table.seed.isna().sum() == 2
        table.to_csv("table.csv", index=False)
        assert {s for s in pd.read_csv("table.csv", dtype=str).seed.dropna()} == {str(s) for s in seeds[:count]}
    from modnb.runs.cli import main
    assert main(["table", "--experiment", "walk", "--format", "parquet", "--out", "table.parquet", "--runs", "runs"]) == 0
    assert {int(s) for s in pd.read_parquet("table.parquet").seed} == set(seeds)
    assert {json.loads((f.path / "params.json").read_text())["params"]["seed"] for f in Runs("runs").of("walk")} == set(seeds)


def test_files_have_the_mode_of_their_neighbors(place):
    "Also those that safetensors writes, which are private by themselves."
    import pandas as pd
    import torch
    from modnb.runs import Experiment, Params, Result

    class Toy(Params):
        seed: int = 0

    made = run(Experiment("masked", Toy, lambda params, log: Result(pd.DataFrame({"a": [1]}), {"mask": torch.ones(2)})), runs="runs").folder.path
    before = os.umask(0o027)
    try:
        (made / "plain").write_text("")
        again = run(Experiment("masked", Toy, lambda params, log: Result(pd.DataFrame({"a": [1]}), {"mask": torch.ones(2)})), runs="elsewhere").folder.path
    finally:
        os.umask(before)
    assert len({(made / n).stat().st_mode for n in ("masks.safetensors", "result.parquet", "status.json", "params.json")}) == 1
    assert {(again / n).stat().st_mode & 0o777 for n in ("masks.safetensors", "result.parquet", "status.json")} == {(made / "plain").stat().st_mode & 0o777} == {0o640}


def test_names_of_metrics_are_text_in_every_page(place):
    import pandas as pd
    from modnb.runs import Experiment, Grid, Params, Result
    from modnb.runs.pages import grid_page
    from modnb.runs.report import header

    bad = "<script>alert(1)</script>"

    class Toy(Params):
        note: str = ""

    toy = Experiment("toy", Toy, lambda params, log: Result(pd.DataFrame({"metric": [bad], bad: [1.0], "value": [2.0]}), extra={bad: 1}), headline=lambda frame: {bad: 1.0})
    grid = Grid(toy, note=[bad, "b"], runs="runs", name=bad)
    done = [r.compute(progress=False) for r in grid.runs][0]
    page = grid_page(grid.runs, grid.varied, "page.html", bad).read_text()
    pages = [x._repr_html_() for x in (done, done.result, grid, Runs("runs"), header(done))] + [page]
    assert not any("<script" in p for p in pages) and sum("&lt;script" in p for p in pages) >= 4


def test_file_is_whole_whenever_its_writer_is_killed(tmp_path):
    code = """
import itertools, sys
from modnb.files import write_whole
for i in itertools.count():
    write_whole(sys.argv[1], bytes([i % 256]) * 3_000_000)
"""
    path = tmp_path / "big"
    for delay in (0.0, 0.003, 0.007, 0.011, 0.017):
        path.unlink(missing_ok=True)
        child = subprocess.Popen([sys.executable, "-c", code, str(path)])
        wait_for(path.exists)
        time.sleep(0.05 + delay)
        child.kill()
        child.wait()
        data = path.read_bytes()
        assert len(data) == 3_000_000 and len(set(data)) == 1
    assert all(p.name.startswith(".part-") for p in tmp_path.iterdir() if p != path)


def test_processes_that_want_the_same_run(place):
    "Three start together: one computes; the others are turned away, or find it done."
    children = [shell("run", "toys.walk", "sleep=0.02", stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(3)]
    told = [child.communicate(timeout=300) for child in children]
    codes = sorted(child.returncode for child in children)
    assert len((place / "walkers").read_text().split()) == 1 and codes[0] == 0 and set(codes) <= {0, 1}, told
    assert all("is being worked on by process" in err for child, (_, err) in zip(children, told) if child.returncode)
    done = plan("toys.walk")
    assert done.done and done.status["attempts"] == 1 and holder(done.folder.path / "lock") is None


def test_a_terminal_shows_one_line(place):
    ours, theirs = pty.openpty()
    child = shell("run", "toys.walk", "sleep=0.01", stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    seen = b""
    while True:
        try:
            seen += os.read(ours, 4096)
        except OSError: # the other end is closed
            break
    os.close(ours)
    lines = seen.decode().replace("\x1b[K", "").split("\r")
    assert child.wait() == 0 and any("/s" in line for line in lines) and [line for line in lines if line.strip()][-1].startswith("walk 60"), lines


def test_removal_leaves_what_a_process_computes(place):
    running = plan("toys.walk", runs="runs")
    child = shell("run", "toys.walk", "sleep=0.02", "--runs", "runs", stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    wait_for(lambda: running.status["state"] == "running")
    turned_away = shell("rm", "walk", "--yes", "--runs", "runs", stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    out, err = turned_away.communicate(timeout=300)
    assert turned_away.returncode == 1 and "nothing to remove" in out and "which a process holds" in err
    assert child.wait() == 0 and running.done
    assert Runs("runs").remove("walk", yes=True).removed == 1 and not running.folder.path.exists()


DYING = """
import os, signal
from modnb.runs import Runs, removal
{when} = lambda *rest, **more: os.kill(os.getpid(), signal.SIGKILL)
Runs("runs").remove("walk", yes=True)
"""


@pytest.mark.parametrize("when", ["removal.shutil.rmtree", "removal.os.rename"])
def test_killed_removal_leaves_a_whole_run_or_none(place, when):
    it = run("toys.walk", runs="runs")
    assert subprocess.run([sys.executable, "-c", DYING.format(when=when)]).returncode == -signal.SIGKILL
    assert it.done == (when == "removal.os.rename")
    assert len(list(Runs("runs"))) == it.done
    run("toys.walk", runs="runs", seed=1)
    assert Runs("runs").remove("walk", yes=True).removed == (2 if when == "removal.os.rename" else 1)
    assert os.listdir("runs/walk") == []


REMOVER = """
import pathlib
from modnb.runs import Runs
while not pathlib.Path("over").exists():
    Runs("runs").remove(state="done", yes=True)
"""


def test_removing_and_computing_processes_do_not_disturb_each_other(place):
    children = [subprocess.Popen([sys.executable, "-c", REMOVER], stderr=subprocess.PIPE, text=True) for _ in range(2)]
    it = plan("toys.walk", runs="runs", steps=3)
    removed = 0
    while removed < 10:
        with contextlib.suppress(Busy):
            it.compute()
            wait_for(lambda: not it.folder.path.exists())
            removed += 1
    (place / "over").touch()
    assert [child.communicate(timeout=300)[1] for child in children] == [""] * 2
    assert not list(place.glob("runs/walk/.removed*")) and it.compute().done and len(it.frame) == 1
