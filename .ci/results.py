"""The results that are committed: `make results` runs what is missing or out of date, or with NAME="add_mul systems" these studies and packages.

For an experiment: its run of PRESET (quick) in the folder of runs, its rows in nbs/results, and the executed notebook's outputs in its
notebook. For the two readers of the gating study: their grids, the rows that they keep, and their outputs. Runs that are done are not
computed again. At the end the page of all results is executed.
"""
import importlib
import json
import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NBS = ROOT / "nbs"
GRIDS = {"gating/summary": ("quick", "small_mha", "small_rnn"), "gating/remedies": ("remedies_*",)}
KEPT = {"gating/summary": "results/gating", "gating/remedies": "results/gating/figures/remedies.csv"}
HEAD = re.compile(r"experiment (\S+), version (\d+), run (\S+), preset (\S+),")


def experiments():
    "Path of the notebook of every experiment, by study/name."
    found = sorted((NBS / "experiments").glob("*/*.ipynb"))
    return {f"{p.parent.name}/{p.stem}": p for p in found}


def module(path):
    return importlib.import_module(f"modnb.experiments.{path.parent.name}.{path.stem}")


def saved_run(path):
    "Name, version, signature and preset of the run whose outputs a notebook holds, from its header; None if it shows none."
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    shown = ["".join(o.get("data", {}).get("text/plain", "")) for c in cells for o in c.get("outputs", [])]
    heads = [found for text in shown if (found := HEAD.match(text))]
    return heads[-1].groups() if heads else None


def wanted_run(path, preset):
    "What `saved_run` is if the notebook holds the outputs of this preset, as the code is now."
    from modnb.runs.params import signature

    code = module(path)
    version = getattr(code, "VERSION", 1)
    return path.stem, str(version), signature(path.stem, code.Params.make({}, preset), version), preset


def rows_path(path, preset):
    return NBS / "results" / path.parent.name / f"{path.stem}-{preset}.csv"


def take_outputs(path, executed):
    "Put the outputs of an executed notebook into its source, whose cells stay as they are."
    source, done = (json.loads(p.read_text(encoding="utf-8")) for p in (path, executed))
    added = {"injected-parameters"}
    cells = [c for c in done["cells"] if not added & set(c["metadata"].get("tags", []))]
    if [c["source"] for c in cells] != [c["source"] for c in source["cells"]]:
        raise SystemExit(f"{path.name}: the executed notebook has other cells; was it edited meanwhile?")
    for cell, new in zip(source["cells"], cells):
        if cell["cell_type"] == "code":
            cell["outputs"] = new["outputs"]
    path.write_text(json.dumps(source, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_results(path, preset):
    "Run an experiment, and keep its rows and outputs."
    from modnb.files import write_whole
    from modnb.runs.report import report

    made = report(f"{path.parent.name}/{path.stem}", preset=preset, html=False)
    if path.stem != "rules": # its rows are those of the grid, of which this run is one
        write_whole(rows_path(path, preset), made.run.frame.to_csv(index=False, float_format="%.5g"))
    take_outputs(path, made.notebook)


def write_reader(name, path):
    "Run the grids that a notebook reads, and keep its rows and outputs."
    import papermill
    from modnb.runs import Grid, Runs

    runs = Runs()
    for file in sorted(p for pattern in GRIDS[name] for p in (NBS / "grids" / "gating").glob(f"{pattern}.yaml")):
        Grid.from_yaml(file).run(runs=runs)
    executed = runs.root / f"{path.stem}.ipynb"
    given = {"runs": str(runs.root.resolve()), "keep": str(NBS / KEPT[name])}
    papermill.execute_notebook(path, executed, given, progress_bar=False)
    take_outputs(path, executed)


def chosen(names, preset):
    "Notebooks of these experiments or studies; without a name those whose outputs are not of this preset."
    found = experiments()
    if not names:
        stale = [n for n, p in found.items() if n not in GRIDS and saved_run(p) != wanted_run(p, preset)]
        return {n: found[n] for n in stale}
    picked = {n: p for n, p in found.items() if {n, *n.split("/")} & set(names)}
    if unknown := set(names) - {part for n in picked for part in (n, *n.split("/"))}:
        raise SystemExit(f"NAME: {', '.join(sorted(unknown))}: no study or experiment; there are {', '.join(found)}")
    return picked


def main(names, preset):
    for name, path in chosen(names, preset).items():
        print(f"{name}, {preset}", flush=True)
        write_reader(name, path) if name in GRIDS else write_results(path, preset)
    import papermill

    page = NBS / "explanations" / "00_results.ipynb"
    executed = page.with_suffix(".executed.ipynb")
    papermill.execute_notebook(page, executed, progress_bar=False, cwd=page.parent)
    take_outputs(page, executed)
    executed.unlink()


if __name__ == "__main__":
    os.chdir(ROOT)
    main(sys.argv[1:], os.environ.get("PRESET") or "quick")
