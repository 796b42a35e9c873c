"""The documentation as a site in _docs/: nbdev prepares the notebooks, smalldocs renders them.

Nothing in the site comes from elsewhere: formulas are MathML, which browsers draw themselves. With Quarto, `quarto render _proc` makes
another site of the same pages.
"""
import ast
import functools
import html
import importlib
import inspect
import json
import re
import shutil
import sys
from pathlib import Path

import fastcore.docments
import nbdev.processors
import nbdev.serve
import nbformat
import yaml
from fastcore.xtras import dict2obj
from nbdev.config import get_config
from nbdev.process import Processor
from nbdev.processors import FilterDefaults, exec_show_docs
from nbdev.quarto import refresh_quarto_yml
from nbdev.showdoc import show_doc

from modnb.runs.notebook_page import asset, mathml, reading_order

SECTIONS = {"Tutorials": ["tutorials"], "Explanations": ["explanations"], "Explorers": ["explore"],
            "Studies": ["experiments", "experiments/masks", "experiments/gating", "experiments/routing", "experiments/circuits", "experiments/systems"],
            "Reference": ["masks", "routing", "circuits", "systems", "programs", "models", "metrics", "data", "training", "runs", "view", "view/widgets", "bench", "."]}

# browsers that prefer dark pages get the second theme; figures are drawn for white paper
THEMES = {"light": "cosmo", "dark": "darkly"}
FONT = "math.woff2"
STYLES = """
@font-face { font-family: "modnb math"; src: url("math.woff2") format("woff2") }
math { font-family: "modnb math", math; font-size: 1.1em }
math[display=block] { overflow-x: auto; overflow-y: hidden }
html.quarto-dark main img { background: #fff; border-radius: 6px; padding: 4px }
pre { white-space: pre-wrap; font-size: 0.9em }
pre code { white-space: pre-wrap }
table { font-size: 0.9em }
table.dataframe { border: 0; margin-bottom: 1em }
table.dataframe th, table.dataframe td { border: 0; padding: 0.15em 0.45em; text-align: right; font-size: 0.9em }
"""


