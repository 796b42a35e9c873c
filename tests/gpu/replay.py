"""Every call of a public function in its notebook, once more on another device.

The notebooks show each public function at work on the CPU. Here their cells run again; whenever a cell calls a function, a
method or a network, the call is made a second time on copies of its arguments that were moved to the device. So each
example is a test of the device, too, and a new function is tested as soon as it has an example.
"""
from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import io
import json
import sys
import types
import warnings
from pathlib import Path

import card
import numpy as np
import torch
from reached import Reached, public
from torch import nn

ROOT = Path(__file__).parents[2]
SIMPLE = (str, bytes, int, float, complex, bool, type(None), type, types.ModuleType, torch.dtype, torch.device, np.ndarray,
          Path, types.BuiltinFunctionType)


class Mover:
    "Copies of values, moved to a device. What is shared stays shared."
    def __init__(self, device, cells: dict, generators: bool = True):
        self.device = device
        self.cells = cells # the notebook's names
        self.generators = generators # move these, too
        self.known: dict[int, object] = {}
        self.alive: list = []

    def __call__(self, value):
        if isinstance(value, SIMPLE): return value
        if id(value) not in self.known:
            self.alive.append(value)
            self.known[id(value)] = value # a circle ends here
            self.known[id(value)] = self.moved(value)
        return self.known[id(value)]

    def moved(self, value):
        if isinstance(value, nn.Module): return self.module(value)
        if isinstance(value, torch.Tensor): return self.tensor(value)
        if isinstance(value, torch.Generator): return self.generator(value)
        if isinstance(value, types.FunctionType): return self.function(value)
        if isinstance(value, types.MethodType): return types.MethodType(value.__func__, self(value.__self__))
        if isinstance(value, functools.partial):
            return functools.partial(self(value.func), *map(self, value.args), **{k: self(v) for k, v in value.keywords.items()})
        if type(value) in (list, tuple, set): return type(value)(map(self, value))
        if isinstance(value, tuple) and hasattr(value, "_fields"): return type(value)(*map(self, value))
        if type(value) is dict: return {k: self(v) for k, v in value.items()}
        if type(value).__module__.startswith("modnb") or type(value).__module__ == "__notebook__": return self.thing(value)
        return value

    def tensor(self, value):
        if not value.is_leaf: return value.detach().to(self.device).requires_grad_(value.requires_grad)
        return value.detach().clone().to(self.device).requires_grad_(value.requires_grad)

    def module(self, value):
        new = copy.deepcopy(value).to(self.device)
        for mine, theirs in zip(value.modules(), new.modules()):
            for name, held in vars(mine).items():
                if name.startswith("_") or isinstance(held, nn.Module): continue
                if not isinstance(held, SIMPLE): object.__setattr__(theirs, name, self(held))
        return new

    def generator(self, value):
        if not self.generators: return value.clone_state() if hasattr(value, "clone_state") else value
        return torch.Generator(self.device).manual_seed(value.initial_seed())

    def function(self, value):
        "A function of the notebook that sees the moved values."
        if value.__globals__ is not self.cells and value.__module__ is not None and not value.__closure__: return value
        own = value.__globals__
        if own is self.cells:
            names = [n for c in nested(value.__code__) for n in c.co_names if n in own]
            own = dict(own) | {n: self(own[n]) for n in names}
        closure = value.__closure__ and tuple(cell_of(self(c.cell_contents)) for c in value.__closure__)
        new = types.FunctionType(value.__code__, own, value.__name__, value.__defaults__, closure)
        new.__kwdefaults__ = value.__kwdefaults__
        new.__dict__.update({k: v for k, v in value.__dict__.items()})
        return new

    def thing(self, value):
        if isinstance(value, Exception): return value
        try:
            new = copy.copy(value)
        except Exception:
            return value
        self.known[id(value)] = new
        for name, held in list(getattr(value, "__dict__", {}).items()):
            object.__setattr__(new, name, self(held))
        if isinstance(new, dict):
            for name, held in list(new.items()): dict.__setitem__(new, name, self(held))
        return new


def shortened(function, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    "Arguments with at most three steps: a training on the device shows itself in few."
    try:
        bound = inspect.signature(function).bind(*args, **kwargs)
    except (TypeError, ValueError):
        return args, kwargs
    if not isinstance(bound.arguments.get("steps"), int): return args, kwargs
    bound.arguments["steps"] = min(3, bound.arguments["steps"])
    return bound.args, bound.kwargs


def nested(code):
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType): yield from nested(constant)


def cell_of(value):
    return types.CellType(value)


def outer_frame(frame):
    "The frame that called, without those of PyTorch, functools and this file."
    while frame is not None and ("/torch/" in frame.f_code.co_filename or frame.f_code.co_filename.endswith(("functools.py", "contextlib.py", __file__))):
        frame = frame.f_back
    return frame


