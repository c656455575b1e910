"""Figures of the systems at full size, told without their weights, against the published ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.hub_cache import offline_cache, put_published

from ullava.config.load import load_config, parse_text
from ullava.config.schema import ModelConfig
from ullava.errors import ConfigError, HubUnreachableError
from ullava.modeling.construction.outline import Outline, outline
from ullava.resources import find, names

ROOT = Path(__file__).resolve().parents[3]
Command = Callable[..., tuple[int, str, str]]

MILLIONS: dict[str, dict[str, float]] = {
    "mg_llava_7b": {"vision fusion": 6.09, "vision projector": 20.98, "object projector": 28.58},
    "avg_llava_7b": {"vision router": 117.51},
    "conv_llava_7b": {
        "vision stage 1": 0.9, "vision stage 2": 3.9, "vision stage 3": 129.8, "vision stage 4": 61.6,
        "vision stage 5": 472.9, "vision projector": 29.4,
    },
    "slime_7b": {"vision projector": 20.98, "vision resampler a": 4.79, "vision resampler b": 4.35},
}  # fmt: skip
"""Spec of the four vision encoders: parameters of their own parts in millions."""
TOKENS: dict[str, dict[tuple[int, int], tuple[int, int]]] = {
    "mg_llava_7b": {(640, 480): (576, 576)},
    "avg_llava_7b": {(640, 480): (166, 2340), (1024, 1024): (192, 2928), (2000, 400): (112, 1598)},
    "conv_llava_7b": {(640, 480): (144, 144)},
    "conv_llava_7b_1024": {(640, 480): (256, 256)},
    "conv_llava_7b_1536": {(640, 480): (576, 576)},
    "slime_7b": {(336, 336): (578, 865), (640, 480): (578, 1153), (1920, 1080): (578, 1441), (2000, 400): (578, 1297)},
}
VIDEOS = {"mg_llava_7b": (1152, 1152), "avg_llava_7b": (288, 1152), "conv_llava_7b": (1152, 1152),
          "slime_7b": (578, 1729)}  # fmt: skip
"""Tokens of a video of eight frames: least and most."""


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The published configs, as if the Hub's library had fetched them."""
    folder = tmp_path_factory.mktemp("hub")
    put_published(folder / "cache", folder / "work")
    with offline_cache(folder / "cache"):
        yield folder / "cache"


@pytest.fixture(scope="module")
def told(cache: Path) -> Callable[[str], Outline]:
    known: dict[str, Outline] = {}

    def tell(name: str) -> Outline:
        if name not in known:
            path = find("models", name)
            known[name] = outline(load_config(ModelConfig, path), path.parent)
        return known[name]

    return tell


@pytest.mark.parametrize("name", MILLIONS)
def test_parameters_of_the_vision_encoders(name: str, told: Callable[[str], Outline]) -> None:
    parts = told(name).parts
    for part, millions in MILLIONS[name].items():
        digits = len(str(millions).split(".")[1])
        assert round(parts[part] / 1e6, digits) == millions, part
    assert round(parts["language model"] / 1e9, 2) == 6.74


def test_the_whole_five_stage_encoder(told: Callable[[str], Outline]) -> None:
    parts = told("conv_llava_7b").parts
    assert round(sum(size for part, size in parts.items() if part.startswith("vision stage")) / 1e6) == 669


@pytest.mark.parametrize("name", TOKENS)
def test_visual_tokens(name: str, told: Callable[[str], Outline]) -> None:
    figures = told(name)
    for size, (low, high) in TOKENS[name].items():
        assert (figures.images[size].low, figures.images[size].high) == (low, high), size
    if name in VIDEOS:
        assert (figures.video.low, figures.video.high) == VIDEOS[name]


NATIVE = {"small_vlm", "qwen3vl_4b"}
"""Their published files are no part of that cache; test_native_presets.py builds them."""


@pytest.mark.parametrize("name", sorted(set(names("models")) - set(TOKENS) - NATIVE))
def test_every_other_model_can_be_told(name: str, told: Callable[[str], Outline]) -> None:
    if name == "photo" and not (find("models", name).parent / "language").is_dir():
        pytest.skip("the set-up could not make models/photo/language")
    if name in ("small_135_edge", "heads_edgetam"):
        pytest.importorskip("timm", reason="EdgeTAM's encoder is timm's RepViT")
    figures = told(name)
    assert sum(figures.parts.values()) > 10_000 and all(count.high > 0 for count in figures.images.values())


def test_show_prints_the_figures(command: Command) -> None:
    code, out, _ = command("show", "slime_7b", "--sizes")
    assert code == 0 and out.startswith("# ")
    assert "vision resampler a           4,794,368" in out and "578 to 1,441" in out
    code, _, err = command("show", "llava_pretrain", "--sizes")
    assert code == 2 and "--sizes are those of a model" in err


def test_check_builds_a_model(command: Command) -> None:
    code, out, _ = command("check", "models/slime_7b")
    assert code == 0 and "model.yaml: valid" in out and "vision resampler b" in out


def test_parts_that_are_not_at_hand_are_told_from_their_config_or_named(tmp_path: Path) -> None:
    parts = "name: x, tokenizer: TOKENIZER, mask: {sam: {config: {}}}, vision: {tower: TOWER}, language: LANGUAGE"
    words = str(ROOT / "models" / "tiny" / "tokenizer")
    sizes = "{path: ../gone, config: {model_type: clip_vision_model, hidden_size: 64, num_attention_heads: 2}}"
    llama = "{path: lmsys/vicuna-7b-v1.6, config: {model_type: llama, hidden_size: 64, num_attention_heads: 2}}"
    text = f"{{{parts}}}".replace("TOKENIZER", words)
    told = outline(parse_text(ModelConfig, text.replace("TOWER", sizes).replace("LANGUAGE", llama)), tmp_path)
    assert told.parts["vision tower"] < 10_000_000
    (tmp_path / "vicuna_7b").mkdir()
    wrong = text.replace("TOWER", sizes).replace("LANGUAGE", "{path: vicuna_7bb}")
    with pytest.raises(ConfigError, match=r"language\.path: no such file or folder: .*; did you mean 'vicuna_7b'"):
        outline(parse_text(ModelConfig, wrong), tmp_path)
    elsewhere = text.replace("TOWER", "{path: nobody/clip}").replace("LANGUAGE", "{path: nobody/llm}")
    with pytest.raises(HubUnreachableError) as caught:
        outline(parse_text(ModelConfig, elsewhere), tmp_path)
    assert [line.split(": no folder")[0].rpartition(": ")[2] for line in caught.value.problems] == [
        "language.path", "vision.tower.path"
    ]  # fmt: skip


def test_a_model_is_valid_where_its_parts_cannot_be_asked_for(command: Command, tmp_path: Path) -> None:
    with offline_cache(tmp_path):
        code, out, _ = command("check", "models/slime_7b")
        assert code == 0 and "model.yaml: valid" in out and "no figures: " in out and "HF_HUB_OFFLINE" in out
        code, _, err = command("show", "slime_7b", "--sizes")
        assert code == 2 and "language.path: no folder" in err and "lmsys/vicuna-7b-v1.5" in err
        assert command("check")[0] == 0
