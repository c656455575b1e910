"""Expressions of clips from question to figure: a function that follows things, finished results, mask images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ullava.config.load import load_config
from ullava.config.schema import DatasetEntry, EvalRecipe
from ullava.data.loading.build import build_dataset
from ullava.data.loading.descriptor import load_descriptor
from ullava.errors import ConfigError, DataError, UserError
from ullava.evaluation.run import check_entries, evaluate, evaluate_recipe
from ullava.evaluation.video_answers import FollowedAnswers, StoredAnswers
from ullava.evaluation.video_submission import write_submission
from ullava.geometry import VideoMasks
from ullava.resources import find
from ullava.structures import Clip
from ullava.synthetic.write_tracks import draw_track_world

NAME = "shapes_video_refer"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_track_world(tmp_path_factory.mktemp("refer") / "world", 3, 11, "train", progress=False)


@pytest.fixture(scope="module")
def dataset(world: Path) -> Any:
    return build_dataset(NAME, DatasetEntry(), world)


def recipe_of(world: Path, **more: Any) -> EvalRecipe:
    return EvalRecipe(dataset={NAME: DatasetEntry()}, data_root=str(world), bootstrap=5, **more)


@pytest.mark.parametrize("name", [NAME, "eval_mevis", "eval_revos", "eval_ref_youtube_vos", "eval_ref_davis17"])
def test_recipes_ask_for_masks_of_clips(name: str) -> None:
    recipe = load_config(EvalRecipe, find("configs", f"eval/{name}.yaml"))
    check_entries(recipe)
    descriptors = [load_descriptor(entry.dataset or label)[1] for label, entry in recipe.dataset.items()]
    assert [config.task for config in descriptors] == ["rvos"]


class Tracker:
    """Knows the truth, and gives the first frame's mask in every frame; ``stops_after`` calls it is interrupted."""

    def __init__(self, dataset: Any, stops_after: int = 10**6) -> None:
        self.truth = {
            (sample.videos[0].path, sample.truth["expression"]): sample.truth["masks"]
            for item in range(len(dataset))
            for sample in dataset.queries(item)
        }
        self.stops_after = stops_after
        self.asked: list[tuple[Path, str]] = []

    def __call__(self, clip: Clip, expression: str) -> Sequence[VideoMasks]:
        if len(self.asked) == self.stops_after:
            raise KeyboardInterrupt
        self.asked.append((clip.path, expression))
        true = self.truth[clip.path, expression]
        if true.is_absent:
            return (
                []
                if len(expression) % 2
                else [VideoMasks.from_masks([np.eye(*true.size_hw, dtype=bool)] * len(true), true.size_hw)]
            )
        return [replace(true, counts=(true.counts[0],) * len(true))]


