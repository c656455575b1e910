"""The pipeline of transformers and the post-processing: the same masks as ``ullava.load(...).answer`` gives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.unit.inference.test_ecosystem import ROOT, WEIGHTS, asked, drawn

import ullava
from ullava.errors import UserError

TASK = "referring-segmentation"


@pytest.fixture(scope="module")
def tiny() -> Any:
    return ullava.load("tiny", device="cpu")


@pytest.fixture(scope="module")
def pipe() -> Any:
    from transformers import pipeline

    return pipeline(TASK, model=WEIGHTS, device="cpu")


def check_found(found: dict[str, Any], answer: Any) -> None:
    """Hold one thing of the pipeline against the only object of an Answer."""
    (item,) = answer.objects
    assert found["phrase"] == item.phrase and found["span"] == item.span
    assert found["score"] == pytest.approx(item.score, abs=1e-5)
    assert found["mask"].mode == "L" and set(np.unique(found["mask"])) == {0, 255}
    np.testing.assert_array_equal(np.asarray(found["mask"]) == 255, item.mask)
    assert list(found["box"]) == ["xmin", "ymin", "xmax", "ymax"]
    assert list(found["box"].values()) == [round(value) for value in item.box_xyxy_px]


def test_the_pipeline_finds_what_is_asked(pipe: Any, tiny: Any) -> None:
    expected = tiny.answer(drawn(), "Segment the red circle.")
    (found,) = pipe(drawn(), text="red circle")
    check_found(found, expected)
    assert found["label"] == "red circle"
    assert pipe(drawn(), text="red circle", threshold=found["score"]) == []
    assert pipe(drawn(), text="red circle", max_new_tokens=1) == []


def test_many_images_in_batches(pipe: Any, tiny: Any, tmp_path: Path) -> None:
    drawn("blue").save(tmp_path / "blue.png")
    images = [drawn(), str(tmp_path / "blue.png"), np.asarray(drawn("green"))]
    rows = [{"image": image, "text": "Segment the circle."} for image in images]
    expected = [tiny.answer(image, "Segment the circle.") for image in images]
    for found in (
        pipe(images, text="Segment the circle.", batch_size=2),
        pipe(images, text=["Segment the circle."] * 3),
        list(pipe((row for row in rows), batch_size=3)),
    ):
        assert len(found) == 3
        for (item,), answer in zip(found, expected, strict=True):
            check_found(item, answer)
    one = pipe(drawn(), text=["red circle", "Segment the circle."], batch_size=2)
    assert [row[0]["label"] for row in one] == ["red circle", "Segment the circle."]
    assert pipe([]) == []


@pytest.mark.parametrize(
    ("image", "options", "told"),
    [
        (drawn(), {}, "expected an image with text=..."),
        ({"image": drawn(), "text": " "}, {}, "text says nothing to look for"),
        ([drawn(), drawn()], {"text": ["a cat"]}, "2 images, but 1 texts"),
        ("absent.png", {"text": "a cat"}, "absent.png"),
        ("data:image/png;base64,AAAA", {"text": "a cat"}, "cannot be read"),
        (drawn(), {"text": "a cat", "tempurature": 1.0}, "tempurature"),
        (drawn(), {"text": 5}, "text is a text or a list of texts, not int"),
        (drawn(), {"text": ["a cat", None]}, "text is a text or a list of texts, not list"),
        (drawn(), {"text": "a cat", "threshold": "half"}, "threshold is a number, not str"),
    ],
)
def test_what_cannot_be_asked_is_told(pipe: Any, image: Any, options: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        pipe(image, **options)


def test_a_saved_pipeline_opens_without_foreign_code(pipe: Any, tmp_path: Path) -> None:
    from transformers import pipeline

    pipe.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.py"))
    again = pipeline(TASK, model=str(tmp_path), device="cpu")
    assert again(drawn(), text="red circle")[0]["box"] == pipe(drawn(), text="red circle")[0]["box"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "order",
    [
        "import ullava; import transformers",
        pytest.param("import transformers.pipelines; import ullava", marks=pytest.mark.exhaustive),
    ],
)
def test_it_is_registered_in_either_order(order: str) -> None:
    program = (
        f"{order}\nfrom transformers.pipelines import PIPELINE_REGISTRY as all\nprint(all.check_task('{TASK}')[0])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=240, cwd=ROOT)
    assert done.stdout.strip() == TASK, done.stderr[-2000:]


# ---------------------------------------------------------------- post-processing
def test_post_processing_gives_the_masks_of_an_answer(tiny: Any) -> None:
    model, processor = tiny.model, tiny.processor
    pair = [drawn(), drawn("blue").resize((60, 90))]
    inputs = processor.apply_chat_template(
        [asked(image) for image in pair], add_generation_prompt=True, tokenize=True, return_dict=True
    )
    outputs = model.generate_grounded(inputs, max_new_tokens=40)
    sizes = [(image.height, image.width) for image in pair]
    found = processor.post_process_instance_segmentation(outputs, target_sizes=sizes)
    assert len(found) == 2
    for row, image in zip(found, pair, strict=True):
        (item,) = tiny.answer(image, "Segment the circle.").objects
        assert row["masks"].dtype == torch.long and row["masks"].shape == (1, image.height, image.width)
        np.testing.assert_array_equal(row["masks"][0].numpy().astype(bool), item.mask)
        assert row["scores"].tolist() == pytest.approx([item.mask_score], abs=1e-4)
        ys, xs = np.nonzero(item.mask)
        assert row["boxes"].tolist() == [[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]]
    (none, _) = processor.post_process_instance_segmentation(outputs, threshold=1.0, target_sizes=sizes)
    assert none["scores"].shape == (0,) and none["boxes"].shape == (0, 4)
    (small, _) = processor.post_process_instance_segmentation(outputs)
    assert small["masks"].shape[1:] == outputs.seg.mask_logits_lowres.shape[1:]
    (wide, _) = processor.post_process_instance_segmentation(outputs, mask_threshold=0.01, target_sizes=sizes)
    assert wide["masks"].sum() > found[0]["masks"].sum()


def test_post_processing_tells_what_is_missing(tiny: Any) -> None:
    from ullava.modeling.heads.outputs import GroundedGeneration, SegOutput

    tell = tiny.processor.post_process_instance_segmentation
    with pytest.raises(UserError, match="hold no masks"):
        tell(GroundedGeneration(new_ids=torch.zeros(1, 2)))
    rows = torch.zeros(1, dtype=torch.long)
    seg = SegOutput(mask_logits_lowres=torch.ones(1, 4, 4), iou_scores=torch.ones(1), row=rows)
    with pytest.raises(UserError, match="2 sizes .* for 1 rows"):
        tell(GroundedGeneration(new_ids=torch.zeros(1, 2), seg=seg), target_sizes=[(4, 4), (4, 4)])
    with pytest.raises(UserError, match="mask_threshold"):
        tell(GroundedGeneration(new_ids=torch.zeros(1, 2), seg=seg), mask_threshold=1.0)
    with pytest.raises(UserError, match="how many rows"):
        tell(GroundedGeneration(seg=seg))
