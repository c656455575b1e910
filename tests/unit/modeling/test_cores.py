"""Every row of the table of cores through the same checks; the native one with several families of transformers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch
from PIL import Image
from tests.unit.modeling.conftest import build_small, grounded_sample, make_image
from tests.unit.modeling.native_models import (
    NATIVES,
    build_native,
    check_answers,
    native_yaml,
    needed_packages,
    write_processor,
)
from tests.unit.modeling.small_detectors import box_override, wake, write_words
from tests.unit.modeling.small_segmenters import head as segmenter
from tests.unit.modeling.small_segmenters import sizes
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline

from ullava.batching.collate import Collator
from ullava.config.load import parse_text
from ullava.config.schema import BoxHeadConfig, CoreConfig, HeadsConfig, LossConfig, ModelConfig
from ullava.config.site import Site
from ullava.errors import ConfigError, SampleError, UserError
from ullava.examples import Batch, ModelInputs, VisualInputs
from ullava.inference.predictor import Predictor
from ullava.modeling.construction.auto import load_folder
from ullava.modeling.construction.fresh_heads import build_fresh_heads
from ullava.modeling.construction.outline import outline
from ullava.modeling.construction.stage_settings import change_conversation
from ullava.modeling.cores.core_table import CORES, build_core
from ullava.modeling.cores.native_processor import FOLDER
from ullava.modeling.heads.box_table import BOX_HEADS
from ullava.structures import Clip, Sample, Turn
from ullava.text.tokens import IGNORE_LABEL
from ullava.training.optim.objective import GroundingObjective
from ullava.training.optim.stages import LANGUAGE, apply_stage, assign_parts

Built = tuple[Any, Any]
CASES = ("spliced", *NATIVES)


@pytest.fixture(scope="module", params=CASES)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Model and processor of one core; tests must not change them."""
    if request.param == "spliced":
        return build_small()
    needed_packages(request.param)
    return build_native(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module", params=tuple(NATIVES))
def native(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Any]:
    """Model, processor, and transformers' own processor of the same family."""
    needed_packages(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    model, processor = build_native(request.param, folder)
    return model, processor, AutoProcessor.from_pretrained(str(folder / "processor"))


def samples() -> list[Sample]:
    """Two images of other sizes, two images in one row, and words alone."""
    two = grounded_sample("c", 1)
    question = "<image>Look at both.<image>Segment the things in the second."
    two = replace(two, images=(Path("a.png"), Path("c.png")), turns=(replace(two.turns[0], question=question),))
    words = Sample("d", "test", "text", (), (Turn("How many is two and two?", "Four."),))
    return [grounded_sample("a", 2), grounded_sample("b", 1, 60, 30), two, words]


def pixels(sample: Sample) -> list[Any]:
    """The images of a sample of ``samples``."""
    made = {"a.png": make_image(1), "b.png": make_image(2, 60, 30), "c.png": make_image(3)}
    return [made[str(path)] for path in sample.images]


def batch_of(processor: Any, rows: list[Sample], *, prompts: bool = False) -> Batch:
    made = [processor.encode(sample, pixels(sample), prompt_only=prompts) for sample in rows]
    return Collator(processor.tokenizer.pad_token_id, "left" if prompts else "right")(made)


def test_the_table_is_the_schema_s() -> None:
    assert set(CORES) == set(get_args(get_type_hints(CoreConfig)["kind"]))
    config = build_small()[0].config
    config.core_kind = "nativ"
    with pytest.raises(UserError, match="unknown core 'nativ'.*did you mean 'native'"):
        build_core(config)


def test_every_weight_has_one_name_and_one_part(built: Built) -> None:
    model, _ = built
    modules = model.core.modules()
    assert list(modules) == [name for name, _ in model.named_children()][: len(modules)]
    assert all(getattr(model, name) is network for name, network in modules.items())
    inner = tuple(f"{name}." for name in modules)
    names = [name for name, _ in model.named_parameters() if name.startswith(inner)]
    prefixes = tuple(prefix for part in model.core.parts() for prefix in part.prefixes)
    assert names and all(name.startswith(prefixes) for name in names)
    assert LANGUAGE in set(assign_parts(model).values())
    assert model.core.get_input_embeddings().weight.shape == (model.core.text_config.vocab_size, 32)


def test_forward_gives_loss_masks_and_boxes_of_the_right_images(built: Built) -> None:
    model, processor = built
    inputs, targets = batch_of(processor, samples()).usable()
    output = model(**inputs.as_kwargs())
    assert output.loss.isfinite() and output.loss.requires_grad
    assert output.seg.mask_logits_lowres.shape[0] == len(targets.masks) == 4
    assert output.seg.row.tolist() == [0, 0, 1, 2]
    # A row of two images speaks of its last one; "a.png" is shown in two places and is one distinct image.
    assert output.seg.image.tolist() == [0, 0, 1, 2] == output.loc.image.tolist()
    assert output.logits.shape[:2] == output.input_ids.shape
    assert output.targets.numel() == int((inputs.labels[:, 1:] != IGNORE_LABEL).sum())


def test_a_row_does_not_depend_on_who_shares_its_batch(built: Built) -> None:
    model, processor = built
    rows = samples()
    with torch.no_grad():
        together = model(**batch_of(processor, rows).inputs.as_kwargs())
        for number, sample in enumerate(rows):
            alone = model(**batch_of(processor, [sample]).inputs.as_kwargs())
            length = alone.logits.shape[1]
            torch.testing.assert_close(together.logits[number, :length], alone.logits[0], rtol=1e-4, atol=1e-4)
            mine = together.seg.row == number
            torch.testing.assert_close(
                together.seg.mask_logits_lowres[mine], alone.seg.mask_logits_lowres, rtol=1e-3, atol=1e-3
            )


def force_words(model: Any, text_ids: list[int]) -> Any:
    """A logits processor that lets every row say ``text_ids`` in turn."""
    from transformers import LogitsProcessor, LogitsProcessorList

    class Say(LogitsProcessor):
        said = 0

        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            scores = torch.full_like(scores, float("-inf"))
            scores[:, text_ids[min(self.said, len(text_ids) - 1)]] = 0
            self.said += 1
            return scores

    return LogitsProcessorList([Say()])


def test_generated_masks_are_those_of_the_forward_pass(built: Built) -> None:
    """Left-padded prompts of other lengths, several images, words alone: the states of generation are the same."""
    model, processor = built
    rows = samples()
    answer = rows[1].turns[0].answer
    ids = processor.tokenizer(answer, add_special_tokens=False)["input_ids"] + [processor.tokenizer.eos_token_id]
    prompts = batch_of(processor, rows, prompts=True)
    made = model.generate_grounded(
        prompts.inputs, max_new_tokens=len(ids), do_sample=False, logits_processor=force_words(model, ids)
    )
    assert made.new_ids[0].tolist() == ids
    assert made.seg.row.tolist() == [0, 1, 2] == made.seg.image.tolist(), "words alone have no image to segment"
    for number, sample in enumerate(rows[:3]):
        example = processor.encode(sample, pixels(sample), prompt_only=True)
        whole = torch.cat([torch.from_numpy(example.input_ids), torch.tensor(ids)])[None]
        inputs = Collator(processor.tokenizer.pad_token_id)([example]).inputs
        labels = torch.full_like(whole, IGNORE_LABEL)
        labels[:, -len(ids) :] = whole[:, -len(ids) :]
        given = replace(inputs, input_ids=whole, labels=labels, attention_mask=torch.ones_like(whole))
        with torch.no_grad():
            taught = model(**given.as_kwargs())
        torch.testing.assert_close(
            made.seg.mask_logits_lowres[number], taught.seg.mask_logits_lowres[0], rtol=1e-3, atol=1e-3
        )


def test_a_batch_of_questions_is_answered_as_each_alone(built: Built) -> None:
    model, processor = built
    predictor = Predictor(model, processor)
    rows = [processor.encode(sample, pixels(sample), prompt_only=True) for sample in samples()]
    together = predictor.answer_examples(rows, max_new_tokens=12)
    for row, answer in zip(rows, together, strict=True):
        alone = predictor.answer_examples([row], max_new_tokens=12)[0]
        assert answer.text == alone.text and len(answer.objects) == len(alone.objects)


def test_a_step_of_training_moves_what_the_stage_trains(built: Built, tmp_path: Path) -> None:
    model, processor = built
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    model, processor = load_folder(tmp_path, torch.float32)
    plan = apply_stage(model.train(), "ground")
    batch = batch_of(processor, samples())
    inputs, targets = batch.usable()
    objective = GroundingObjective(LossConfig(), processor.masks, model.core.passes().aux_terms)
    result = objective(model(**inputs.as_kwargs()), targets)
    result.total.backward()
    moved = {name for name, value in model.named_parameters() if value.grad is not None and value.grad.abs().max() > 0}
    assert moved <= plan.trainable
    assert any(name.startswith(tuple(f"{name}." for name in model.core.modules())) for name in moved)
    words = batch_of(processor, samples()[3:])
    output = model(**words.inputs.as_kwargs())
    (output.loss + output.idle).backward()
    assert float(output.idle.detach()) == 0.0


def test_a_saved_model_is_the_same_model(built: Built, tmp_path: Path) -> None:
    model, processor = built
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again, its_processor = load_folder(tmp_path, torch.float32)
    assert again.core.kind == model.core.kind and its_processor.chat_template == processor.chat_template
    ours, theirs = batch_of(processor, samples()), batch_of(its_processor, samples())
    assert torch.equal(ours.inputs.input_ids, theirs.inputs.input_ids)
    with torch.no_grad():
        first, second = model(**ours.inputs.as_kwargs()), again(**theirs.inputs.as_kwargs())
    assert torch.equal(first.logits, second.logits)
    assert torch.equal(first.seg.mask_logits_lowres, second.seg.mask_logits_lowres)
    by_auto = AutoModelForImageTextToText.from_pretrained(str(tmp_path))
    assert by_auto.config.core_kind == model.config.core_kind


# ---------------------------------------------------------------- native cores beside transformers
def messages(count: int) -> list[dict[str, Any]]:
    images = [{"type": "image", "image": Image.fromarray(make_image(number + 1))} for number in range(count)]
    return [
        {"role": "user", "content": [*images, {"type": "text", "text": "What is this?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "A thing."}]},
        {"role": "user", "content": [{"type": "text", "text": "Which one?"}]},
    ]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_rows_are_those_of_transformers_own_processor(native: tuple[Any, Any, Any], count: int) -> None:
    model, processor, theirs = native
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
    ours = processor.apply_chat_template(messages(count), **options)
    wanted = theirs.apply_chat_template(messages(count), **options)
    assert torch.equal(ours["input_ids"], wanted["input_ids"])
    if count:
        prepared = model.core.prepare(ModelInputs.from_kwargs(ours), left_pad=True)
        given = {name: value for name, value in wanted.items() if name not in ("input_ids", "attention_mask")}
        assert given.keys() - {"mm_token_type_ids"} <= prepared.arguments.keys()
        for name in given.keys() & prepared.arguments.keys():
            found = prepared.arguments[name]
            torch.testing.assert_close(found.reshape(-1).double(), given[name].reshape(-1).double())


@pytest.mark.parametrize("count", [0, 1, 2])
def test_logits_and_answers_are_transformers_own(native: tuple[Any, Any, Any], count: int) -> None:
    model, processor, theirs = native
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
    ours = processor.apply_chat_template(messages(count), **options)
    check_answers(model, ours, theirs.apply_chat_template(messages(count), **options), 8)


def test_labels_are_the_answers_with_their_end(native: tuple[Any, Any, Any]) -> None:
    _, processor, _ = native
    turns = (Turn("<image>What is this?", "A thing."), Turn("And now?", "Another thing."))
    example = processor.encode(Sample("s", "test", "vqa", (Path("a.png"),), turns), [make_image(1)])
    end = processor.tokenizer.eos_token
    said = processor.tokenizer.decode(example.labels[example.labels != IGNORE_LABEL])
    assert [part.strip() for part in said.split(end)] == ["A thing.", "Another thing.", ""]


def test_what_a_native_core_cannot_do_is_refused_by_name(native: tuple[Any, Any, Any]) -> None:
    model, processor, _ = native
    if not processor.vision.reads_videos:
        turns = (Turn("<video>What happens?", "Nothing."),)
        clip = Sample("v", "test", "vqa", (), turns, videos=(Clip(Path("v.mp4")),))
        with pytest.raises(SampleError, match=f"core native: {processor.vision.kind} reads images, no videos"):
            processor.encode(clip, [], videos=[make_image(1)[None].repeat(8, axis=0)])
        videos = VisualInputs(views={}, index=torch.zeros(1, dtype=torch.long))
        with pytest.raises(UserError, match="ForConditionalGeneration reads images, no videos"):
            model.core.prepare(ModelInputs(input_ids=torch.zeros(1, 2, dtype=torch.long), videos=videos), left_pad=True)
    with pytest.raises(UserError, match="core native has no vision strategy"):
        model.set_strategy(None)
    with pytest.raises(UserError, match="native takes no override"):
        processor.encode(grounded_sample("a"), [make_image(1)], prompt_only=True, overrides={"gamma": 1})
    with pytest.raises(UserError, match="the text has 1 places for images, 0 images"):
        processor(text=f"{processor.vision.image_token} What?", images=[])
    inputs = batch_of(processor, samples()[:1]).inputs
    with pytest.raises(UserError, match="places for visual tokens, the images of the batch have 0"):
        model(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask)


def test_a_saved_processor_of_another_model_is_refused(native: tuple[Any, Any, Any], tmp_path: Path) -> None:
    model, processor, _ = native
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    for file in (tmp_path / FOLDER).iterdir():
        file.unlink()
    with pytest.raises(UserError, match=FOLDER):
        load_folder(tmp_path, torch.float32)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("core: {kind: native}", "kind native needs the path of an image-text-to-text model"),
        ("core: {kind: native, config: {model_type: idefics3}}", "without a path needs a processor"),
        ("core: {path: a/b}", "kind spliced takes no path"),
        ("core: {kind: native, path: a/b}\ntokenizer: x", "brings its own: leave out tokenizer"),
        ("core: {kind: spliced}", "language, tokenizer, vision: required key is missing"),
        ("core: {kind: native, path: a/b}\nmarker_gradient_only: true", "reproduce u-LLaVA"),
    ],
)
def test_a_model_yaml_names_one_core(text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        parse_text(ModelConfig, f"name: a\n{text}\nmask: {{sam: {{config: {{}}}}}}", "model.yaml")


def test_a_language_model_alone_is_no_native_core(tmp_path: Path) -> None:
    from ullava.modeling.construction.build import build_model

    config = native_yaml("idefics3", write_processor("idefics3", tmp_path / "p"), ("core.config={model_type: llama}",))
    with pytest.raises(ConfigError, match="core.config.model_type: unknown 'llama'"):
        build_model(config, tmp_path)


def test_pretrained_weights_and_new_rows_of_a_native_core(tmp_path: Path) -> None:
    """A folder as its makers save it is taken up whole, and the rows of our tokens are the mean of the old."""
    from ullava.modeling.construction.build import build_model

    folder = write_processor("idefics3", tmp_path / "theirs")
    random, _ = build_native("idefics3", tmp_path / "random")
    own = random.core.modules()["native"]
    rows = len(AutoProcessor.from_pretrained(str(folder)).tokenizer)
    own.resize_token_embeddings(rows, mean_resizing=False)
    own.save_pretrained(str(folder))
    yaml = f"core: {{kind: native, path: {folder}}}\nname: a\n"
    heads = native_yaml("idefics3", folder).mask
    config = replace(parse_text(ModelConfig, f"{yaml}mask: {{sam: {{config: {{}}}}}}", "a"), mask=heads)
    model, processor = build_model(config, tmp_path)
    table = model.get_input_embeddings().weight
    assert len(table) == len(processor.tokenizer) == rows + 4
    assert torch.equal(table[:rows], own.get_input_embeddings().weight)
    torch.testing.assert_close(table[rows], table[:rows].mean(dim=0))
    assert model.config.seg_id == processor.token_ids["seg_id"] >= rows


@pytest.mark.parametrize("kind", BOX_HEADS)
def test_a_native_core_goes_with_every_box_head(kind: str, tmp_path: Path) -> None:
    settings = {"phrase_tokenizer": str(write_words(tmp_path / "words"))} if kind.endswith("phrase") else {}
    on_mask = (segmenter("sam2", {"config": sizes("sam2")}), "box={kind: mask, width: 8}")
    box = {"regression": (), "mask": on_mask}.get(kind) or (box_override(kind, **settings),) * (kind != "regression")
    model, processor = build_native("idefics3", tmp_path, box)
    if kind.startswith("grounding_dino"):
        wake(model.box_head.detector)
    inputs, targets = batch_of(processor, samples()[:2]).usable()
    output = model(**inputs.as_kwargs())
    objective = GroundingObjective(LossConfig(), processor.masks, {})
    assert objective(output, targets).total.isfinite()
    answers = Predictor(model, processor).teacher_forced([])
    assert answers == [] and len(output.seg.row) == len(targets.masks) == 3


def test_the_pipeline_of_transformers_runs_a_native_core(tmp_path: Path) -> None:
    model, processor = build_native("idefics3", tmp_path)
    pipe = pipeline("image-text-to-text", model=model, processor=processor)
    asked = [{"role": "user", "content": [{"type": "image", "image": Image.fromarray(make_image(1))},
                                          {"type": "text", "text": "What is this?"}]}]  # fmt: skip
    (told,) = pipe(text=asked, max_new_tokens=4, do_sample=False)
    assert told["generated_text"]


def test_a_native_core_is_told_in_figures(tmp_path: Path) -> None:
    config = native_yaml("idefics3", write_processor("idefics3", tmp_path / "processor"))
    told = outline(config, tmp_path)
    assert {"language model", "vision tower", "vision projector"} <= told.parts.keys()
    assert told.video is None and all(count.exact for count in told.images.values())
    assert "video" not in "\n".join(told.lines())


def test_fresh_heads_keep_the_core_and_its_processor(tmp_path: Path) -> None:
    model, processor = build_native("idefics3", tmp_path)
    before = {name: value.clone() for name, value in model.core.modules()["native"].state_dict().items()}
    heads = HeadsConfig(mask=native_yaml("idefics3", tmp_path / "processor").mask, box=BoxHeadConfig(width=32))
    made, its = build_fresh_heads(model, processor, heads, tmp_path, site=Site(tmp_path / "recipe.yaml", "heads"))
    after = made.core.modules()["native"].state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert its.chat_template == processor.chat_template
    assert its.token_ids["image_patch_id"] == processor.token_ids["image_patch_id"]
    with pytest.raises(UserError, match="core native writes dialogues in its own format"):
        change_conversation(made, its, "chatml")
