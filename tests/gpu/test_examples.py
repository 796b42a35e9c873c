"""Every public function that takes a network or a tensor has an example, and the examples run on the device.

An example is a call in the notebook that makes the function's module. `replay.py` runs it again on the device, once with
the CPU and once with the device as default. On a GPU all notebooks are replayed, on the card (in `make test`) the quick ones.
"""
import ast
import inspect
import json
import re
import textwrap

import card
import pytest
from reached import PACKAGES, modules, public
from replay import ROOT, Replay

NOTEBOOKS = sorted(p for package in PACKAGES for p in (ROOT / "nbs" / package).glob("*.ipynb"))
QUICK = ("masks/05_algebra", "masks/06_estimators", "masks/07_units", "masks/08_chunks", "masks/10_settings", "masks/16_pruning",
         "routing/03_pools", "routing/11_candidates", "models/00_feedforward", "models/07_copies")
TAKES = re.compile(r"\b(Tensor|Module|Masks)\b")
# public functions that no example reaches, and why
ELSEWHERE = {
    "routing.episodes.World": "a protocol; the worlds of modnb.data have its methods",
    "programs.searchers.Routed": "made from a name: the searchers that wrap a routing estimator",
}


def name_of(path): return path.relative_to(ROOT / "nbs").with_suffix("").as_posix()


def sources(path):
    "The cells of a notebook: those that are exported, and the examples."
    cells = ["".join(c["source"]) for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
    exported = [s for s in cells if re.match(r"\s*#\|\s*(export|default_exp)", s)]
    return exported, [s for s in cells if s not in exported]


def words(source):
    "All names and attributes in a cell."
    try:
        tree = ast.parse("\n".join(line for line in source.splitlines() if not line.startswith(("%", "!", "#|"))))
    except SyntaxError:
        return set()
    return {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)} | {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}


def takes_tensors(thing):
    "Whether a function says that it takes a network or a tensor, or a class that its constructor or a method does."
    if inspect.isclass(thing):
        own = [v for k, v in vars(thing).items() if callable(v) and not k.startswith("_") or k in ("__init__", "forward", "__call__")]
        return any(takes_tensors(getattr(f, "__func__", f)) for f in own if inspect.isroutine(f))
    try:
        parameters = inspect.signature(thing).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(TAKES.search(str(p.annotation)) for p in parameters)


def examples():
    "Module -> the words of its notebook's examples."
    found = {}
    for path in NOTEBOOKS:
        exported, shown = sources(path)
        module = next((s.split("default_exp", 1)[1].split()[0] for s in exported if "default_exp" in s), None)
        if module: found[module] = set().union(*map(words, shown))
    return found


def reached_by_examples():
    "Public functions that an example calls, and those that they call."
    known, every = examples(), public()
    called = {name for name in every if name.rpartition(".")[2] in known.get(name.rpartition(".")[0], ())}
    inner = {name: words(textwrap.dedent(inspect.getsource(thing))) for name, thing in every.items() if inspect.isroutine(thing) or inspect.isclass(thing)}
    private = {}
    for module in modules():
        for key, thing in vars(module).items():
            if key.startswith("_") and getattr(thing, "__module__", "") == module.__name__ and (inspect.isfunction(thing) or inspect.isclass(thing)):
                private.setdefault(key, set()).update(words(textwrap.dedent(inspect.getsource(thing))))
    seen = set()
    while called - seen:
        seen |= called
        used = set().union(*(inner.get(name, set()) for name in called))
        while more := set().union(*(private[w] for w in used & set(private))) - used: used |= more
        called |= {name for name in every if name.rpartition(".")[2] in used}
    return called


def test_every_public_function_that_takes_tensors_has_an_example():
    "Called by an example of its notebook, or by a function that is. What is not has a reason in `ELSEWHERE`."
    reached = reached_by_examples()
    missing = [name for name, thing in public().items() if takes_tensors(thing) and name not in reached and name not in ELSEWHERE]
    assert not missing, f"{len(missing)} without an example: {missing}"
    assert set(ELSEWHERE) <= set(public())


@pytest.mark.parametrize("default", [False, True], ids=["", "default"])
@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_examples_run_on_the_device(path, default, device, request):
    if device.type == card.NAME and name_of(path) not in QUICK and not request.config.getoption("--long"):
        pytest.skip("replayed on a GPU, or with --long")
    replay = Replay(device, default)
    replay.notebook(path)
    assert not replay.faults, replay.faults