@pytest.fixture(scope="module")
def run(world: Path, dataset: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("eval") / "out"
    follower = FollowedAnswers(Tracker(dataset), "still")
    metrics = evaluate(follower, {NAME: dataset}, recipe_of(world), out, progress=False)
    assert metrics is not None
    return out, metrics


def result(metrics: dict[str, Any]) -> dict[str, Any]:
    (one,) = metrics["results"]
    return {key: one[key] for key in ("task", "n", "metrics", "intervals")}


def test_a_function_is_measured_and_the_truth_is_all_right(world: Path, dataset: Any, run: Any, tmp_path: Path) -> None:
    figures = run[1]["results"][0]["metrics"]
    assert 20 < figures["J&F"] < 95 and figures["J decay"] > 0 and figures["T-acc"] == 100
    assert set(figures) >= {"J", "F", "J recall", "F recall", "F decay", "N-acc"}
    lines = [json.loads(line) for line in (run[0] / "predictions.jsonl").read_text().splitlines()]
    assert {line["task"] for line in lines} == {"rvos"} and len(lines) == run[1]["results"][0]["n"]
    assert lines[0]["clip"] == "000000" and lines[0]["expression_id"] == "0"
    truth = Tracker(dataset).truth
    perfect = FollowedAnswers(lambda clip, words: [truth[clip.path, words]], "perfect")
    found = evaluate(perfect, {NAME: dataset}, recipe_of(world), tmp_path / "perfect", progress=False)
    assert found is not None and found["results"][0]["metrics"]["J&F"] == 100


def test_an_interrupted_run_goes_on_where_it_was(world: Path, dataset: Any, run: Any, tmp_path: Path) -> None:
    out, first = tmp_path / "out", Tracker(dataset, stops_after=len(dataset.queries(0)) + 1)
    recipe = recipe_of(world, batch_size=1)
    with pytest.raises(KeyboardInterrupt):
        evaluate(FollowedAnswers(first, "still"), {NAME: dataset}, recipe, out, progress=False)
    second = Tracker(dataset)
    metrics = evaluate(FollowedAnswers(second, "still"), {NAME: dataset}, recipe, out, progress=False)
    assert metrics is not None and result(metrics) == result(run[1])
    assert {clip.name for clip, _ in second.asked} == {"000001", "000002"}
    with pytest.raises(ConfigError, match="holds another evaluation"):
        evaluate(FollowedAnswers(second, "other"), {NAME: dataset}, recipe, out, progress=False)


def test_finished_lines_and_mask_images_give_the_same_figures(
    world: Path, run: Any, tmp_path: Path, command: Any
) -> None:
    lines, masks = run[0] / "predictions.jsonl", tmp_path / "masks"
    config = tmp_path / "eval.yaml"
    config.write_text(f"data_root: {world}\nbootstrap: 5\ndataset: {{{NAME}: {{}}}}\n")
    for results, out, more in ((lines, "a", ["--submission", str(masks)]), (masks, "b", [])):
        line = ["eval", str(config), "--results", str(results), "--out", str(tmp_path / out), "--json", *more]
        code, told, err = command(*line)
        assert code == 0, err
        found = json.loads(told)
        assert result(found) == result(run[1]) and found["model"] == str(results)
    first = sorted((masks / "000000" / "0").iterdir())
    frames = json.loads((world / "meta_expressions.json").read_text())["videos"]["000000"]["frames"]
    assert [path.name for path in first] == [f"{frame}.png" for frame in frames]
    shown = np.asarray(Image.open(first[0]))
    assert shown.dtype == np.uint8 and set(np.unique(shown)) == {0, 255}
    code, _, err = command("eval", str(config), "--results", str(lines), "--submission", str(masks))
    assert code == 2 and "exists and is not an empty folder" in err


def _new(folder: Path) -> Path:
    """A folder that no evaluation has claimed yet."""
    return folder / f"out{len(list(folder.glob('out*')))}"


def test_results_that_do_not_fit_are_refused_by_line(world: Path, run: Any, tmp_path: Path) -> None:
    lines = (run[0] / "predictions.jsonl").read_text().splitlines()
    path = tmp_path / "results.jsonl"

    def refusal(*changed: str) -> str:
        path.write_text("\n".join(changed) + "\n")
        with pytest.raises(UserError) as caught:
            evaluate_recipe(recipe_of(world), _new(tmp_path), results=path, progress=False)
        return "\n".join(caught.value.problems)

    first = json.loads(lines[0])
    short = json.loads(lines[0])
    short["objects"] = [{"masks": {"size": [5, 5], "counts": [None]}}]
    assert f"{path}: no answer to expression 0 of clip 000000" in refusal(*lines[1:])
    assert f"{path}:2: expression 0 of clip 000000 is answered in line 1 already" in refusal(lines[0], *lines)
    assert ":1: 'clip' has to be text" in refusal(json.dumps({key: first[key] for key in first if key != "clip"}))
    assert ":2: not JSON" in refusal(lines[0], "{")
    assert ":1: objects[0]: 1 masks of 5 x 5 pixels, the clip has" in refusal(json.dumps(short), *lines[1:])
    assert ":1: objects[0]: has to be an object with 'masks'" in refusal(
        json.dumps(first | {"objects": [{}]}), *lines[1:]
    )
    assert ":1: objects[0]: masks: no 'counts'" in refusal(
        json.dumps(first | {"objects": [{"masks": {"size": [5, 5]}}]}), *lines[1:]
    )


def test_mask_images_that_do_not_fit_are_refused_by_name(world: Path, dataset: Any, tmp_path: Path) -> None:
    sample = dataset.queries(0)[0]
    height, width = sample.truth["height"], sample.truth["width"]

    def refusal() -> str:
        with pytest.raises(UserError) as caught:
            evaluate_recipe(recipe_of(world), _new(tmp_path), results=tmp_path / "masks", progress=False)
        return caught.value.problems[0]

    place = tmp_path / "masks" / "000000" / "0"
    place.mkdir(parents=True)
    assert "holds no .png" in refusal()
    Image.new("L", (3, 3)).save(place / "00000.png")
    assert f"{place / '00000.png'}: has 3 x 3 pixels, the clip's frames {width} x {height}" in refusal()
    gray = np.arange(height * width, dtype=np.uint8).reshape(height, width)
    Image.fromarray(gray).save(place / "00000.png")
    assert "00000.png: holds 256 gray values; a mask is black and one other" in refusal()
    Image.new("L", (width, height)).save(place / "00000.png")
    assert f"{place / '00001.png'}: no such image" in refusal()


def test_what_gives_no_masks_of_clips_is_refused(world: Path, dataset: Any, tmp_path: Path) -> None:
    class Words:
        name = "words"

    with pytest.raises(ConfigError, match="wants masks through a video, which this model does not make"):
        evaluate(Words(), {NAME: dataset}, recipe_of(world), tmp_path / "a", progress=False)  # type: ignore[arg-type]
    follower = FollowedAnswers(lambda clip, words: [], "none")
    with pytest.raises(ConfigError, match="has the protocol generate, not teacher_forced"):
        recipe = recipe_of(world, protocol="teacher_forced")
        evaluate(follower, {NAME: dataset}, recipe, tmp_path / "b", progress=False)
    with pytest.raises(DataError, match="no such file of results"):
        StoredAnswers(tmp_path / "none.jsonl")


def test_masks_of_other_frames_are_a_bad_sample_by_name(world: Path, dataset: Any, tmp_path: Path) -> None:
    follower = FollowedAnswers(lambda clip, words: [VideoMasks.absent((4, 4), 2)], "wrong")
    with pytest.raises(DataError, match=f"{NAME}/drawn/0/0: 2 frames of 4 x 4 pixels against"):
        evaluate(follower, {NAME: dataset}, recipe_of(world), tmp_path / "out", progress=False)


def test_expressions_without_published_truth_are_answered_and_not_judged(world: Path, tmp_path: Path) -> None:
    meta = json.loads((world / "meta_expressions.json").read_text())["videos"]
    root = tmp_path / "mevis" / "valid"
    root.mkdir(parents=True)
    (root / "JPEGImages").symlink_to(world / "JPEGImages")
    said = {number: {"exp": one["exp"]} for number, one in meta["000000"]["expressions"].items()}
    meta = {"000000": {"expressions": said, "frames": meta["000000"]["frames"]}}
    (root / "meta_expressions.json").write_text(json.dumps({"videos": meta}))
    dataset = build_dataset("mevis", DatasetEntry(split="valid"), tmp_path)
    follower = FollowedAnswers(lambda clip, words: [], "none")
    metrics = evaluate(follower, {"mevis": dataset}, recipe_of(world), tmp_path / "out", progress=False)
    assert metrics is not None
    (one,) = metrics["results"]
    assert one["metrics"] == {} and one["n"] == len(said)
    assert one["left_out"]["J&F"] == f"the truth of {len(said)} expressions is not published"


def test_a_submission_stays_in_its_folder(world: Path, tmp_path: Path) -> None:
    meta = json.loads((world / "meta_expressions.json").read_text())["videos"]
    root = tmp_path / "mevis" / "valid"
    root.mkdir(parents=True)
    (root / "JPEGImages").symlink_to(world / "JPEGImages")
    clip = {"expressions": {"../../../out": {"exp": "it"}}, "frames": meta["000000"]["frames"]}
    (root / "meta_expressions.json").write_text(json.dumps({"videos": {"000000": clip}}))
    dataset = build_dataset("mevis", DatasetEntry(split="valid"), tmp_path)
    follower = FollowedAnswers(lambda clip, words: [], "none")
    evaluate(follower, {"mevis": dataset}, recipe_of(world), tmp_path / "run", progress=False)
    with pytest.raises(DataError, match="it leads out with '..'"):
        write_submission(tmp_path / "run" / "predictions.jsonl", dataset, tmp_path / "masks")
    assert not (tmp_path / "masks").exists() and not (tmp_path / "out").exists()
