"""Graphs: what is refused, what a session says of a damaged file, and answers that are those of torch."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tests.unit.modeling.small_sam2 import build_sam2

import ullava
from ullava.errors import UserError, WeightsError
from ullava.inference.load import RUNTIMES
from ullava.modeling.graphs.parts import refuse_unfit
from ullava.modeling.graphs.sessions import NOTE_FILE, PARTS, SESSIONS, Graph, read_graphs
from ullava.structures import Answer, Region, Sample, Turn

QUESTIONS = (
    "Segment {}.", "Where is {}?", "Put a box around {}.", "Give the mask and box of {}.", "Locate {} with a box.",
    "Caption this picture.", "Find {}.", "Show me {}.",
)  # fmt: skip

PACKAGES = {"onnx": "onnxruntime", "openvino": "openvino"}
"""What a runtime is run by."""


def test_a_runtime_is_known_everywhere():
    assert ("torch", *SESSIONS) == RUNTIMES and SESSIONS.keys() == PACKAGES.keys()


# ------------------------------------------------------------ refusals
def fitting(**other: Any) -> Any:
    """The choices of a config that graphs can be made of, but for ``other``."""
    text = SimpleNamespace(layer_types=None, sliding_window=None)
    chosen = {"core_kind": "spliced", "strategy": "clip_mlp", "mask_kind": "sam", "mask_encoder": "own"}
    rest = {"box_kind": "regression", "text_config": text, "region_grid": None}
    return SimpleNamespace(**(chosen | rest | other))


def test_what_graphs_can_be_made_of_passes():
    refuse_unfit(fitting())
    refuse_unfit(fitting(mask_kind="sam2", mask_encoder="vision", box_kind="mask"))


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"core_kind": "native"}, "core.kind native"),
        ({"strategy": "slime"}, "vision.strategy slime"),
        ({"mask_kind": "sam2"}, "mask.kind sam2 with mask.encoder own"),
        ({"mask_kind": "edgetam"}, "mask.kind edgetam"),
        ({"box_kind": "grounding_dino_query"}, "box.kind grounding_dino_query"),
        ({"text_config": SimpleNamespace(layer_types=["sliding_attention"])}, "every layer attends to all"),
        ({"text_config": SimpleNamespace(sliding_window=8)}, "every layer attends to all"),
    ],
)
def test_what_they_cannot_be_made_of_is_named_in_one_line(other, named):
    with pytest.raises(UserError, match=named) as caught:
        refuse_unfit(fitting(**other))
    assert len(caught.value.problems) == 1


def test_runtime_and_model_have_to_fit(tmp_path):
    with pytest.raises(UserError, match="unknown runtime 'onx'; did you mean 'onnx'"):
        ullava.load("tiny", runtime="onx")
    with pytest.raises(UserError, match="runtime onnx runs on a CPU"):
        ullava.load("tiny", runtime="onnx", device="cuda")
    with pytest.raises(UserError, match="float32"):
        ullava.load("tiny", runtime="onnx", dtype="bfloat16")
    with pytest.raises(UserError, match="holds no graphs; write some: ullava convert onnx"):
        ullava.load("tiny", runtime="onnx")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / NOTE_FILE).write_text("{}")
    with pytest.raises(UserError, match="holds graphs and no weights; run it with --runtime onnx"):
        ullava.load(tmp_path)


@pytest.mark.parametrize("runtime", SESSIONS)
def test_without_the_package_the_extra_is_named(monkeypatch, tmp_path, runtime):
    monkeypatch.setitem(sys.modules, PACKAGES[runtime], None)
    (tmp_path / NOTE_FILE).write_text("{}")
    with pytest.raises(UserError, match=rf"pip install 'ullava\[{runtime}\]'"):
        read_graphs(tmp_path, runtime)


# ------------------------------------------------------------ one session
def write_sum(file: Path) -> None:
    """A graph of two inputs and their sum."""
    onnx = pytest.importorskip("onnx")
    ports = [onnx.helper.make_tensor_value_info(name, 1, ["N", 3]) for name in ("a", "b", "sum")]
    node = onnx.helper.make_node("Add", ["a", "b"], ["sum"])
    graph = onnx.helper.make_graph([node], "sum", ports[:2], ports[2:])
    opset = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), str(file))


@pytest.mark.parametrize("runtime", SESSIONS)
def test_a_graph_runs_and_says_what_is_wrong_with_it(tmp_path, runtime):
    pytest.importorskip(PACKAGES[runtime])
    write_sum(tmp_path / "sum.onnx")
    graph = Graph(tmp_path / "sum.onnx", ("a", "b"), ("sum",), runtime)
    (made,) = graph(torch.ones(2, 3), torch.full((2, 3), 2.0))
    assert torch.equal(made, torch.full((2, 3), 3.0))
    assert graph.sizes("a") == (None, 3)
    with pytest.raises(WeightsError, match="does not fit the model beside it"):
        graph(torch.ones(2, 4), torch.ones(2, 4))
    with pytest.raises(WeightsError, match=f"inputs: a, b; {NOTE_FILE} says a, c"):
        Graph(tmp_path / "sum.onnx", ("a", "c"), ("sum",), runtime)
    with pytest.raises(WeightsError, match="is missing"):
        Graph(tmp_path / "other.onnx", ("a",), ("b",), runtime)
    (tmp_path / "sum.onnx").write_bytes(b"no graph")
    with pytest.raises(WeightsError, match=r"sum\.onnx: cannot be read"):
        Graph(tmp_path / "sum.onnx", ("a", "b"), ("sum",), runtime)


@pytest.mark.parametrize("note", ["[]", "{}", json.dumps({"form": 1, "graphs": dict.fromkeys(PARTS, 3)})])
def test_a_damaged_note_is_refused(tmp_path, note):
    pytest.importorskip("onnxruntime")
    (tmp_path / NOTE_FILE).write_text(note)
    with pytest.raises(WeightsError, match=NOTE_FILE):
        read_graphs(tmp_path)


# ------------------------------------------------------------ whole models
@pytest.fixture(scope="module")
def tiny_graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    from ullava.inference.load import weights_folder
    from ullava.modeling.graphs.write import convert_onnx

    return convert_onnx(weights_folder("tiny"), tmp_path_factory.mktemp("graphs") / "tiny")


def assert_same(made: Answer, wanted: Answer) -> None:
    """Words alike; masks that overlap in all but a pixel in a thousand; boxes within a hundredth of a pixel."""
    assert made.text == wanted.text
    assert len(made.objects) == len(wanted.objects)
    for ours, theirs in zip(made.objects, wanted.objects, strict=True):
        assert abs(ours.score - theirs.score) < 1e-3
        assert (ours.mask is None) == (theirs.mask is None)
        if ours.mask is not None and theirs.mask is not None:
            both, either = (ours.mask & theirs.mask).sum(), (ours.mask | theirs.mask).sum()
            assert both >= 0.999 * either
        assert (ours.box_xyxy_px is None) == (theirs.box_xyxy_px is None)
        if ours.box_xyxy_px is not None and theirs.box_xyxy_px is not None:
            assert np.allclose(ours.box_xyxy_px, theirs.box_xyxy_px, atol=1e-2)


@pytest.mark.exhaustive
@pytest.mark.parametrize("runtime", SESSIONS)
def test_tiny_answers_as_with_torch(tiny_graphs, tmp_path, runtime):
    pytest.importorskip(PACKAGES[runtime])
    from ullava.synthetic.write import draw_world

    world = draw_world(tmp_path / "world", 8, 77, "seen", progress=False)
    things = [row["sentences"][0] for row in json.loads((world / "annotations" / "res.json").read_text())]
    torch_runs, graphs_run = ullava.load("tiny", device="cpu"), ullava.load(tiny_graphs, runtime=runtime)
    assert not list(graphs_run.model.parameters())  # nothing is left to torch
    masks = boxes = 0
    for number, (question, thing) in enumerate(zip(QUESTIONS, things, strict=False)):
        image, prompt = world / "images" / f"{number:06d}.jpg", question.format(thing)
        wanted = torch_runs.answer(image, prompt)
        assert_same(graphs_run.answer(image, prompt), wanted)
        masks += sum(item.mask is not None for item in wanted.objects)
        boxes += sum(item.box_xyxy_px is not None for item in wanted.objects)
    assert number == len(QUESTIONS) - 1
    assert masks >= 4
    assert boxes >= 2


@pytest.mark.exhaustive
def test_rows_of_several_lengths_videos_and_draws_go_the_same_way(tiny_graphs, tmp_path):
    from PIL import Image

    from ullava.inference.batch import Question

    frames = [Image.fromarray(np.full((48, 64, 3), 60 * shade, np.uint8)) for shade in range(5)]
    frames[0].save(tmp_path / "shades.gif", save_all=True, append_images=frames[1:])
    frames[2].save(tmp_path / "gray.png")
    runs = [ullava.load("tiny", device="cpu"), ullava.load(tiny_graphs, runtime="onnx")]
    options = {"max_new_tokens": 12}
    drawn = [
        run.answer(tmp_path / "gray.png", "Caption this picture.", temperature=1.0, seed=3, **options).text
        for run in runs
    ]
    assert drawn[0] == drawn[1]
    prompts = ("Segment the shape.", "How many shapes are there to the left of the red circle?")
    asked = [Question(str(n), (tmp_path / "gray.png",), text).sample() for n, text in enumerate(prompts)]
    batches = [[answer.text for answer in run.answer_samples(asked, **options)] for run in runs]
    assert batches[0] == batches[1]
    seen = [run.answer(video=tmp_path / "shades.gif", prompt="What happens?", **options).text for run in runs]
    assert seen[0] == seen[1]


@pytest.mark.exhaustive
def test_the_command_answers_and_names_a_missing_graph(tiny_graphs, tmp_path, command, root):
    image = str(next((root / "datasets" / "photo_examples" / "images").glob("*.jpg")))
    asked = ["--image", image, "--prompt", "Segment the circle.", "--json"]
    code, printed, _ = command("predict", "--model", str(tiny_graphs), "--runtime", "onnx", *asked)
    assert code == 0
    _, wanted, _ = command("predict", "--model", "tiny", "--device", "cpu", *asked)
    assert json.loads(printed)["text"] == json.loads(wanted)["text"]
    broken = tmp_path / "broken"
    shutil.copytree(tiny_graphs, broken)
    (broken / "graphs" / "box.onnx").unlink()
    code, _, told = command("predict", "--model", str(broken), "--runtime", "onnx", *asked)
    assert code == 2
    assert "box.onnx: is missing" in told


@pytest.mark.exhaustive
def test_masks_on_the_towers_maps_and_their_boxes_are_those_of_torch(tmp_path):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    from PIL import Image

    from ullava.modeling.graphs.write import convert_onnx

    model, processor = build_sam2("box={kind: mask, width: 8, frame: padsq}", "grounding_layer=1")
    model.save_pretrained(tmp_path / "small")
    processor.save_pretrained(tmp_path / "small")
    folder = convert_onnx(tmp_path / "small", tmp_path / "graphs")
    image = tmp_path / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(image)
    there = np.zeros((40, 60), dtype=bool)
    there[5:20, 5:30] = True
    region = Region("it", there, (5.0, 5.0, 30.0, 20.0))
    turn = Turn("<image>Which?", "It [SEG][LOC], it [SEG][LOC].", (region, region))
    sample = Sample("a", "mine", "res", (image,), (turn,))
    pair = [ullava.load(tmp_path / "small", device="cpu"), ullava.load(folder, runtime="onnx")]
    (wanted,), (made,) = (run.teacher_forced([sample]) for run in pair)
    assert [item.box_xyxy_px is not None for item in wanted.objects] == [True, True]
    assert_same(made, wanted)
    assert made.presence == pytest.approx(wanted.presence, abs=1e-4)


@pytest.mark.exhaustive
def test_photo_answers_as_with_torch(tmp_path, root):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    from ullava.inference.load import weights_folder
    from ullava.modeling.graphs.write import convert_onnx

    if not (root / "models" / "photo" / "language" / "model.safetensors").is_file():
        pytest.skip("the language model of models/photo is not here (shells/setup.sh makes it)")
    folder = convert_onnx(weights_folder("photo"), tmp_path / "photo")
    torch_runs, graphs_run = ullava.load("photo", device="cpu"), ullava.load(folder, runtime="onnx")
    images = root / "datasets" / "photo_examples" / "images"
    for name, prompt in (("000000377575", "Segment the dog."), ("000000343937", "Give the mask and box of the person."),
                         ("000000519208", "Describe the image.")):  # fmt: skip
        assert_same(
            graphs_run.answer(images / f"{name}.jpg", prompt), torch_runs.answer(images / f"{name}.jpg", prompt)
        )
