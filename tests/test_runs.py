"""What a notebook cannot show of `modnb.runs`: processes that are killed, that compete, and a terminal."""
import json
import os
import pty
import signal
import subprocess
import sys
import time

import pytest
from shell import shell, wait_for

from modnb.runs import NotDone, Runs, plan, run
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
