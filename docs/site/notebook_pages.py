"""A page for every notebook of docs/tutorials: words as they are, code as blocks, nothing of what it prints."""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def notebook_pages() -> dict[str, str]:
    """Return the path of every page on the site -> its text. They lie beside the notebooks: links stay right."""
    return {
        path.relative_to(ROOT).with_suffix(".md").as_posix(): notebook_page(path)
        for path in sorted((ROOT / "docs" / "tutorials").glob("*.ipynb"))
    }


def notebook_page(path: Path) -> str:
    """Return the cells of a notebook as Markdown, with a link to the notebook below the title."""
    title, *cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    first, _, rest = "".join(title["source"]).partition("\n")
    parts = [first, f"As a notebook: [{path.name}]({path.name}).", rest.strip()]
    for cell in cells:
        text = "".join(cell["source"])
        parts.append(f"```python\n{text}\n```" if cell["cell_type"] == "code" else text)
    return "\n\n".join(part for part in parts if part) + "\n"
