"""The documentation as a site in _docs/: nbdev prepares the notebooks, Quarto or smalldocs renders them, whichever is there."""
import ast
import shutil
import subprocess
import sys
from pathlib import Path

import nbdev.serve
from nbdev.config import get_config
from nbdev.processors import FilterDefaults, exec_show_docs
from nbdev.quarto import nbdev_sidebar, refresh_quarto_yml


def lessons_are_shown_not_run(cell):
    "nbdev runs exports and imports to document them; a lesson that also imports something would run without the lessons before it."
    if cell.cell_type == "code" and not cell.directives_.keys() & {"export", "exports", "exporti"} and not cell.source.startswith("show_doc"):
        if any(not isinstance(s, ast.Import | ast.ImportFrom) for s in cell.parsed_() or ()):
            cell.directives_["eval:"] = ["false"]


class Prepared(FilterDefaults):
    def base_procs(self):
        usual = super().base_procs()
        usual.insert(usual.index(exec_show_docs), lessons_are_shown_not_run)
        return usual


if __name__ == "__main__":
    cfg = get_config()
    refresh_quarto_yml()  # not nbdev_docs: without Quarto, that one tries to install it
    nbdev_sidebar.__wrapped__(path=cfg.nbs_path)
    (cfg.nbs_path / "styles.css").touch()
    nbdev.serve.FilterDefaults = Prepared
    cache = nbdev.serve.proc_nbs(cfg.nbs_path, force=True, n_workers=0)
    tool = shutil.which("quarto") or shutil.which("smalldocs", path=str(Path(sys.executable).parent)) or shutil.which("smalldocs")
    if tool is None:
        raise SystemExit("the notebooks are prepared in _proc/; to render them, install Quarto, or smalldocs with pip, and run `make docs` again")
    subprocess.run([tool, "render"], cwd=cache, check=True)
    shutil.rmtree(cfg.doc_path, ignore_errors=True)
    shutil.move(cache / cfg.doc_path.name, cfg.doc_path)
    print(f"open {cfg.doc_path.name}/index.html")
