"""Which of the public functions have met a tensor of a device."""
from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
import threading
import types
from collections.abc import Iterator, Mapping

import torch


PACKAGES = ("data", "masks", "metrics", "models", "programs", "routing", "systems", "training")


def modules() -> list:
    "All modules of the packages whose functions take networks or tensors."
    found = []
    for name in PACKAGES:
        package = importlib.import_module(f"modnb.{name}")
        found += [importlib.import_module(m.name) for m in pkgutil.walk_packages(package.__path__, f"modnb.{name}.")]
    return found


def public() -> dict[str, object]:
    "All that the modules export and that can be called: `masks.learning.learn_masks` -> the function."
    return {f"{m.__name__.removeprefix('modnb.')}.{name}": getattr(m, name)
            for m in modules() for name in getattr(m, "__all__", ())
            if callable(getattr(m, name)) and getattr(getattr(m, name), "__module__", m.__name__) == m.__name__}


def codes(thing) -> Iterator[types.CodeType]:
    "The code of a function, or of all methods of a class."
    thing = inspect.unwrap(getattr(thing, "fget", thing) or thing)
    thing = getattr(thing, "func", getattr(thing, "__func__", thing))
    if inspect.isclass(thing):
        for value in vars(thing).values():
            if isinstance(value, (types.FunctionType, staticmethod, classmethod, property)): yield from codes(value)
    elif hasattr(thing, "__code__"): yield thing.__code__


class Reached:
    "Inside, notes which exported functions and classes are called with, or return, something that is on the device."
    def __init__(self, device_type: str):
        self.device_type = device_type
        self.names: set[str] = set()
        self.waiting: dict[types.CodeType, str] = {}
        self.seen: dict[types.CodeType, int] = {} # calls without anything on the device
        self.classes: dict[type, str] = {}
        for name, thing in public().items():
            if inspect.isclass(thing): self.classes[thing] = name
            for code in codes(thing): self.waiting[code] = name

    def holds(self, value, depth: int = 3) -> bool:
        "Whether a value is on the device, or has something that is; notes its class."
        if isinstance(value, torch.Tensor):
            found = value.device.type == self.device_type
        elif depth == 0 or value is None or isinstance(value, (str, int, float, type, types.ModuleType, types.FunctionType)):
            return False
        elif isinstance(value, torch.nn.Module):
            found = any(p.device.type == self.device_type for p in value.parameters())
            found = found or self.any(vars(value).values(), depth)
        elif isinstance(value, Mapping):
            found = self.any(list(value.values())[:8], depth)
        elif isinstance(value, (list, tuple)):
            found = self.any(value[:8], depth)
        else:
            found = self.any(getattr(value, "__dict__", {}).values(), depth)
        if found:
            for kind in type(value).__mro__:
                if kind in self.classes: self.names.add(self.classes[kind])
        return found

    def any(self, values, depth: int) -> bool:
        return any([self.holds(v, depth - 1) for v in values])

    def see(self, frame, event, value):
        code = frame.f_code
        if code not in self.waiting or event not in ("call", "return"): return
        self.seen[code] = self.seen.get(code, 0) + 1
        if self.seen[code] > 20: return
        values = list(frame.f_locals.values()) if event == "call" else [value]
        sys.setprofile(None)
        try:
            if self.any(values, 4):
                self.names.add(self.waiting.pop(code))
        except Exception: # an object that is half made
            pass
        finally: sys.setprofile(self.see)

    def __enter__(self):
        threading.setprofile(self.see)
        sys.setprofile(self.see)
        return self

    def __exit__(self, *_):
        sys.setprofile(None)
        threading.setprofile(None)
