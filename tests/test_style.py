"""What tests/style.py measures, as rules: bars for each package and for the whole house."""
import pytest

from style import cells, measure, ROOT, share

PACKAGES = ["house", *sorted(p.parent.name for p in (ROOT / "modnb").glob("*/__init__.py"))]


@pytest.fixture(scope="module")
def measures():
    "Takes seconds: these tests share a process."
    found = measure()
    assert sorted(found) == sorted(PACKAGES)
    return found


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("kind", ["long_lines", "packed", "attached"])
def test_package(measures, package, kind):
    found = getattr(measures[package], kind)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("package", PACKAGES)
def test_definitions_are_followed_by_assertions(measures, package):
    assert measures[package].assertions >= 0.8 * measures[package].exports


def test_cells_are_short(measures):
    functions = [lines for m in measures.values() for lines in m.functions]
    classes = [lines for m in measures.values() for lines in m.classes]
    assert share(functions, 0.5) <= 10
    assert share(functions, 0.9) <= 25
    assert share(classes, 0.9) <= 45
    assert max(classes) <= 60


def test_all_cells_have_at_most_120_columns():
    "Also of lessons and tests."
    found = []
    for path in sorted((ROOT / "nbs").glob("**/*.ipynb")):
        if ".ipynb_checkpoints" not in path.parts:
            for i, source in cells(path):
                found += [f"{path.name}[{i}]: {line[:80]}" for line in source.splitlines() if len(line) > 120]
    assert not found, "\n".join(found)
