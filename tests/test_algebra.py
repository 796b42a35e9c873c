"""Masks are sets: the laws of sets, sizes and files, over random shapes and names."""
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modnb.masks import Masks

LAYERS = st.dictionaries(st.text(max_size=3), st.lists(st.integers(0, 3), max_size=3), max_size=3)
SEEDS = st.integers(0, 2**30)
FEW = settings(max_examples=50, deadline=None, database=None, derandomize=True)


def drawn(layers, seed):
    generator = torch.Generator().manual_seed(seed)
    return Masks({name: torch.rand(shape, generator=generator) < 0.5 for name, shape in layers.items()}, "drawn")


@FEW
@given(LAYERS, SEEDS)
def test_laws_of_sets(layers, seed):
    a, b, c = (drawn(layers, seed + i) for i in range(3))
    assert a & b == b & a and a | b == b | a
    assert a & (b & c) == (a & b) & c and a | (b | c) == (a | b) | c
    assert a & (b | c) == a & b | a & c and a | (b & c) == (a | b) & (a | c)
    assert ~(a & b) == ~a | ~b and ~~a == a
    assert a - b == a & ~b and a ^ b == (a - b) | (b - a)


@FEW
@given(LAYERS, SEEDS)
def test_sizes(layers, seed):
    a, b = drawn(layers, seed), drawn(layers, seed + 1)
    assert (a | b).kept == a.kept + b.kept - (a & b).kept
    assert a.kept + (~a).kept == a.total and 0 <= a.density <= 1
    frame = a.to_frame()
    assert frame["kept"].sum() == a.kept and frame["density"].between(0, 1).all()
    assert Masks.random_like(a, seed).to_frame()["kept"].equals(frame["kept"])
    assert "nan" not in a._repr_html_() + repr(a)


@FEW
@given(LAYERS, SEEDS)
def test_a_part_and_the_rest_are_the_whole(layers, seed):
    a = drawn(layers, seed)
    first, rest = a.select(sorted(a)[:1]), a.select(sorted(a)[1:])
    assert first.kept + rest.kept == a.kept and first.total + rest.total == a.total
    assert a.select(lambda name: True) == a


@settings(FEW, max_examples=25)
@given(LAYERS, SEEDS)
def test_files(tmp_path_factory, layers, seed):
    a, path = drawn(layers, seed), tmp_path_factory.getbasetemp() / "masks.safetensors"
    a.save(path)
    again = Masks.load(path)
    assert again == a and list(again) == list(a) and again.estimator == "drawn"


@settings(FEW, max_examples=25)
@given(LAYERS, SEEDS, st.data())
def test_a_damaged_file_is_refused(tmp_path_factory, layers, seed, data):
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    drawn(layers, seed).save(path)
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole) - 1))
    path.write_bytes(whole[:cut])
    with pytest.raises(ValueError, match="path: 'damaged.safetensors' holds no masks of this library, or is damaged"):
        Masks.load(path)