def innermost(error: BaseException) -> str:
    "Where in the package an error began; empty if it began elsewhere."
    place = ""
    trace = error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if "/modnb/" in name and "/site-packages/" not in name: place = f"{name.split('/modnb/', 1)[1]}:{trace.tb_lineno}"
        elif name.startswith("<cell"): place = ""
        trace = trace.tb_next
    return place


class Replay:
    "Runs notebooks, and their calls on a device."
    def __init__(self, device, default: bool = False, times: int = 2, most: int = 1500):
        self.device = torch.device(device)
        self.default = default # make the device the default one, too
        self.times = times # calls of each function in a notebook
        self.most = most # operators of a call
        self.reached = Reached(self.device.type)
        self.faults: dict[str, str] = {} # place in the package -> message
        self.errors: list[str] = []
        self.busy = False
        self.counts: dict[str, int] = {}
        self.cells: dict = {}

    def again(self, name: str, function, args, kwargs) -> None:
        "Call a function on the device."
        if self.busy or self.counts.get(name, 0) >= self.times: return
        self.counts[name] = self.counts.get(name, 0) + 1
        self.busy = True
        state = torch.get_rng_state()
        numbers = np.random.get_state()
        default = torch.device(self.device) if self.default else contextlib.nullcontext()
        try:
            for generators in (True, False):
                error = self.attempt(function, args, kwargs, generators, default)
                if error is None: break
            if error is not None: self.note(name, error)
        finally:
            torch.set_rng_state(state)
            np.random.set_state(numbers)
            self.busy = False

    def attempt(self, function, args, kwargs, generators: bool, default):
        move = Mover(self.device, self.cells, generators)
        args, kwargs = shortened(function, args, kwargs)
        try:
            given, named = move(list(args)), {k: move(v) for k, v in kwargs.items()}
        except Exception:
            return None
        if not (self.reached.holds(given) or self.reached.holds(named)): return None
        card.limit(self.most)
        try:
            with self.reached, default, warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
                warnings.simplefilter("ignore")
                function(*given, **named)
        except card.Enough: pass
        except Exception as error: return error
        finally: card.limit(None)
        return None

    def note(self, name: str, error: Exception) -> None:
        place = innermost(error)
        text = f"{name}: {type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
        if not place: return
        mixed = isinstance(error, card.MixedDevices) or "device" in str(error).lower()
        if isinstance(error, (ValueError, TypeError, AssertionError)) and not mixed: return
        if mixed: self.faults.setdefault(place, text)
        else: self.errors.append(f"{place} {text}")

    def function(self, name: str, thing):
        @functools.wraps(thing)
        def call(*args, **kwargs):
            self.again(name, thing, args, kwargs)
            return thing(*args, **kwargs)
        call.replayed = thing
        return call

    def method(self, name: str, thing):
        @functools.wraps(thing)
        def call(*args, **kwargs):
            if not self.busy:
                frame = outer_frame(sys._getframe(1))
                if frame is not None and frame.f_globals is self.cells: self.again(name, thing, args, kwargs)
            return thing(*args, **kwargs)
        return call

    @contextlib.contextmanager
    def methods(self):
        "Inside, methods of the package's classes are watched."
        changed = []
        for name, thing in public().items():
            if not inspect.isclass(thing) or issubclass(thing, BaseException): continue
            for key, value in list(vars(thing).items()):
                if not isinstance(value, types.FunctionType) or key.startswith("__") and key not in ("__call__", "__iter__", "__getitem__"): continue
                if key.startswith("_") and not key.startswith("__"): continue
                changed.append((thing, key, value))
                setattr(thing, key, self.method(f"{name}.{key}", value))
        try: yield
        finally:
            for thing, key, value in changed: setattr(thing, key, value)

    def notebook(self, path: Path) -> int:
        "Run a notebook's cells; the number of those that failed."
        sources = [(''.join(c["source"])) for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
        default = next((s.split("default_exp", 1)[1].split()[0] for s in sources if "default_exp" in s), None)
        module = __import__(f"modnb.{default}", fromlist=["x"]) if default else None
        self.cells = {"__name__": "__notebook__"} | {k: v for k, v in vars(module).items() if not k.startswith("__")}
        known = {v: k for k, v in public().items() if isinstance(v, types.FunctionType)}
        self.counts = {}
        failed = 0
        shown = types.ModuleType("__notebook__")
        sys.modules["__notebook__"] = shown
        with self.methods():
            for number, source in enumerate(sources):
                if "#| export" in source or "#|export" in source or "default_exp" in source: continue
                if source.lstrip().startswith(("%", "!")): continue
                for key, value in list(self.cells.items()):
                    if isinstance(value, types.FunctionType) and value in known: self.cells[key] = self.function(known[value], value)
                try:
                    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        exec(compile(source, f"<cell {path.name} {number}>", "exec"), self.cells)
                except Exception as error:
                    failed += 1
                    self.problems = getattr(self, "problems", []) + [f"{path.name} cell {number}: {error!r:.150}"]
        import matplotlib.pyplot as plt
        plt.close("all")
        return failed
