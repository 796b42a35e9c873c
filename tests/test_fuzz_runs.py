"""Unlikely parameters and grid files: each is read exactly or refused by name, and what was read stays the same wherever it goes."""
import decimal
import fractions
import json
from typing import Literal, Optional

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st

from modnb.runs import Grid, ParameterError, Params, from_notebook, param, signature
from modnb.runs.cli import split_words
from modnb.runs.params import read, specs
from modnb.runs.report import injected
from modnb.runs.runner import Experiment, plan
from modnb.runs.store import as_json, as_params
from modnb.runs.sweeps import parse_yaml

QUIET = dict(derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))


@pytest.fixture
def check(request):
    "A function that tries a property on examples: 50, or 2,000 with --long."
    return settings(max_examples=2000 if request.config.getoption("--long") else 50, **QUIET)


class Toy(Params):
    whole: int = 3
    positive: int = param(1, "at least one", min=1)
    share: float = param(0.5, "of something", min=0, max=1)
    number: Optional[float] = None
    flag: bool = False
    text: str = "a"
    note: Optional[str] = None
    choice: Literal["add", "mul"] = "add"
    size: Literal[4, 8] = 4
    sizes: tuple[int, ...] = (4, 4)
    rates: tuple[float, ...] = (0.1,)
    words: tuple[str, ...] = ("a", "b")
    picks: Optional[tuple[Literal["x", "y"], ...]] = None
    seed: int = 0

    presets = {"quick": dict(whole=9, sizes=(8,))}


TOY = Experiment("toy", Toy, lambda params, log: None)
NAMES = list(specs(Toy))
NUMBERS = st.one_of(st.integers(), st.integers(-(2**70), 2**70), st.floats(), st.fractions(), st.decimals(), st.complex_numbers(), st.booleans())
NUMPY = st.one_of(st.integers(-(2**63), 2**63 - 1).map(np.int64), st.integers(0, 2**64 - 1).map(np.uint64), st.floats(width=32).map(np.float32),
                  st.floats(width=16).map(np.float16), st.booleans().map(np.bool_), st.text().map(np.str_),
                  st.lists(st.integers(-99, 99), max_size=3).map(np.array), st.just(np.datetime64("2026-01-31")))
TEXTS = st.one_of(st.text(), st.text("0123456789._-+exob:,[]() '\"\n\\", max_size=12), st.from_regex(r"[-+]?[0-9_]{1,5}(\.[0-9]{0,3})?(e-?[0-9])?", fullmatch=True),
                  st.sampled_from(["None", "null", "true", "False", "yes", "010", "[008,009]", "0x10", "1:30", "1e-3", "nan", "-inf", "2026-01-31", "9" * 5000, "('a', 'b')", "\ud800", "\0"]))
ONE = st.one_of(NUMBERS, NUMPY, TEXTS, st.none(), st.binary(max_size=4), st.just(object()), st.just(Toy))
ANY = st.recursive(ONE, lambda inner: st.one_of(st.lists(inner, max_size=4), st.tuples(inner, inner), st.dictionaries(st.text(max_size=3), inner, max_size=2),
                                                st.sampled_from([range(3), range(0), frozenset({1}), iter("ab")])), max_leaves=6)
RIGHT = {"whole": st.integers(), "positive": st.integers(1), "share": st.floats(0, 1), "number": st.none() | st.floats(allow_nan=False, allow_infinity=False),
         "flag": st.booleans(), "text": st.text(st.characters(codec="utf-8")), "note": st.none() | st.text(st.characters(codec="utf-8")), "choice": st.sampled_from(["add", "mul"]),
         "size": st.sampled_from([4, 8]), "sizes": st.lists(st.integers(), max_size=4), "rates": st.lists(st.floats(-9, 9), max_size=3),
         "words": st.lists(st.text(st.characters(codec="utf-8")), max_size=3), "picks": st.none() | st.lists(st.sampled_from("xy"), max_size=2), "seed": st.integers(-(2**64), 2**64)}


@given(st.sampled_from(NAMES), ANY)
@example("whole", "9" * 5000)
@example("share", 10**400)
@example("sizes", "[0x10, 0o7]")
@example("text", "\ud800")
@example("words", "[" * 300)
@example("preset", ["quick"])
def any_value(name, value):
    "Read, and then it is the same everywhere; or refused, and the error begins with the name."
    try:
        params = Toy.make({}, value) if name == "preset" else Toy(**{name: value})
    except ParameterError as error:
        assert str(error).startswith(f"{name}: ") and "\n" not in str(error), error
        return
    same_everywhere(params)


@given(st.fixed_dictionaries({}, optional=RIGHT))
def right_values(given):
    "What fits the types is always read, and nothing of it changes."
    params = Toy(**given)
    for name, value in given.items():
        found = getattr(params, name)
        assert found == (tuple(value) if isinstance(value, list) else value) or (name == "note" and value == "None" and found is None)
    same_everywhere(params)


