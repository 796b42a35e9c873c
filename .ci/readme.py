"""README.md from nbs/index.ipynb: hidden cells and directives dropped, pictures written to nbs/images."""
import re
import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parents[1]
HEAD = "<!-- Made from nbs/index.ipynb by `make export`: edit there. -->\n\n"


def readme(root: Path = ROOT) -> tuple[str, dict[str, bytes]]:
    "The text, and the pictures by file name."
    nb = nbformat.read(root / "nbs" / "index.ipynb", as_version=4)
    nb.cells = [c for c in nb.cells if c.cell_type != "raw" and not re.search(r"^#\s*\|\s*hide\s*$", c.source, re.M)]
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell["source"] = re.sub(r"^#\s*\|.*\n?", "", cell.source, flags=re.M)
            cell["outputs"] = [o for o in cell.outputs if o.output_type != "stream" or o.name == "stdout"]
    body, resources = MarkdownExporter().from_notebook_node(nb)
    pictures = {}
    for i, (name, data) in enumerate(resources["outputs"].items()):
        pictures[f"readme-{i}{Path(name).suffix}"] = data
        body = body.replace(f"({name})", f"(nbs/images/readme-{i}{Path(name).suffix})")
    body = body.replace("(images/", "(nbs/images/")
    return HEAD + re.sub(r"\n{3,}", "\n\n", body).strip() + "\n", pictures


if __name__ == "__main__":
    text, pictures = readme()
    (ROOT / "README.md").write_text(text, encoding="utf-8")
    for name, data in pictures.items():
        (ROOT / "nbs" / "images").mkdir(exist_ok=True)
        (ROOT / "nbs" / "images" / name).write_bytes(data)
    sys.exit(0)
