"""The documentation as a site in _docs/: nbdev prepares the notebooks, Quarto or smalldocs renders them, whichever is there."""
import shutil
import subprocess
import sys
from pathlib import Path

from nbdev.config import get_config
from nbdev.quarto import nbdev_sidebar, refresh_quarto_yml
from nbdev.serve import proc_nbs

if __name__ == "__main__":
    cfg = get_config()
    refresh_quarto_yml()  # not nbdev_docs: without Quarto, that one tries to install it
    nbdev_sidebar.__wrapped__(path=cfg.nbs_path)
    (cfg.nbs_path / "styles.css").touch()
    cache = proc_nbs(cfg.nbs_path, force=True)
    beside = shutil.which("smalldocs", path=str(Path(sys.executable).parent))
    tool = shutil.which("quarto") or beside or shutil.which("smalldocs")
    if tool is None:
        raise SystemExit("the notebooks are prepared in _proc/; to render them, install Quarto, or smalldocs with pip, and run `make docs` again")
    subprocess.run([tool, "render"], cwd=cache, check=True)
    shutil.rmtree(cfg.doc_path, ignore_errors=True)
    shutil.move(cache / cfg.doc_path.name, cfg.doc_path)
    print(f"open {cfg.doc_path.name}/index.html")
