"""What a run folder refuses, finds again and forgets; and the image in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ullava.errors import UserError
from ullava.run_lock import LOCK
from ullava.training.reporting.folder import RunFolder, append_json
from ullava.training.reporting.plot import draw_curve


def checkpoint(folder: RunFolder, step: int, complete: bool = True) -> Path:
    path = folder.checkpoints / f"checkpoint-{step}"
    path.mkdir(parents=True)
    if complete:
        (path / "trainer_state.json").write_text("{}")
    return path


def test_a_used_folder_needs_resume(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.check(resume=False)
    folder.prepare("model: tiny\n")
    assert folder.recipe.read_text() == "model: tiny\n"
    with pytest.raises(UserError, match="--resume"):
        folder.check(resume=False)
    folder.check(resume=True)


def test_resume_needs_a_used_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to resume"):
        RunFolder(tmp_path / "new").check(resume=True)
    assert not (tmp_path / "new").exists()


def test_a_run_that_was_killed_before_its_first_file_is_resumed(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text("")
    RunFolder(tmp_path).check(resume=True)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        RunFolder(tmp_path / "file").check(resume=False)


def test_checkpoints_come_newest_first(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.checkpoints_newest_first() == []
    older, newer = checkpoint(folder, 9), checkpoint(folder, 100)
    (folder.checkpoints / "checkpoint-200").write_text("a file")
    assert folder.checkpoints_newest_first() == [(100, newer), (9, older)]


def test_forgetting_drops_what_comes_later(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for step in (4, 8):
        checkpoint(folder, step)
        folder.evaluation(step).mkdir(parents=True)
        folder.append_log({"step": step, "loss": 1.0 / step})
    with folder.train_log.open("a") as stream:
        stream.write('{"step": 9, "lo')
    (folder.drafts / "checkpoint-9").mkdir(parents=True)
    draft = folder.evaluation(4) / f".metrics.json.{'a' * 32}"
    draft.write_text("{")
    folder.forget_after(4)
    assert not draft.exists()
    assert folder.log_lines() == [{"step": 4, "loss": 0.25}]
    assert [path.name for path in folder.checkpoints.iterdir()] == ["checkpoint-4"]
    assert [path.name for path in folder.evaluations.iterdir()] == ["step-4"]


def test_lines_are_appended(tmp_path: Path) -> None:
    append_json(tmp_path / "lines", {"name": "ä"})
    append_json(tmp_path / "lines", {"name": "b"})
    assert (tmp_path / "lines").read_text(encoding="utf-8") == '{"name": "ä"}\n{"name": "b"}\n'


def test_curve_has_a_panel_for_figures(tmp_path: Path) -> None:
    from PIL import Image

    losses = [{"step": step, "loss": 3.0 / step, "loss_ce": 1.0 / step} for step in (1, 2, 3)]
    assert not draw_curve([], tmp_path / "none.png", "none")
    assert not (tmp_path / "none.png").exists()
    assert draw_curve(losses, tmp_path / "one.png", "one")
    assert draw_curve([*losses, {"step": 3, "eval_shapes_res_cIoU": 12.0}], tmp_path / "two.png", "two")
    with Image.open(tmp_path / "one.png") as one, Image.open(tmp_path / "two.png") as two:
        assert two.height == 2 * one.height and one.width == two.width
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.png", "two.png"]
