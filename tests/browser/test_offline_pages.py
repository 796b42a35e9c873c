"""Reports, the index of a grid and the documentation in a browser without a network: nothing is asked for, formulas are drawn."""
import shutil

import lab as laboratory
import pytest
from seen import Watched

from modnb.runs.notebook_page import to_html

REPORTS = ("masks/add_mul", "gating/rules", "routing/eight_maps", "systems/arithmetic", "systems/external_memory")
DOCS = ("index", "masks/11_learner", "routing/01_laws")
PLAIN = {"systems/external_memory", "index"}  # pages without formulas


@pytest.fixture
def watched(chromium):
    "A function that opens a file without a network, and what the page asked for."
    with Watched(chromium) as found:
        yield found


def check(watched, path, formulas):
    watched.open(path)
    assert watched.problems == [] and watched.requests == []
    drawn = watched.page.locator("math").count()
    assert (drawn > 0) == formulas
    if formulas:
        assert watched.page.evaluate("document.fonts.ready.then(() => [...document.fonts].some(f => f.family.includes('modnb math') && f.status == 'loaded'))")
        assert watched.page.locator("math:has(mi)").first.bounding_box()["height"] > 5


@pytest.mark.parametrize("name", REPORTS)
def test_report(watched, tmp_path, name):
    path = to_html(laboratory.ROOT / "nbs" / "experiments" / f"{name}.ipynb", tmp_path / "report.html")
    check(watched, path, name not in PLAIN)
    code = watched.page.locator("details.code").first
    assert not code.locator("pre").is_visible()
    code.locator("summary").click()
    assert code.locator("pre").is_visible()
    widest = watched.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert widest <= 0, "the page scrolls sideways"


def test_report_in_the_dark_and_on_paper(watched, tmp_path):
    path = to_html(laboratory.ROOT / "nbs" / "experiments" / "masks" / "add_mul.ipynb", tmp_path / "report.html")
    watched.page.emulate_media(color_scheme="dark")
    watched.open(path)
    paper = "getComputedStyle(document.querySelector('{}')).backgroundColor"
    assert watched.page.evaluate(paper.format("body")) == "rgb(21, 24, 28)"
    assert watched.page.evaluate(paper.format(".output img")) == "rgb(255, 255, 255)"
    watched.page.emulate_media(media="print")
    assert watched.page.evaluate(paper.format("body")) == "rgb(255, 255, 255)"
    assert not watched.page.locator("nav.side").is_visible()


def test_index_of_a_grid(watched, tmp_path):
    from screenshots import grid_index

    path = grid_index(tmp_path)
    check(watched, path, formulas=False)
    watched.page.locator("tbody a").first.click()
    watched.page.locator("h1").filter(has_text="Addition").wait_for()
    assert watched.problems == []


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    "The documentation, built in a copy."
    from tree import copy_to, python

    copy = copy_to(tmp_path_factory.mktemp("docs") / "modnb")
    done = python(".ci/docs.py", cwd=copy)
    assert done.returncode == 0, done.stderr[-3000:]
    yield copy / "_docs"
    shutil.rmtree(copy)


@pytest.mark.parametrize("name", DOCS)
def test_documentation(watched, site, name):
    check(watched, site / f"{name}.html", name not in PLAIN)
