"""The cell tagged `parameters` of every experiment, from the defaults of its `Params`. `parameters.py ROOT` works on another checkout.

The values are those that papermill replaces: flat names, lists instead of tuples, and PRESET. Types and comments are what
`papermill --help-notebook` shows.
"""
import importlib
import json
import sys
import textwrap
from pathlib import Path

ROOT = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1]).resolve()
sys.path.insert(0, str(ROOT))

from modnb.runs.params import specs  # noqa: E402


def written(value):
    """A value as Python that prefers double quotes. Papermill overlooks a line with a second equals sign, so in texts it is escaped."""
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(written, value))}]"
    return json.dumps(value, ensure_ascii=False).replace("=", r"\x3d") if isinstance(value, str) else repr(value)


def annotation(field):
    """The type of a field as papermill shows it: `int`, `list[float]`. That None is allowed stands in the help."""
    one = (field.kind or type(field.choices[0])).__name__
    return f"list[{one}]" if field.many else one


def help_of(field):
    """A field's description, choices and limits. Papermill reads one line, and takes none with a second equals sign."""
    limits = [f"one of {', '.join(map(str, field.choices))}" if field.choices and str(field.choices[0]) not in field.doc else "",
              f"at least {field.min}" if field.min is not None else "",
              f"at most {field.max}" if field.max is not None else "", "or None" if field.optional and "None" not in field.doc else ""]
    said = "; ".join(filter(None, [field.doc, ", ".join(filter(None, limits))]))
    return said.replace(">=", "≥").replace("<=", "≤").replace("=", " is ")


def statement(name, kind, value, about):
    """An assignment within 120 columns: a long list goes on below, never within a text; the help, in its last line, is cut."""
    if isinstance(value, (tuple, list)):
        items = ", ".join(written(v).replace(" ", "\0") for v in value)
        source = "\n".join(textwrap.wrap(f"{name}: {kind} = [{items}]", 90, subsequent_indent="    ", break_on_hyphens=False)).replace("\0", " ")
    else:
        source = f"{name}: {kind} = {written(value)}"
    left = 120 - len(source.rpartition("\n")[2]) - len("  # ")
    return f"{source}  # {textwrap.shorten(about, left, placeholder=' …')}" if about and left >= 20 else source


def lines(params):
    """The cell's source."""
    presets = ", ".join(map(written, params.presets)) if len(params.presets) < 4 else '"quick", "paper" or another preset'
    values = params.to_dict()
    return [f"PRESET: str = None  # {presets}, or None for the values below",
            *(statement(name, annotation(field), values[name], help_of(field)) for name, field in specs(type(params)).items())]


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
    for each in sorted((ROOT / "nbs" / "experiments").glob("*/*.ipynb")):
        update(each)
