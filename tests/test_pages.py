"""Report pages and their font, without a browser: nothing is fetched, contents lead somewhere, code is folded."""
import html
import json
import re
from html.parser import HTMLParser

import pytest
from tree import ROOT, tracked

from modnb.runs.notebook_page import asset, mathml, to_html

CHOSEN = ("masks/add_mul", "gating/rules", "routing/eight_maps", "systems/arithmetic", "systems/external_memory")
LIMIT = 2 * 2**20  # bytes of a page
VOID = {"img", "meta", "link", "br", "hr", "input", "col", "wbr"}


class Page(HTMLParser):
    "What a page refers to, its anchors, and what is outside of `<details>`: code, formulas as they were written."

    def __init__(self, text):
        super().__init__()
        self.open, self.fetched, self.links, self.anchors, self.tags, self.bare, self.dollars = [], [], [], [], set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.tags.add(tag)
        self.open += [] if tag in VOID else [tag]
        self.anchors += [given["id"]] if "id" in given else []
        if tag == "a":
            self.links.append((given["href"], "nav" in self.open))
        else:
            self.fetched += [v for k, v in attributes if k in ("src", "href", "srcset", "data", "poster") and not v.startswith("data:")]

    def handle_endtag(self, tag):
        if tag in self.open:
            del self.open[len(self.open) - 1 - self.open[::-1].index(tag):]

    def handle_data(self, data):
        if not {"details", "style"} & set(self.open):
            self.bare += re.findall("from __future__ import", data)
            self.dollars += re.findall(r"\$[^$]*\\[a-z]+[^$]*\$", data)


def formulas(notebook):
    "Formulas of a notebook's texts, as they were written."
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    text = "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    return [a or b for a, b in re.findall(r"\$\$(.+?)\$\$|\$([^$\n]+?)\$", re.sub(r"`[^`]*`", "", text), flags=re.S)]


@pytest.mark.parametrize("name", CHOSEN)
def test_report_page_needs_nothing_else(name, tmp_path):
    notebook = ROOT / "nbs" / "experiments" / f"{name}.ipynb"
    data = tmp_path / "result.parquet"
    data.touch()
    text = to_html(notebook, tmp_path / "report.html", files=[data, tmp_path / "nowhere"]).read_text(encoding="utf-8")
    page = Page(text)
    contents = [href.removeprefix("#") for href, inside in page.links if inside]
    assert not page.fetched and not page.tags & {"script", "link", "iframe", "object", "embed"}
    assert not re.search(r"@import|url\((?!data:)", text) and str(ROOT) not in text
    assert len(contents) > 10 and set(contents) <= set(page.anchors) and len(page.anchors) == len(set(page.anchors))
    assert "details" in page.tags and not page.bare
    assert len(text.encode()) <= LIMIT
    assert page.links[-1] == ("result.parquet", False)
    assert ("math" in page.tags) == ("@font-face" in text) == bool(formulas(notebook))
    assert not page.dollars


def test_font_has_the_signs_of_all_formulas(tmp_path):
    "Those of every notebook; letters of a variable are drawn in italics."
    pytest.importorskip("brotli")
    from fontTools.ttLib import TTFont

    (tmp_path / "math.woff2").write_bytes(asset("math.woff2"))
    font = TTFont(tmp_path / "math.woff2")
    written = {f for p in tracked() if p.suffix == ".ipynb" for f in formulas(p)}
    signs = {s for f in written for s in html.unescape(re.sub("<.*?>", "", mathml(f)))} - {"\n"}
    assert len(written) > 100 and not signs - set(map(chr, font.getBestCmap()))
    assert "MATH" in font and 0x1D465 in font.getBestCmap()  # an italic x