def same_everywhere(params):
    "As a dictionary, as JSON, as texts of a shell, and through a notebook."
    name = signature("toy", params)
    plain = params.to_dict()
    assert all(type(v) in (int, float, bool, str, tuple, type(None)) for v in plain.values())
    about = as_params(json.loads(as_json("params", {"params": plain})))
    for again in (Toy(**plain), Toy(**about)):
        assert again == params and signature("toy", again) == name and again.to_dict() == plain
    for n, v in plain.items():
        if type(v) in (int, float, bool):
            assert read(specs(Toy)[n], str(v)) == v and read(specs(Toy)[n], np.array(v) if abs(v) < 2**63 else v) == v
    assert through_papermill(plain) == params


def through_papermill(plain):
    "Parameters as papermill writes them into a cell, and as the notebook reads them there."
    from papermill.translators import PythonTranslator

    cell = PythonTranslator.codify(injected(Toy, plain, None))
    namespace = {n: s.default for n, s in specs(Toy).items()} | {"PRESET": None}
    exec(cell, namespace) # noqa: S102 - the cell is a list of literals
    return from_notebook(Toy, namespace | {"In": ["", cell]})


KEYS = st.one_of(st.sampled_from([*NAMES, "experiment", "preset", "name", "seeds", "parameters", "method", "value", "values", "<<"]), st.text(max_size=4), st.integers())
VALUES = st.recursive(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6), st.dates(), TEXTS.filter(lambda t: "\ud800" not in t)),
                      lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)), max_leaves=8)
LINES = st.lists(st.tuples(KEYS, TEXTS), max_size=5).map(lambda pairs: "\n".join(f"{k}: {v}" for k, v in pairs))


ONE_WORD = st.from_regex(r"[0-9A-Za-z_.:+-]{1,6}", fullmatch=True)


def dumped(value):
    import yaml

    return yaml.safe_dump(value, allow_unicode=True)


FILES = st.one_of(st.text(max_size=40), LINES, LINES.map(lambda t: "parameters:\n  " + t.replace("\n", "\n  ")), VALUES.map(dumped),
                  st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=3).map(lambda d: dumped({"parameters": d})),
                  st.dictionaries(st.sampled_from(NAMES), st.lists(ONE_WORD, min_size=1, max_size=3), max_size=3).map(
                      lambda d: "parameters:\n" + "\n".join(f"  {n}: [{', '.join(v)}]" for n, v in d.items())))


def any_file(path):
    "A property: the file is a grid, or one sentence says why not."
    @given(FILES)
    @example("seeds: 1000000000000")
    @example("parameters: {preset: quick, runs: x, ask: true, name: 3}")
    @example("parameters: {whole: {whole: null, 0: null}}")
    @example("parameters: {whole: !!int 010}")
    @example("parameters: &a {whole: *a}")
    @example("parameters: {whole: &a [*a]}")
    @example("{" * 3000)
    @example("preset: [quick]")
    @example("? [a]\n: 1")
    @example("parameters: {number: .inf, rates: [[.nan]]}")
    def one_file(text):
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        try:
            grid = Grid.from_yaml(path, experiment=TOY, runs=path.parent / "runs", ask=False)
        except ParameterError as error:
            assert ": " in str(error) and "\n" not in str(error), error
            return
        for run in grid.runs:
            same_everywhere(run.params)
    return one_file


@given(st.sampled_from(["whole", "share", "flag", "text", "choice", "size", "sizes", "words", "rates"]), ONE_WORD)
@example("whole", "010")
@example("text", "010")
@example("text", "yes")
@example("flag", "yes")
@example("whole", "1:30")
@example("whole", "1_000")
@example("share", "1e-3")
@example("whole", "0x1F")
@example("text", "2026-01-31")
@example("sizes", "008")
@example("whole", "+7")
def one_word(name, word):
    "A word means the same to `modnb run`, to `modnb grid` and in a file; it may only be refused."
    def outcome(make):
        try:
            return make()
        except ParameterError:
            return None
    shell = outcome(lambda: plan(TOY, **split_words([f"{name}={word}"])[1]).params)
    words = outcome(lambda: Grid(TOY, **{name: parse_yaml(word, name)}).runs[0].params)
    listed = outcome(lambda: Grid(TOY, **{name: parse_yaml(f"[{word}]", name)}).runs[0].params)
    assert len({p for p in (shell, words, listed) if p is not None}) <= 1


def test_any_value_is_read_exactly_or_refused(check):
    check(any_value)()


def test_right_values_are_never_changed(check):
    check(right_values)()


def test_any_file_is_a_grid_or_a_sentence(check, tmp_path):
    check(any_file(tmp_path / "grid.yaml"))()


def test_a_word_means_the_same_everywhere(check):
    check(one_word)()


def test_numbers_of_other_kinds_are_read_exactly_or_refused():
    assert Toy(share=fractions.Fraction(1, 4)).share == 0.25 and Toy(sizes=range(2)).sizes == (0, 1)
    for value in (decimal.Decimal("0.5"), 0.5j, b"0.5", np.datetime64("2026-01-31")):
        with pytest.raises(ParameterError, match="share"):
            Toy(share=value)
