"""What a stage does otherwise than the model says: the vision encoder's switches and the way of writing dialogues."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.unit.modeling.conftest import build_small, make_image
from tests.unit.modeling.test_slime_strategy import asks, build, collate, rows

from ullava.errors import ConfigError, UserError
from ullava.modeling.construction.stage_settings import change_conversation, change_vision
from ullava.text.conversation import CHAT_TEMPLATES


def test_a_stage_switches_views_and_weights_stay() -> None:
    model, processor = build("local_side: 2, heads: 4, top_p: 1.0, reduce: sum")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    change_vision(model, processor, {"view": "global", "gate": "mlp"}, "recipe")
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    (row,) = rows(processor, [asks("What?")], [0])
    assert row.images[0].count.low == 16 and set(row.images[0].views) == {"base"}
    model(**collate(processor, [row]))
    assert model.config.vision_settings["reduce"] == "sum", "what the stage does not name is kept"
    change_vision(model, processor, {"view": "both", "gate": "learned"}, "recipe")
    (row,) = rows(processor, [asks("What?")], [0])
    assert row.images[0].count.low == 33
    assert not any(value.is_meta for value in (*model.parameters(), *model.buffers()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"veiw": "global"}, "recipe.*did you mean 'view'"),
        ({"view": "nowhere"}, "recipe.*nowhere"),
        ({"top_p": 1.5}, "a share is 1 at most"),
        ({"local_side": 3}, "the weights do not fit these settings"),
    ],
)
def test_changes_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    model, processor = build("local_side: 2, heads: 4")
    with pytest.raises(ConfigError, match=message):
        change_vision(model, processor, changes, "recipe")


def test_the_plain_vision_encoder_changes_its_frames_and_refuses_what_it_does_not_know() -> None:
    model, processor = build_small()
    frames = np.zeros((3, 20, 20, 3), dtype=np.uint8)
    before = processor.vision.preprocess_video(frames).count.low
    change_vision(model, processor, {"frame_grid": 2}, "recipe")
    assert model.vision.frame_grid == 2 and processor.vision.preprocess_video(frames).count.low == before + 3 * 3
    with pytest.raises(ConfigError, match="top_p"):
        change_vision(model, processor, {"top_p": 1.0}, "recipe")
    with pytest.raises(ConfigError, match="recipe: vision.clip_mlp.frame_grid 3"):
        change_vision(model, processor, {"frame_grid": 3}, "recipe")
    assert model.config.vision_settings == {"frame_grid": 2} and model.vision.frame_grid == 2


def test_captions_are_written_plainly_in_their_stage() -> None:
    model, processor = build_small()
    change_conversation(model, processor, "plain")
    assert processor.chat_template == CHAT_TEMPLATES["plain"]
    row = processor.encode(asks("Describe it.", "A red cup."), [make_image(0)])
    text = processor.tokenizer.decode([token for token in row.input_ids if token not in processor.token_ids.values()])
    assert "Describe" not in text and "A red cup." in text.replace(" .", ".")
    with pytest.raises(UserError, match="<|eot_id|>"):
        change_conversation(model, processor, "llama3")
