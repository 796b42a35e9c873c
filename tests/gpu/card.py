"""A card made of air: a device of its own type, "card", whose tensors hold their numbers in CPU memory.

It follows the rules of a GPU as PyTorch enforces them: an operator does not mix its tensors with those of the CPU (a CPU
tensor without axes may join in), a generator draws on its own device only, and `.numpy()` is refused. Unlike a tensor on
`meta`, one on the card has values, so that training, routing and everything else that looks at numbers can run on it.
Built on PyTorch's own interface for backends written in Python, which exists since PyTorch 2.9.
"""
from __future__ import annotations

import contextlib

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

NAME = "card"
CPU = torch.device("cpu")
AVAILABLE = hasattr(torch._C, "_acc") and hasattr(torch._C._acc, "create_empty_tensor") # PyTorch's backends in Python


class MixedDevices(RuntimeError):
    "Tensors of the card and of the CPU met, or a generator drew on a device that is not its own."


class CardTensor(torch.Tensor):
    "A tensor that says it is on the card; `held` is the CPU tensor with its numbers."
    @staticmethod
    def __new__(cls, held: torch.Tensor):
        return torch.Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            layout=held.layout, device=torch.device(NAME, 0), requires_grad=False)

    def __init__(self, held: torch.Tensor):
        self.held = held

    __torch_function__ = torch._C._disabled_torch_function_impl

    def tolist(self): return self.held.tolist()

    def data_ptr(self): return self.held.data_ptr()

    def __deepcopy__(self, memo):
        if id(self) in memo: return memo[id(self)]
        new = CardTensor(self.held.detach().clone(memory_format=torch.preserve_format)).requires_grad_(self.requires_grad)
        if getattr(self, "_is_param", False): new._is_param = True
        memo[id(self)] = new
        return new

    def __reduce_ex__(self, protocol): return self.held.detach().__reduce_ex__(protocol) # a file has CPU tensors

    @property
    def data(self): return self.detach()

    @data.setter
    def data(self, value):
        torch.Tensor.data.__set__(self, value)
        self.held = value.held

    def __repr__(self, **_):
        return f"{self.held!r} on the card"

    @classmethod
    def __torch_dispatch__(cls, op, types, args=(), kwargs=None):
        return run(op, args, kwargs or {})


def on_card(device) -> bool:
    return device is not None and torch.device(device).type == NAME


def check(op, tensors: list, generators: list, card: bool) -> None:
    "Raises `MixedDevices` as a GPU would."
    for generator in generators:
        if (generator._cdata in CardGenerator.known) != card:
            raise MixedDevices(f"{op}: a generator of the {'CPU' if card else NAME} draws on the {NAME if card else 'CPU'}")
    if not card: return
    strangers = [t for t in tensors if not isinstance(t, CardTensor) and t.dim()]
    # PyTorch moves the index of a GPU tensor itself if it is on the CPU
    if strangers and op.overloadpacket not in FREE:
        raise MixedDevices(f"{op}: a tensor of shape {list(strangers[0].shape)} is on the CPU, others are on the {NAME}")


aten = torch.ops.aten
FREE = {aten.copy_, aten._to_copy, aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._pin_memory}


def lstm_gates(a, b, bias_a, bias_b):
    gates = a + b
    return gates if bias_a is None else gates + bias_a + bias_b


def lstm_cell(a, b, cell, bias_a=None, bias_b=None):
    "`_thnn_fused_lstm_cell`, which the CPU does not have: new state, new cell, and the gates for the way back."
    i, f, g, o = lstm_gates(a, b, bias_a, bias_b).chunk(4, -1)
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    new = f * cell + i * g
    return o * new.tanh(), new, torch.cat([i, f, g, o], -1)


def lstm_cell_backward(grad_state, grad_cell, cell, new, gates, has_bias):
    i, f, g, o = gates.chunk(4, -1)
    zero = torch.zeros_like(cell)
    grad_state = zero if grad_state is None else grad_state
    through = grad_state * o * (1 - new.tanh() ** 2) + (zero if grad_cell is None else grad_cell)
    parts = [through * g * i * (1 - i), through * cell * f * (1 - f), through * i * (1 - g ** 2),
             grad_state * new.tanh() * o * (1 - o)]
    grad = torch.cat(parts, -1)
    return grad, through * f, grad.sum(0) if has_bias else None


def gru_cell(a, b, state, bias_a=None, bias_b=None):
    "`_thnn_fused_gru_cell`: new state, and what the way back needs."
    if bias_a is not None:
        a = a + bias_a
        b = b + bias_b
    (ra, za, na), (rb, zb, nb) = a.chunk(3, -1), b.chunk(3, -1)
    r, z = (ra + rb).sigmoid(), (za + zb).sigmoid()
    n = (na + r * nb).tanh()
    return n + z * (state - n), torch.cat([r, z, n, state, nb], -1)


