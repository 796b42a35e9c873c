"""What tests/style.py measures, as rules: for the whole house where they hold everywhere, else for the packages where they do."""
import pytest

from style import cells, measure, ROOT

WIDE = {"experiments", "masks", "routing", "view"} # not yet within 120 columns
PACKED = WIDE # not yet one assignment a line
ATTACHED = {"experiments", "view"} # not yet with whole classes
MEASURES = measure()


@pytest.mark.parametrize("package", sorted(MEASURES))
@pytest.mark.parametrize("kind, open_", [("long_lines", WIDE), ("packed", PACKED), ("attached", ATTACHED)])
def test_package(package, kind, open_):
    found = getattr(MEASURES[package], kind)
    if package in open_:
        pytest.skip(f"{len(found)} places")
    assert not found, "\n".join(found)


@pytest.mark.parametrize("package", ["bench", "data", "metrics", "models", "runs", "systems", "training", ""])
def test_all_cells_have_at_most_120_columns(package):
    "Also of lessons and tests; the empty name is for the notebooks at the top."
    found = []
    for path in sorted((ROOT / "nbs" / package).glob("[0-9]*.ipynb")):
        for i, source in cells(path):
            found += [f"{path.name}[{i}]: {line[:80]}" for line in source.splitlines() if len(line) > 120]
    assert not found, "\n".join(found)
