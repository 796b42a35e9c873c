"""Masks are sets: the laws of sets, sizes and files, over random shapes and names."""
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modnb.masks import Masks, masked

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


def test_one_tensor_under_two_names(tmp_path):
    whole = torch.ones(4, 4, dtype=torch.bool)
    masks = Masks({"q.weight": whole, "k.weight": whole})
    masks.save(tmp_path / "m.safetensors")
    assert Masks.load(tmp_path / "m.safetensors") == masks


def test_masks_of_another_device_are_refused_by_name():
    masks = drawn({"w": [2, 3]}, 0)
    for both in (lambda: masks & masks.to("meta"), lambda: masks.to("meta") - masks):
        with pytest.raises(ValueError, match="masks: 'w' is on .* move one of them with .to"):
            both()
    with pytest.raises(ValueError, match="masks: 'w' is on the meta device"):
        masks.to("meta").save("never written")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_a_network_under_a_mask_keeps_its_dtype(dtype):
    net = torch.nn.Linear(3, 2).to(dtype)
    masks = drawn({"weight": [2, 3]}, 0)
    x = torch.ones(4, 3, dtype=dtype)
    assert torch.allclose(masked(net, masks)(x), torch.nn.functional.linear(x, net.weight * masks["weight"], net.bias))


def test_masks_follow_the_network_to_its_device():
    net = torch.nn.Linear(3, 2, device="meta")
    assert masked(net, drawn({"weight": [2, 3]}, 0))(torch.ones(4, 3, device="meta")).is_meta


def test_modes_of_a_view_are_its_own():
    net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Dropout(0.5))
    view, x = masked(net, drawn({"0.weight": [2, 3]}, 0)), torch.ones(500, 3)
    assert torch.equal(view.eval()(x), view(x)) and net.training and net[1].training
    assert not torch.equal(view.train()(x), view(x))
