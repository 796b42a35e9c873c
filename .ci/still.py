"""What a saved notebook keeps. Live widgets go: without their kernel they would show an error next to the picture of what
they showed. Where the outputs exceed 300 kB, pictures are stored with a palette of 256 colors, which halves them."""
import base64
import io
import json
from pathlib import Path

VIEW = "application/vnd.jupyter.widget-view+json"
LIMIT = 300_000


def still(notebook: dict) -> dict:
    """The notebook without widget views and widget state; what else an output holds stays."""
    notebook["metadata"].pop("widgets", None)
    for cell in notebook["cells"]:
        for output in cell.get("outputs", ()):
            output.get("data", {}).pop(VIEW, None)
        if "outputs" in cell:
            cell["outputs"] = [o for o in cell["outputs"] if o.get("data", True)]
    return notebook


def size(notebook: dict) -> int:
    "Bytes of all outputs."
    return sum(len(json.dumps(cell.get("outputs", []))) for cell in notebook["cells"])


def with_palette(png: str) -> str:
    "A picture (base64) with at most 256 colors, if that makes it smaller."
    from PIL import Image

    picture = Image.open(io.BytesIO(base64.b64decode(png)))
    if picture.mode == "P":
        return png
    written = io.BytesIO()
    picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(written, "PNG", optimize=True, dpi=picture.info.get("dpi"))
    smaller = base64.b64encode(written.getvalue()).decode() + "\n"
    return min(png, smaller, key=len)


def fitted(notebook: dict) -> dict:
    "The notebook, its pictures with palettes if its outputs are over the limit."
    if size(notebook) > LIMIT:
        for cell in notebook["cells"]:
            for output in cell.get("outputs", ()):
                if "image/png" in output.get("data", {}):
                    output["data"]["image/png"] = with_palette("".join(output["data"]["image/png"]))
    return notebook


if __name__ == "__main__":
    for path in sorted((Path(__file__).resolve().parents[1] / "nbs").rglob("*.ipynb")):
        before = path.read_text(encoding="utf-8")
        notebook = json.loads(before)
        if VIEW in before or '"widgets": {' in before or size(notebook) > LIMIT:
            path.write_text(json.dumps(fitted(still(notebook)), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            print(path)