def gru_cell_backward(grad, saved, has_bias):
    r, z, n, state, nb = saved.chunk(5, -1)
    dn = grad * (1 - z) * (1 - n ** 2)
    dr, dz = dn * nb * r * (1 - r), grad * (state - n) * z * (1 - z)
    da, db = torch.cat([dr, dz, dn], -1), torch.cat([dr, dz, dn * r], -1)
    return da, db, grad * z, *([da.sum(0), db.sum(0)] if has_bias else [None, None])


# operators of a GPU that the CPU does not have
CELLS = {
    aten._thnn_fused_lstm_cell.default: lstm_cell,
    aten._thnn_fused_lstm_cell_backward_impl.default: lstm_cell_backward,
    aten._thnn_fused_gru_cell.default: gru_cell,
    aten._thnn_fused_gru_cell_backward.default: gru_cell_backward,
}


def held(value):
    return value.held if isinstance(value, CardTensor) else value


class Enough(Exception):
    "As many operators as were allowed."


left: int | None = None


def limit(operators: int | None) -> None:
    "How many operators may still run before `Enough` is raised; None: any number."
    global left
    left = operators


def run(op, args, kwargs):
    "Compute on the CPU what an operator would on the card."
    global left
    if left is not None:
        left -= 1
        if left < 0: raise Enough
    leaves = tree_flatten((args, kwargs))[0]
    tensors = [t for t in leaves if isinstance(t, torch.Tensor)]
    cards = {id(t.held): t for t in tensors if isinstance(t, CardTensor)}
    target = kwargs.get("device")
    card = bool(cards) if target is None else on_card(target)
    check(op, tensors if target is None else [], [g for g in leaves if isinstance(g, torch.Generator)], card)
    inner, options = tree_map(held, (args, kwargs))
    if "device" in options and options["device"] is not None and on_card(options["device"]): options["device"] = CPU
    out = CELLS.get(op, op)(*inner, **options)
    if op in (aten._local_scalar_dense.default,): return out
    if not card: return out
    return tree_map(lambda t: wrapped(t, cards), out)


def wrapped(t, cards: dict):
    if not isinstance(t, torch.Tensor) or isinstance(t, CardTensor): return t
    return cards[id(t)] if id(t) in cards else CardTensor(t)


class Factories(TorchDispatchMode):
    "Tensors that are made on the card."
    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        return run(op, args, kwargs or {})


class CardGenerator(torch.Generator):
    "A generator of the card. PyTorch hands operators a new Python object for it, so that it is known by its address."
    known: set = set()

    def __new__(cls, device=None):
        made = super().__new__(cls, "cpu")
        cls.known.add(made._cdata)
        return made

    def __del__(self): self.known.discard(self._cdata)

    @property
    def device(self): return torch.device(NAME, 0)


class Generators(type):
    "What stands for `torch.Generator` while a card is plugged in."
    def __instancecheck__(cls, thing): return isinstance(thing, GENERATOR)


GENERATOR = torch.Generator


class Generator(metaclass=Generators):
    def __new__(cls, device="cpu"): return CardGenerator() if on_card(device) else GENERATOR(device)


class Module:
    "What `torch.get_device_module` gives: one card, whose random numbers are those of the CPU."
    is_available = staticmethod(lambda: True)
    is_initialized = staticmethod(lambda: True)
    _is_in_bad_fork = staticmethod(lambda: False)
    device_count = staticmethod(lambda: 1)
    current_device = staticmethod(lambda: 0)
    manual_seed_all = staticmethod(lambda seed: None)
    get_amp_supported_dtype = staticmethod(lambda: [torch.bfloat16, torch.float16])
    get_rng_state = staticmethod(lambda device=None: torch.get_rng_state())
    set_rng_state = staticmethod(lambda state, device=None: torch.set_rng_state(state))


ready = False


def setup() -> None:
    "Make the device known to PyTorch, once in a process."
    global ready
    if ready: return
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend
    _setup_privateuseone_for_python_backend(NAME, Module())
    ready = True


@contextlib.contextmanager
def plugged():
    "Inside, `device=\"card\"` works as that of a GPU does."
    setup()
    torch.Generator = Generator
    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True) # so that the mode sees what `torch.tensor` moves
    try: # backward passes stay in this thread, where they are seen
        with Factories(), torch.autograd.set_multithreading_enabled(False): yield torch.device(NAME, 0)
    finally:
        torch._C._set_only_lift_cpu_tensors(before)
        torch.Generator = GENERATOR
