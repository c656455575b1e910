"""Names and paths of models, datasets and configs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ullava import resources
from ullava.errors import UserError

Write = Callable[[str, str], Path]


@pytest.fixture
def extra(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write("extra/models/mine/model.yaml", "")
    write("extra/datasets/refcoco_plus/dataset.yaml", "")
    write("extra/configs/train/first.yaml", "")
    write("extra/configs/eval/second.yaml", "")
    write("extra/configs/train/second.yaml", "")
    monkeypatch.setenv(resources.ENVIRONMENT, str(tmp_path / "extra"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "extra"


def test_names_are_found_in_the_users_folders_first(extra: Path) -> None:
    assert resources.find("models", "mine") == extra / "models/mine/model.yaml"
    assert resources.find("datasets", "refcoco+") == extra / "datasets/refcoco_plus/dataset.yaml"
    assert resources.find("configs", "train/first") == extra / "configs/train/first.yaml"
    assert resources.find("configs", "first") == extra / "configs/train/first.yaml"
    assert "mine" in resources.names("models")
    assert {"train/first", "train/second", "eval/second"} <= set(resources.names("configs"))


def test_paths_are_found_relative_to_here_and_to_the_searched_folders(extra: Path, write: Write) -> None:
    own = write("mine.yaml", "")
    assert resources.find("configs", "mine.yaml") == own
    assert resources.find("configs", str(own)) == own
    assert resources.find("configs", "configs/train/first.yaml") == extra / "configs/train/first.yaml"
    assert resources.find("models", "models/mine") == extra / "models/mine/model.yaml"
    assert resources.find("models", "./extra/models/mine/model.yaml") == extra / "models/mine/model.yaml"


def test_a_config_name_that_fits_two_files_is_refused(extra: Path) -> None:
    with pytest.raises(UserError, match="could be any of: eval/second, train/second"):
        resources.find("configs", "second")


@pytest.mark.parametrize(
    ("kind", "name", "hint"),
    [
        ("models", "mein", "did you mean 'mine'"),
        ("models", "models/mein", "did you mean 'mine'"),
        ("datasets", "refcoco_plas", "did you mean 'refcoco_plus'"),
        ("configs", "frist", "did you mean 'first'"),
        ("configs", "configs/train/frist.yaml", "did you mean 'train/first'"),
        ("models", "", "no model ''"),
        ("models", "a\0b", "no model"),
    ],
)
def test_what_is_not_there_is_told_with_the_nearest_name(
    extra: Path, kind: resources.Kind, name: str, hint: str
) -> None:
    with pytest.raises(UserError) as caught:
        resources.find(kind, name)
    assert hint in caught.value.problems[0]


def test_the_checkout_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    monkeypatch.delenv(resources.ENVIRONMENT, raising=False)
    monkeypatch.chdir(tmp_path)
    assert resources.checkout() == root
    assert resources.folder("datasets") == root / "datasets"
