"""Live widgets out of saved notebooks: without their kernel they would show an error where the picture beside them shows what they showed."""
import json
from pathlib import Path

VIEW = "application/vnd.jupyter.widget-view+json"


def still(notebook: dict) -> dict:
    """The notebook without widget views and widget state; what else an output holds stays."""
    notebook["metadata"].pop("widgets", None)
    for cell in notebook["cells"]:
        for output in cell.get("outputs", ()):
            output.get("data", {}).pop(VIEW, None)
        if "outputs" in cell:
            cell["outputs"] = [o for o in cell["outputs"] if o.get("data", True)]
    return notebook


if __name__ == "__main__":
    for path in sorted((Path(__file__).resolve().parents[1] / "nbs").rglob("*.ipynb")):
        before = path.read_text(encoding="utf-8")
        if VIEW in before or '"widgets": {' in before:
            path.write_text(json.dumps(still(json.loads(before)), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            print(path)
