"""JupyterLab and a headless Chromium, as a person sees them: notebooks are opened, run, and used by mouse and keyboard."""
import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"]
SERVER = ["--no-browser", "--allow-root", "--ip=127.0.0.1", "--ServerApp.port_retries=0", "--LabApp.expose_app_in_browser=True", "--LabApp.extension_manager=readonly"]
LAB = [*SERVER, "--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
IDLE = "window.jupyterapp && jupyterapp.shell.currentWidget?.context?.sessionContext?.isReady && jupyterapp.shell.currentWidget.context.sessionContext.session?.kernel?.status === 'idle'"


def missing():
    "What a browser test needs and this machine does not have; empty if it has all."
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "playwright (pip install -e '.[browser]')"
    return "" if CHROMIUM else "Chromium (on Debian: apt-get install --no-install-recommends chromium fonts-dejavu-core; or set CHROMIUM to its path)"


def bare(notebook):
    "A notebook as text, without outputs."
    content = json.loads(notebook.read_text(encoding="utf-8"))
    for cell in content["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
    return json.dumps(content)


def answers(url, process, log, seconds=120):
    "Wait for a server."
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()[-3000:]
        with contextlib.suppress(OSError):
            return urllib.request.urlopen(url, timeout=5).read()
        time.sleep(0.2)
    raise TimeoutError(f"JupyterLab did not start in {seconds} s:\n{log.read_text()[-3000:]}")


def own_folders(root):
    "The environment of a JupyterLab whose settings and state lie in a folder of its own, and which opens as `modnb lab` does."
    from modnb.runs.cli import lab_config

    own = {f"JUPYTER_{name}_DIR": str(root / f".{name.lower()}") for name in ("CONFIG", "DATA", "RUNTIME")} | {"JUPYTERLAB_WORKSPACES_DIR": str(root / ".workspaces"), "JUPYTERLAB_SETTINGS_DIR": str(root / ".settings"), "IPYTHONDIR": str(root / ".ipython")}
    return {k: v for k, v in os.environ.items() if k not in ("MPLBACKEND", "MODNB_RUNS")} | own | {"OMP_NUM_THREADS": "1", "JUPYTER_CONFIG_PATH": lab_config()}


def free_port():
    "A port that nobody uses."
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextlib.contextmanager
def jupyterlab(root, **environment):
    "JupyterLab over a folder that holds the explorers' notebooks, without their outputs; gives its address and its token."
    for notebook in (ROOT / "nbs" / "explore").glob("*.ipynb"):
        (root / notebook.name).write_text(bare(notebook), encoding="utf-8")
    port, env = free_port(), own_folders(root) | environment
    token, log = secrets.token_hex(16), root / "lab.log"
    with log.open("w") as out:
        process = subprocess.Popen([sys.executable, "-m", "jupyterlab", *LAB, f"--port={port}", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={root}"], cwd=root, env=env, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        try:
            answers(f"http://127.0.0.1:{port}/api/status?token={token}", process, log)
            yield f"http://127.0.0.1:{port}", token
        finally:
            process.terminate()  # the server ends its kernels
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


@contextlib.contextmanager
def browser():
    "A headless Chromium."
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        try:
            yield chromium
        finally:
            chromium.close()
