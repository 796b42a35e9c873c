"""What people read: links between notebooks lead somewhere, public names are explained, and the site is built from both."""
import ast
import re
from html.parser import HTMLParser
from urllib.parse import unquote

from tree import ROOT, copy_to, python, tracked

FILES = tracked()
MODULES = [p for p in FILES if p.is_relative_to(ROOT / "modnb") and p.suffix == ".py"]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def public(path):
    "Functions and classes that a module offers, with the lines they are written in."
    text = path.read_text(encoding="utf-8")
    offered = {name for node in ast.parse(text).body if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__" for name in ast.literal_eval(node.value)}
    nodes = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in offered]
    return [n for n in nodes if "overload" not in map(ast.unparse, n.decorator_list)], text.splitlines()


def test_public_names_are_explained():
    "A docstring for each, and what is in a tensor or an array beside it."
    silent, shapeless, count = [], [], 0
    for path in MODULES:
        nodes, lines = public(path)
        for node in nodes:
            count, name, said = count + 1, f"{path.relative_to(ROOT)}: {node.name}", ast.get_docstring(node) or ""
            if not said:
                silent.append(name)
            made = node if isinstance(node, ast.FunctionDef) else next((n for n in node.body if getattr(n, "name", "") == "__init__"), None)
            for argument in (made.args.args + made.args.kwonlyargs if made else []):
                kind = ast.unparse(argument.annotation) if argument.annotation else ""
                if re.search("Tensor|ndarray", kind) and "nn." not in kind and "#" not in lines[argument.lineno - 1] and "[" not in said:
                    shapeless.append(f"{name}: {argument.arg}")
    assert count > 500 and not silent and not shapeless


def own_errors(function):
    "Names of the errors that a function raises itself, not in a function inside of it."
    inner = {id(x) for f in ast.walk(function) if isinstance(f, ast.FunctionDef | ast.Lambda) and f is not function for x in ast.walk(f)}
    return {ast.unparse(x.exc).partition("(")[0] for x in ast.walk(function) if isinstance(x, ast.Raise) and x.exc and id(x) not in inner}


def test_errors_of_functions_are_named():
    "Who calls a function reads what it can raise; `SystemExit` is how commands end."
    silent, count = [], 0
    for path in MODULES:
        nodes, lines = public(path)
        for node in (n for n in nodes if isinstance(n, ast.FunctionDef)):
            if own_errors(node) - {"SystemExit"}:
                count += 1
                said = (ast.get_docstring(node) or "") + "".join(line.partition("#")[2] for line in lines[node.lineno - 1:node.body[0].lineno])
                silent += [] if re.search("[Rr]aise|Error", said) else [f"{path.relative_to(ROOT)}: {node.name}"]
    assert count > 100 and not silent


def test_links_between_notebooks_lead_somewhere():
    import json

    dead, count = [], 0
    for path in (p for p in FILES if p.suffix == ".ipynb"):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            for link in LINK.findall(re.sub(r"`[^`]*`", "", "".join(cell["source"]))) if cell["cell_type"] == "markdown" else []:
                if not re.match("[a-z]+:|#", link):
                    count += 1
                    if not (path.parent / link.partition("#")[0]).exists():
                        dead.append(f"{path.relative_to(ROOT)}: {link}")
    assert count > 50 and not dead


class Links(HTMLParser):
    "Addresses and anchors of a page."

    def __init__(self, text):
        super().__init__()
        self.found, self.anchors, self.fetched = [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name in ("href", "src") and value:
                self.found.append(value)
                if tag != "a" and re.match("https?:|//", value) and ("rel", "canonical") not in attributes:
                    self.fetched.append(value)
            if name in ("id", "name") and value:
                self.anchors.add(value)


def test_site(tmp_path):
    "`make docs` in a copy: a page for each notebook, no dead link, nothing from elsewhere but what a text links to."
    copy = copy_to(tmp_path / "modnb")
    done = python(".ci/docs.py", cwd=copy)
    assert done.returncode == 0, done.stderr[-3000:]
    site = copy / "_docs"
    texts = {p: p.read_text(encoding="utf-8") for p in site.rglob("*.html")}
    pages = {p: Links(text) for p, text in texts.items()}
    assert not [p for p, text in texts.items() if str(copy) in text or str(ROOT) in text], "absolute paths"
    assert sum("<math" in text for text in texts.values()) > 5 and not [p for p, text in texts.items() if 'class="math' in text], "formulas"
    assert "learn_masks" in re.findall(r'<h[1-6][^>]*id="([^"]+)"', texts[site / "masks" / "12_learning.html"]), "the reference has no definitions"
    notebooks = [p for p in FILES if p.suffix == ".ipynb"]
    assert not [n for n in notebooks if (site / n.relative_to(ROOT / "nbs")).with_suffix(".html") not in pages]
    dead = []
    for page, links in pages.items():
        for link in (unquote(link) for link in links.found if not re.match("[a-z]+:|//", link)):
            name, _, anchor = link.partition("#")
            target = (site / name.lstrip("/") if name.startswith("/") else page.parent / name).resolve() if name else page.resolve()
            target = target / "index.html" if target.is_dir() else target
            if not target.exists() or anchor and target in pages and anchor not in pages[target].anchors:
                dead.append(f"{page.relative_to(site)}: {link}")
    assert not dead and not [f"{page.relative_to(site)}: {link}" for page, links in pages.items() for link in links.fetched]
