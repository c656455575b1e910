"""No two modules of the package import each other, on whatever way round; imports within functions count as well."""

from __future__ import annotations

from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter

import pytest

grimp = pytest.importorskip("grimp", reason="grimp reads the imports; it comes with import-linter (extra 'dev')")


def circle(imports: Mapping[str, set[str]]) -> list[str]:
    """Return the modules of one circle, the first of them again at its end; none where there is none."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_import_circle() -> None:
    graph = grimp.build_graph("ullava", exclude_type_checking_imports=True)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert len(imports) > 300 and "ullava.data.annotations.coco_rows" in imports["ullava.data.annotations.store"]
    assert circle(imports) == []


def test_a_circle_would_be_found() -> None:
    graph = grimp.build_graph("ullava", exclude_type_checking_imports=True)
    graph.add_import(importer="ullava.data.annotations.coco_rows", imported="ullava.data.annotations.store")
    found = circle({module: graph.find_modules_directly_imported_by(module) for module in graph.modules})
    assert set(found) == {"ullava.data.annotations.coco_rows", "ullava.data.annotations.store"}
