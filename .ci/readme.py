"""README.md from nbs/index.ipynb: prose, code and the outputs that were saved with them; CHANGELOG.md from the notebook with the changes.
`readme.py ROOT` works on another checkout.

Cells under `#| hide` are left out; `#| echo: false` keeps only the outputs, `#| output: false` only the code. Images become files in
nbs/images/. Links of the notebook start at nbs/, links of the README at the top; those that lead to a file are rewritten.
Equal notebooks make equal bytes.
"""
import base64
import json
import re
import sys
from pathlib import Path

HEAD = "<!-- made from nbs/index.ipynb by `make export`: edit that, not this -->\n\n"
IMAGES = {"image/png": "png", "image/jpeg": "jpg", "image/svg+xml": "svg"}


def text(value):
    return "".join(value)


def directives(source):
    """The directives at the top of a cell, and the rest."""
    found = re.match(r"(\s*#\s*\|.*(\n|$))*", source)[0]
    return dict(re.findall(r"#\s*\|\s*([\w-]+):?[ \t]*(.*)", found)), source[len(found):].strip("\n")


def fenced(code, language=""):
    ticks = "`" * max(3, *(len(run) + 1 for run in re.findall("`{3,}", code)), 3)
    return f"{ticks}{language}\n{code}\n{ticks}"


def table(html):
    """HTML that survives on a code host: no style sheet, and no blank line, which would end it."""
    html = re.sub(r"<style.*?</style>|</?div[^>]*>", "", html, flags=re.S)
    return "\n".join(line.strip() for line in html.splitlines() if line.strip())


def shown(output, images):
    """One output as Markdown: the richest form that a README can show; images are collected."""
    if output["output_type"] == "stream":
        return fenced(text(output["text"]).rstrip("\n")) if output["name"] == "stdout" else ""
    data = output.get("data", {})
    if "text/markdown" in data:
        return text(data["text/markdown"]).strip()
    for mime, suffix in IMAGES.items():
        if mime in data:
            raw = text(data[mime])
            name = f"index-{len(images) + 1}.{suffix}"
            images[name] = raw.encode() if suffix == "svg" else base64.b64decode(raw)
            return f"![{output.get('metadata', {}).get('alt', '')}](images/{name})"
    if "text/html" in data:
        return table(text(data["text/html"]))
    return fenced(text(data["text/plain"]).rstrip("\n")) if "text/plain" in data else ""


def blocks(cell, images):
    """The pieces of one cell."""
    if cell["cell_type"] == "markdown":
        yield text(cell["source"]).strip()
    if cell["cell_type"] != "code":
        return
    flags, code = directives(text(cell["source"]))
    if "hide" in flags or flags.get("include") == "false":
        return
    if code and flags.get("echo") != "false" and "hide_input" not in flags:
        yield fenced(code, "python")
    if flags.get("output") != "false" and "hide_output" not in flags:
        for output in cell["outputs"]:
            yield shown(output, images)


def relocate(markdown, root):
    """Links that lead to a file below nbs/, as seen from the top."""
    def move(match):
        target = match[2]
        inside = (root / "nbs" / target.partition("#")[0]).resolve()
        if re.match(r"[a-z]+:|#|/", target) or not inside.exists():
            return match[0]
        return match[1] + inside.relative_to(root).as_posix() + target[len(target.partition("#")[0]):] + match[3]

    parts = re.split(r"(^(`{3,}).*?^\2$)", markdown, flags=re.M | re.S)  # code between fences stays as it is
    for i in range(0, len(parts), 3):
        parts[i] = re.sub(r"""(\]\(|(?:src|href)=["'])([^)"'\s]+)([)"'\s])""", move, parts[i])
    return "".join(p for i, p in enumerate(parts) if i % 3 < 2)


def changelog(root):
    "CHANGELOG.md from its notebook, which has only prose."
    source = "nbs/explanations/03_changelog.ipynb"
    cells = json.loads((root / source).read_text(encoding="utf-8"))["cells"]
    body = "\n\n".join(text(cell["source"]) for cell in cells)
    return HEAD.replace("nbs/index.ipynb", source) + body + "\n"


def main(root):
    cells = json.loads((root / "nbs/index.ipynb").read_text(encoding="utf-8"))["cells"]
    images = {}
    body = "\n\n".join(b for cell in cells for b in blocks(cell, images) if b)
    folder = root / "nbs/images"
    for old in folder.glob("index-*"):
        if old.name not in images:
            old.unlink()
    for name, data in images.items():
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    (root / "README.md").write_text(HEAD + relocate(body, root) + "\n", encoding="utf-8", newline="\n")
    (root / "CHANGELOG.md").write_text(changelog(root), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1]).resolve())
