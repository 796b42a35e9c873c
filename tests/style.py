"""How the exported code reads, in numbers: `python tests/style.py [package ...]` prints a row for each package and what is over a bar.

Bars are those of the house: cells of functions p50 <= 10 and p90 <= 25 lines, cells of classes p90 <= 45 and none above 60, no line over 120
columns, no tuple assignment of unrelated targets, 0.8 assertion cells for each exported cell of definitions, nothing assigned to a class after its
definition, functions of more than eight arguments only where users call them."""
import ast
import json
import re
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = 120
ARGUMENTS = 8


def cells(path):
    "Number and source of a notebook's code cells, without the lines that only notebooks understand."
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [(i, "".join(c["source"])) for i, c in enumerate(found) if c["cell_type"] == "code"]


def tree_of(source):
    "The syntax tree; None where a cell holds more than Python."
    try:
        return ast.parse(source)
    except SyntaxError:
        return None


def is_exported(source):
    return re.match(r"(\s*#\|.*\n)*\s*#\|\s*exporti?\b", source) is not None


def lines_of(source):
    "Lines of code, without directives and empty lines."
    return [line for line in source.splitlines() if line.strip() and not line.lstrip().startswith("#|")]


def simple(node):
    return isinstance(node, ast.Name | ast.Attribute | ast.Subscript | ast.Constant)


def is_packed(node):
    "`a, b = x, y`: several statements in one line. A swap, and what is unpacked from one value, are not."
    if not (isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple) and isinstance(node.value, ast.Tuple)):
        return False
    targets = [ast.unparse(t) for t in node.targets[0].elts]
    values = [ast.unparse(v) for v in node.value.elts]
    constants = all(isinstance(v, ast.Constant) or isinstance(v, ast.UnaryOp) for v in node.value.elts)
    return set(targets) != set(values) and not constants


def attached(tree, classes):
    "Names that are assigned to a class outside its definition."
    outside = [n for n in tree.body if isinstance(n, ast.Assign | ast.AnnAssign | ast.AugAssign)]
    targets = [t for n in outside for t in (n.targets if isinstance(n, ast.Assign) else [n.target])]
    flat = [e for t in targets for e in (t.elts if isinstance(t, ast.Tuple) else [t])]
    return [ast.unparse(t) for t in flat if isinstance(t, ast.Attribute) and isinstance(t.value, ast.Name) and t.value.id in classes]


def arguments(function):
    a = function.args
    return [x.arg for x in (*a.posonlyargs, *a.args, *a.kwonlyargs) if x.arg not in ("self", "cls")]


class Measure:
    "What is counted in the notebooks of one package."

    def __init__(self):
        self.functions = []
        self.classes = []
        self.long_lines = []
        self.packed = []
        self.attached = []
        self.many_arguments = []
        self.long_cells = []
        self.exports = 0
        self.assertions = 0
        self.lines = 0

    def notebook(self, path, classes):
        for i, source in cells(path):
            tree = tree_of(source)
            if is_exported(source):
                self.exported(f"{path.relative_to(ROOT / 'nbs')}[{i}]", source, tree, classes)
            elif tree is not None and any(isinstance(n, ast.Assert) for n in ast.walk(tree)):
                self.assertions += 1

    def exported(self, where, source, tree, classes):
        code = lines_of(source)
        self.lines += len(code)
        self.long_lines += [f"{where}: {line.strip()[:60]}" for line in code if len(line) > COLUMNS]
        defined = [n for n in tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef)]
        if defined:
            self.exports += 1
            is_class = any(isinstance(n, ast.ClassDef) for n in defined)
            (self.classes if is_class else self.functions).append(len(code))
            if len(code) > (60 if is_class else 25):
                self.long_cells.append(f"{where}: {len(code)} lines, {defined[0].name}")
        self.packed += [f"{where}: {ast.unparse(n)[:70]}" for n in ast.walk(tree) if is_packed(n)]
        self.attached += [f"{where}: {name}" for name in attached(tree, classes)]
        for n in ast.walk(tree):
            if isinstance(n, ast.FunctionDef) and len(arguments(n)) > ARGUMENTS:
                self.many_arguments.append(f"{where}: {n.name} ({len(arguments(n))})")


def measure():
    "Package -> its measure."
    paths = sorted((ROOT / "nbs").rglob("*.ipynb"))
    paths = [p for p in paths if ".ipynb_checkpoints" not in p.parts]
    every = [tree_of(s) for p in paths for _, s in cells(p) if is_exported(s)]
    classes = {n.name for tree in every for n in ast.walk(tree) if isinstance(n, ast.ClassDef)}
    found = defaultdict(Measure)
    for path in paths:
        where = path.relative_to(ROOT / "nbs").parts
        found[where[0] if len(where) > 1 else "house"].notebook(path, classes)
    return {name: m for name, m in found.items() if m.exports}


def share(values, p):
    "The smallest value that this share of the values does not exceed."
    return sorted(values)[min(len(values) - 1, int(p * len(values)))] if values else 0


def row(m):
    return [share(m.functions, 0.5), share(m.functions, 0.9), share(m.classes, 0.9), max(m.classes, default=0), len(m.long_lines),
            len(m.packed), len(m.attached), len(m.many_arguments), f"{m.assertions / m.exports:.2f}", m.exports, m.lines]


NAMES = ["f p50", "f p90", "c p90", "c max", f">{COLUMNS}", "packed", "attached", f">{ARGUMENTS} args", "asserts", "cells", "lines"]


def main(packages):
    found = measure()
    total = Measure()
    for m in found.values():
        for name, value in vars(m).items():
            setattr(total, name, getattr(total, name) + value)
    print(" " * 12 + "".join(f"{n:>9}" for n in NAMES))
    for name, m in [*found.items(), ("all", total)]:
        print(f"{name:12}" + "".join(f"{v:>9}" for v in row(m)))
    for name in packages:
        m = found[name]
        for kind in ("long_cells", "packed", "attached", "many_arguments", "long_lines"):
            print(f"\n{name}, {kind}:", *getattr(m, kind), sep="\n  ")


if __name__ == "__main__":
    main(sys.argv[1:])
