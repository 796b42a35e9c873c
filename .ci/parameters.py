"""The cell tagged `parameters` of every experiment, from the defaults of its `Params`. `parameters.py ROOT` works on another checkout.

The values are those that papermill replaces: flat names, lists instead of tuples, and PRESET.
"""
import importlib
import json
import sys
import textwrap
from pathlib import Path

ROOT = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1]).resolve()


def written(value):
    """A value as Python that prefers double quotes."""
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(written, value))}]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def statement(name, value):
    """An assignment within 120 columns: a long list goes on below, never within a text."""
    if not isinstance(value, (tuple, list)):
        return f"{name} = {written(value)}"
    items = ", ".join(written(v).replace(" ", "\0") for v in value)
    return "\n".join(textwrap.wrap(f"{name} = [{items}]", 120, subsequent_indent="    ", break_on_hyphens=False)).replace("\0", " ")


def lines(params):
    """The cell's source."""
    presets = ", ".join(map(written, params.presets)) if len(params.presets) < 4 else '"quick", "paper" or another preset'
    return [f"PRESET = None  # {presets}, or None for the values below", *(statement(name, value) for name, value in params.to_dict().items())]


def update(path):
    """Write the cell anew where it differs; notebooks without one are left alone."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    tagged = [c for c in notebook["cells"] if "parameters" in c["metadata"].get("tags", [])]
    exported = any("".join(c["source"]).startswith("#| default_exp experiments.") for c in notebook["cells"])
    if not tagged or not exported:
        return
    module = importlib.import_module(".".join(("modnb", *path.relative_to(ROOT / "nbs").with_suffix("").parts)))
    source = "\n".join(lines(module.Params())).splitlines(keepends=True)
    if source != tagged[0]["source"]:
        tagged[0]["source"] = source
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    for each in sorted((ROOT / "nbs" / "experiments").glob("*/*.ipynb")):
        update(each)
