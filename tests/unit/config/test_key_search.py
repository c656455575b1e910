"""``ullava show KEY``: what a key means, found by its dotted name or its last word."""

from __future__ import annotations

from typing import Any

from ullava.config.described import DOCUMENTS, keys_of
from ullava.config.key_search import find_keys, tables_of


def test_every_key_is_found_by_its_full_name() -> None:
    count = 0
    for document, root in DOCUMENTS.items():
        for cls, places in tables_of(root).items():
            for key in keys_of(cls):
                for name in [f"{place}.{key.name}" for place in places] or [key.name]:
                    found = [item for item in find_keys(name) if item.document == document]
                    assert [item for item in found if item.key == key and name in item.places], f"{document}: {name}"
                    count += 1
    assert count > 200


def test_a_name_of_the_files_own_may_stand_in_it() -> None:
    (found, *_) = find_keys("dataset.coco.augment.crop")
    assert (found.document, found.places) == ("train", ("dataset.NAME.augment.crop",))
    assert find_keys("coco.augment.nonsense") == [] == find_keys("augment.crop.coco")


def test_the_command_tells_a_key(command: Any) -> None:
    code, out, _ = command("show", "augment.crop")
    assert code == 0
    assert out.startswith("train: dataset.NAME.augment.crop, eval_dataset.NAME.augment.crop\n")
    assert "number, 0 or more, 1 or less; default: 0.0" in out and "RandomResizedCrop" in out
    code, out, _ = command("show", "tiny")  # a model before it is anything else
    assert code == 0 and out.startswith("# ")


def test_what_is_neither_file_nor_key(command: Any) -> None:
    code, _, err = command("show", "min_aera")
    assert code == 2 and err == "error: no model, dataset, config or key 'min_aera'; did you mean 'min_area'?\n"
    code, _, err = command("show", "min_area", "a=1")
    assert code == 2 and "min_area is a key: leave out a=1" in err