@functools.cache
def complete_annotations(module):
    "Give a module the names that it imports only for type checkers: annotations are looked up in it."
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    blocks = [n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    lines = ast.Module([line for block in blocks for line in block.body], [])
    exec(compile(lines, module.__file__, "exec"), vars(module))
    # the signature of a dataclass has the annotations of its bases, which are looked up in its own module
    bases = [base for thing in list(vars(module).values()) if isinstance(thing, type) and thing.__module__ == module.__name__ for base in thing.__mro__[1:]]
    for base in bases:
        if base.__module__.startswith("modnb."):
            for name, value in vars(sys.modules[base.__module__]).items(): vars(module).setdefault(name, value)


class shown_from_the_module(Processor):
    "Definitions are documented as they are in the package, where annotations find each other; no cell of a notebook is run."
    def begin(self):
        self.names = {}
        module = next((cell.directives_["default_exp"][0] for cell in self.nb.cells if "default_exp" in cell.directives_), None)
        if module:
            module = importlib.import_module(f"modnb.{module}")
            for loaded in [m for name, m in sys.modules.items() if name.startswith("modnb.")]:
                complete_annotations(loaded)
            self.names = vars(module) | {"show_doc": show_doc}

    def __call__(self, cell):
        if cell.cell_type == "code" and "show_doc(" in cell.source and self.names:
            shown = eval(cell.source, self.names)._repr_markdown_()
            output = {"output_type": "execute_result", "data": {"text/markdown": shown.splitlines(True)}, "metadata": {}, "execution_count": None}
            cell.outputs = dict2obj([output], list_func=list)


@functools.cache
def module_index(name):
    "Lines of a module, and its functions and methods by qualified name."
    lines = Path(sys.modules[name].__file__).read_text(encoding="utf-8").splitlines(keepends=True)

    def named(body, prefix):
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                yield prefix + node.name, node
                yield from named(node.body, f"{prefix}{node.name}.") if isinstance(node, ast.ClassDef) else ()

    return lines, dict(named(ast.parse("".join(lines)).body, ""))


def documented_source(symbol):
    """What the documentation of parameters is read from: of a function its head, of a dataclass everything.

    It replaces `inspect.getsource`, which reads and parses a module for every name in it; heads alone are also parsed in less time."""
    lines, nodes = module_index(symbol.__module__) if symbol.__module__.startswith("modnb.") else ([], {})
    node = nodes.get(symbol.__qualname__)
    if node is None or isinstance(node, ast.ClassDef) != inspect.isclass(symbol):
        return inspect.getsource(symbol)
    first = node.body[0]
    if isinstance(node, ast.ClassDef) or first.lineno == node.lineno:
        return "".join(lines[min(n.lineno for n in (node, *node.decorator_list)) - 1:node.end_lineno])
    return "".join(lines[node.lineno - 1:first.lineno - 1]) + " " * first.col_offset + "...\n"


class Prepared(FilterDefaults):
    def base_procs(self):
        return [shown_from_the_module if p is exec_show_docs else p for p in super().base_procs()]


def sidebar(nbs):
    "Pages in the order in which one reads: tutorials first, the reference by package, in each folder by number."
    def pages(folder):
        return [p.relative_to(nbs).as_posix() for p in sorted((nbs / folder).glob("*.ipynb"), key=lambda p: (p.stem != "start_here", p.name)) if p.name[0] not in "_." and p != nbs / "index.ipynb"]

    def entries(title, folders):
        for folder in folders:
            name = folder.rpartition("/")[2]
            if found := pages(folder):
                yield from found if folder == folders[0] and title != "Reference" else [{"section": "files and names" if name == "." else name, "contents": found}]

    contents = ["index.ipynb", *({"section": title, "contents": list(entries(title, folders))} for title, folders in SECTIONS.items())]
    listed = set(re.findall(r"[\w/.-]+\.ipynb", json.dumps(contents)))
    missing = {p.relative_to(nbs).as_posix() for p in nbs.rglob("*.ipynb") if not re.search(r"/[._]", p.as_posix()[len(nbs.as_posix()):])} - listed
    if missing:
        raise SystemExit(f"SECTIONS of {Path(__file__).name} says nothing about the folders of {', '.join(sorted(missing))}")
    return {"website": {"repo-actions": False, "sidebar": {"style": "docked", "collapse-level": 1, "contents": contents}}}


def put_report_first(folder):
    "Pages of experiments begin with question, verdict and report, as the pages of their runs do."
    for path in folder.glob("experiments/*/*.ipynb"):
        notebook = nbformat.read(path, 4)
        notebook.cells = reading_order(notebook.cells)
        nbformat.write(notebook, path)


def formulas(text):
    "A page with its formulas as MathML and without the scripts that would fetch a renderer."
    def drawn(match):
        return mathml(html.unescape(match[2])[2:-2], display=match[1] == "display")

    text = re.sub(r'<span class="math (inline|display)">(.*?)</span>', drawn, text, flags=re.S)
    return re.sub(r"<(script|link)\b[^>]*katex[^>]*>(</script>)?|<script>[^<]*renderMathInElement[^<]*</script>", "", text)


def links(text, page, ids, host, repository):
    """A page whose links to definitions lead to the pages that are there.

    nbdev links every word in backticks that is the name of some definition, and gives pages the names of modules. Here a word is a link
    where it can be nothing else: with an underscore or a capital letter. Until the project has an address, nothing links to its host.
    """
    named = {re.sub(r"(^|/)\d+_", r"\1", p): p for p in ids}

    def mended(match):
        target, anchor, inside = named.get(match[1]), match[2], match[3]
        sure = re.search(r"(?!^)_|[A-Z]", re.sub("<.*?>", "", inside)) and target and anchor in ids[target]
        return f'<a href="{"../" * page.count("/")}{target}#{anchor}">{inside}</a>' if sure else inside

    text = re.sub(rf'<a href="{re.escape(host)}/([\w/]+\.html)#([\w.]+)"[^>]*>(.*?)</a>', mended, text)
    text = re.sub(rf"\[`([^`]+)`\]\({re.escape(host)}/[^)]*\)", r"\1", text)  # in signatures, where no link can be
    if host.endswith(".example"):
        text = re.sub(rf'<div class="toc-actions">.*?</div></div>|<a href="{re.escape(repository)}[^>]*>source</a>', "", text)
    return text


def finish(site, host, repository):
    "What the tools leave undone: formulas and their font, links, fonts that a theme would fetch."
    texts = {p.relative_to(site).as_posix(): formulas(p.read_text(encoding="utf-8")) for p in site.rglob("*.html")}
    ids = {name: set(re.findall(r'\bid="([^"]+)"', text)) for name, text in texts.items()}
    for name, text in texts.items():
        (site / name).write_text(links(text, name, ids, host, repository), encoding="utf-8")
    (site / FONT).write_bytes(asset(FONT))
    (site / "math-OFL.txt").write_bytes(asset("OFL.txt"))
    for sheet in (site / "site_libs").rglob("*.css"):
        sheet.write_text(re.sub(r"@import url\(https?:[^)]*\);?", "", sheet.read_text(encoding="utf-8")), encoding="utf-8")


def render(folder):
    """Pages by smalldocs, in this process. What it computes again for each token and for each entry of each sidebar is remembered:
    the entries of a folder's pages differ only in which one is the page itself."""
    try:
        import smalldocs.highlight
        import smalldocs.layout
        import smalldocs.site
    except ImportError:
        raise SystemExit(f"the notebooks are prepared in {folder.name}/; to render them, install smalldocs with pip and run `make docs` again") from None
    from fastcore.xml import Safe, to_xml

    entry, href, known = smalldocs.layout.Layout.side_item, smalldocs.layout.Layout.href, {}

    def remembered(function, self, key, *given):
        key = (function, self.page.out.parent, *key)
        if key not in known:
            made = function(self, *given)
            known[key] = made if isinstance(made, str) else Safe(to_xml(made, indent=False))
        return known[key]

    def side_item(self, item, depth):
        plain = not item.sep and not item.section
        return remembered(entry, self, (id(item), item.page is self.page), item, depth) if plain else entry(self, item, depth)

    smalldocs.layout.Layout.side_item = side_item
    smalldocs.layout.Layout.href = lambda self, address: remembered(href, self, (address,), address)
    smalldocs.highlight.css_class = functools.cache(smalldocs.highlight.css_class)
    smalldocs.highlight.get_lexer_by_name = functools.cache(smalldocs.highlight.get_lexer_by_name)
    yaml.SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    smalldocs.site.build(folder)


if __name__ == "__main__":
    cfg = get_config()
    refresh_quarto_yml()  # not nbdev_docs: without Quarto, that one tries to install it
    (cfg.nbs_path / "sidebar.yml").write_text(yaml.dump(sidebar(cfg.nbs_path), sort_keys=False))
    (cfg.nbs_path / "styles.css").write_text(STYLES)
    nbdev.serve.FilterDefaults = Prepared
    fastcore.docments.getsource = functools.cache(documented_source)  # it asks twice
    names = nbdev.processors._def_names
    nbdev.processors._def_names = lambda cell, shown: names(cell, shown)[::-1]  # it puts the last definition of a cell first
    cache = nbdev.serve.proc_nbs(cfg.nbs_path, force=True, n_workers=0)
    settings = cache / "_quarto.yml"
    settings.write_text(settings.read_text().replace("theme: cosmo", f"theme: {json.dumps(THEMES)}"))
    put_report_first(cache)
    render(cache)
    shutil.rmtree(cfg.doc_path, ignore_errors=True)
    shutil.move(cache / cfg.doc_path.name, cfg.doc_path)
    finish(cfg.doc_path, cfg.doc_host, cfg.git_url)
    print(f"open {cfg.doc_path.name}/index.html")
