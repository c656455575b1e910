"""Questions in, answers in the frame of the original image out. Batched; one path with training up to the heads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from transformers import StoppingCriteriaList

from ullava.batching.collate import Collator
from ullava.config.defaults import MAX_NEW_TOKENS
from ullava.data.loading.encode import read_images, read_videos
from ullava.errors import UserError
from ullava.examples import NOTHING, Example, ImageExample, ModelInputs, VideoExample
from ullava.geometry.region_prompts import Regions
from ullava.inference.asking import History, Shown, VideoLike, read_shown
from ullava.inference.chat import Chat
from ullava.inference.clip_masks import ClipChoice, ClipTracker, row_masks
from ullava.inference.generation import NOT_DECODING, StopAt, decoding_of, drawn_from
from ullava.inference.streaming import stream_words
from ullava.losses import row_surprises
from ullava.media.images import ImageLike
from ullava.modeling.heads.box_post_processing import DetectedPhrase
from ullava.modeling.model.ullava import UllavaForConditionalGeneration
from ullava.modeling.processing.processor import UllavaProcessor
from ullava.modeling.processing.region_rows import check_pointed
from ullava.stage_clock import stage
from ullava.structures import Answer, Clip, DetectedBoxes, ImageArray, MaskCarrying, Sample
from ullava.text.tokens import IGNORE_LABEL


class Predictor:
    """A loaded model that answers. ``name`` is how reports call it.

    ``overrides``: overrides of the vision encoder for every question (docs/vision_encoders.md); those of a call are
    laid over them. ``clip_masks``: the same for how things in videos are masked.
    """

    def __init__(
        self,
        model: UllavaForConditionalGeneration,
        processor: UllavaProcessor,
        name: str = "model",
        overrides: Mapping[str, Any] = NOTHING,
    ) -> None:
        self.model = model.eval()
        self.processor = processor
        self.name = name
        self.overrides = overrides
        self.clip_masks: MaskCarrying | None = None
        pad_id = processor.tokenizer.pad_token_id
        self._prompts = Collator(pad_id, padding_side="left")
        self._dialogues = Collator(pad_id, padding_side="right")

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return self.model.device

    @property
    def masks_in_videos(self) -> bool:
        """Whether answers about videos have masks."""
        return ClipChoice(self.clip_masks).settled(self.model).carrying != "none"

    def check_length(self, max_new_tokens: int) -> None:
        """Raise UserError for answers that are longer than what the language model was made to read."""
        positions = getattr(self.model.config.text_config, "max_position_embeddings", None)
        if positions is not None and max_new_tokens >= positions:
            raise UserError(
                f"{max_new_tokens} new tokens: question and answer together have {positions} places in this model"
            )

    # ------------------------------------------------------------ questions
    def answer(
        self,
        image: ImageLike | Sequence[ImageLike] | None = None,
        prompt: str | None = None,
        *,
        video: VideoLike | Sequence[VideoLike] | None = None,
        history: History = (),
        max_new_tokens: int = MAX_NEW_TOKENS,
        boxes: Sequence[DetectedBoxes | None] = (),
        regions: Regions = (),
        overrides: Mapping[str, Any] = NOTHING,
        **generation: Any,
    ) -> Answer:
        """Answer one question about one image or video, several, or none: ``answer(question, video="clip.mp4")``.

        ``image``: path, Pillow image or array (see ``read_image_rgb_u8``); ``video``: path, or a Clip to choose the
        frames another way. They come first unless ``prompt`` marks their places with ``<image>`` and ``<video>``. A
        text alone is the question. ``history``: earlier questions with their answers; the images belong to the first
        then. ``boxes``: what was found in each image beforehand, for a vision encoder that looks at objects;
        ``regions``: what the ``<region>`` of question (and history) point at, boxes or masks (docs/regions.md);
        ``overrides``: overrides of the vision encoder (docs/vision_encoders.md). ``generation``: greedy unless
        ``temperature``, ``top_p`` or ``top_k`` asks for draws (from ``seed``); ``stop``: texts that end the answer
        (docs/transformers.md); ``clip_masks``, ``prompt_frame``: how things in a video are masked (docs/video.md).
        Raises UserError for a file that cannot be read, an empty question, an unknown override or option.
        """
        row, shown = self._question(image, prompt, video, history, boxes, regions, overrides)
        (answer,) = self.answer_examples([row], max_new_tokens=max_new_tokens, overrides=overrides, **generation)
        return shown.told(answer)

    def stream(
        self,
        image: ImageLike | Sequence[ImageLike] | None = None,
        prompt: str | None = None,
        *,
        video: VideoLike | Sequence[VideoLike] | None = None,
        history: History = (),
        max_new_tokens: int = MAX_NEW_TOKENS,
        boxes: Sequence[DetectedBoxes | None] = (),
        regions: Regions = (),
        overrides: Mapping[str, Any] = NOTHING,
        **generation: Any,
    ) -> Iterator[str | Answer]:
        """Answer as ``answer`` does, word by word: texts as they come, and at last the Answer with masks and boxes.

        The texts joined are the Answer's text. Leaving early ends the generation.
        """
        row, shown = self._question(image, prompt, video, history, boxes, regions, overrides)
        pieces = self.stream_example(row, max_new_tokens=max_new_tokens, overrides=overrides, **generation)
        return (shown.told(piece) if isinstance(piece, Answer) else piece for piece in pieces)

    def chat(
        self,
        image: ImageLike | Sequence[ImageLike] | None = None,
        *,
        video: VideoLike | Sequence[VideoLike] | None = None,
        boxes: Sequence[DetectedBoxes | None] = (),
        overrides: Mapping[str, Any] = NOTHING,
        **generation: Any,
    ) -> Chat:
        """Begin a dialogue about images and videos (or none): ``chat(image).ask(question)``; see Chat."""
        decoding_of({key: value for key, value in generation.items() if key not in NOT_DECODING})
        return Chat(self, read_shown(image, video, boxes, self.processor.video_frames), overrides, generation)

    def _question(
        self,
        image: ImageLike | Sequence[ImageLike] | None,
        prompt: str | None,
        video: VideoLike | Sequence[VideoLike] | None,
        history: History,
        boxes: Sequence[DetectedBoxes | None],
        regions: Regions,
        overrides: Mapping[str, Any],
    ) -> tuple[Example, Shown]:
        if prompt is None and isinstance(image, str):
            image, prompt = None, image
        if prompt is None or not prompt.strip():
            raise UserError("the question is empty")
        with stage("read"):
            shown = read_shown(image, video, boxes, self.processor.video_frames)
        sample = shown.sample(prompt, history, regions)
        check_pointed(sample, self.processor.region_grid)
        forced = {**self.overrides, **overrides}
        with stage("preprocess"):
            row = self.processor.encode(sample, shown.images, prompt_only=True, videos=shown.videos, overrides=forced)
        return row, shown

    def answer_samples(
        self,
        samples: Sequence[Sample],
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        overrides: Mapping[str, Any] = NOTHING,
        **generation: Any,
    ) -> list[Answer]:
        """Answer the last question of each sample in one batch; equal images and videos are encoded once."""
        rows = self.encode(samples, prompt_only=True, overrides=overrides)
        answers = self.answer_examples(rows, max_new_tokens=max_new_tokens, overrides=overrides, **generation)
        return [replace(answer, images=sample.images) for sample, answer in zip(samples, answers, strict=True)]

    def stream_sample(self, sample: Sample, **options: Any) -> Iterator[str | Answer]:
        """Answer the last question of a sample as ``stream`` does; ``options`` of ``answer_samples``."""
        (row,) = self.encode([sample], prompt_only=True, overrides=options.get("overrides", NOTHING))
        return self.stream_example(row, **options)

    def encode(
        self, samples: Sequence[Sample], *, prompt_only: bool, overrides: Mapping[str, Any] = NOTHING
    ) -> list[Example]:
        """Read images and videos, each once, and make the rows: up to the last answer (``prompt_only``), or whole."""
        overrides = {**self.overrides, **overrides}
        decoded: dict[tuple[Path, ...], list[ImageArray]] = {}
        prepared: dict[tuple[tuple[Path, ...], tuple[DetectedBoxes | None, ...]], tuple[ImageExample, ...]] = {}
        clips: dict[tuple[Clip, tuple[DetectedBoxes | None, ...]], VideoExample] = {}
        rows = []
        for sample in samples:
            shown = list(zip(sample.videos, sample.frame_boxes or ((),) * len(sample.videos), strict=True))
            for clip, found in shown:
                if (clip, found) not in clips:
                    with stage("read"):
                        (frames,) = read_videos([clip], self.processor.video_frames, sample.name)
                    with stage("preprocess"):
                        clips[clip, found] = self.processor.prepare_video(clip, frames, sample.name, found, overrides)
            if sample.images not in decoded:
                with stage("read"):
                    decoded[sample.images] = read_images(sample.images, sample.name)
            with stage("preprocess"):
                row = self.processor.encode(
                    sample,
                    decoded[sample.images],
                    prompt_only=prompt_only,
                    prepared=prepared.get((sample.images, sample.boxes)),
                    videos=[clips[key] for key in shown],
                    overrides=overrides,
                    files=True,
                )
            prepared[sample.images, sample.boxes] = row.images
            rows.append(row)
        return rows

    @torch.inference_mode()
    def answer_examples(
        self,
        examples: Sequence[Example],
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        overrides: Mapping[str, Any] = NOTHING,
        clip_masks: MaskCarrying | None = None,
        prompt_frame: int | None = None,
        **generation: Any,
    ) -> list[Answer]:
        """Answer rows that were encoded with ``prompt_only`` (and ``overrides``); ``generation``: see ``answer``.

        ``clip_masks``, ``prompt_frame``: see ClipChoice.
        """
        decoding = decoding_of(generation)
        choice = ClipChoice(clip_masks or self.clip_masks, prompt_frame).settled(self.model)
        if not examples:
            return []
        self.check_length(max_new_tokens)
        if prompt_frame is not None:  # before anything is generated
            for path in {video.path for example in examples for video in example.videos if video.path is not None}:
                choice.check_clip(path)
        inputs = self.prompt_inputs(examples, overrides=overrides)
        options = dict(decoding.options)
        if decoding.stop:
            own = StopAt(decoding, lambda ids: self.processor.decode_text(ids)[0])
            options["stopping_criteria"] = StoppingCriteriaList([own, *options.get("stopping_criteria", ())])
        with drawn_from(decoding.seed, self.device):
            result = self.model.generate_grounded(inputs, max_new_tokens=max_new_tokens, **options)
        texts = []
        for text, finished, new_tokens in map(self.processor.decode_text, result.new_ids.tolist()):
            text, stopped = decoding.cut(text)
            texts.append((text, finished or stopped, new_tokens))
        with stage("post-process"):
            return self._answers(examples, texts, result, inputs, choice)

    def stream_example(self, example: Example, **options: Any) -> Iterator[str | Answer]:
        """Answer one row as ``stream`` does; ``options`` of ``answer_examples``."""
        generation = {key: value for key, value in options.items() if key not in NOT_DECODING}
        return stream_words(
            lambda streamer: self.answer_examples([example], streamer=streamer, **options)[0],
            lambda ids: self.processor.decode_text(ids)[0],
            decoding_of(generation),
        )

    def prompt_inputs(self, examples: Sequence[Example], *, overrides: Mapping[str, Any] = NOTHING) -> ModelInputs:
        """Rows that were encoded with ``prompt_only`` as what the network reads, on its device."""
        return self._on_device(self._prompts, examples, overrides)

    @torch.inference_mode()
    def teacher_forced(
        self,
        samples: Sequence[Sample],
        *,
        overrides: Mapping[str, Any] = NOTHING,
        clip_masks: MaskCarrying | None = None,
        prompt_frame: int | None = None,
    ) -> list[Answer]:
        """Read masks and boxes at the grounding tokens of the *given* answers (u-LLaVA's own protocol)."""
        choice = ClipChoice(clip_masks or self.clip_masks, prompt_frame).settled(self.model)
        if not samples:
            return []
        return self.given_answers(samples, *self.read_given(samples, overrides), choice)

    def read_given(
        self, samples: Sequence[Sample], overrides: Mapping[str, Any], *, whole: bool = False
    ) -> tuple[list[Example], Any, Any]:
        """Rows, what the model returned for them and what it read, heads at the grounding tokens of given answers.

        ``whole``: the words are judged too, and what masks were made of is kept (``SegOutput.read``).
        """
        examples = self.encode(samples, prompt_only=False, overrides=overrides)
        inputs = self._on_device(self._dialogues, examples, overrides)
        labels = cast(torch.Tensor, inputs.labels)  # the collator writes them
        if not whole:  # the words are given, so only the grounding tokens are looked at
            ids = torch.tensor([self.model.config.seg_id, self.model.config.loc_id], device=self.device)
            labels = labels.masked_fill(~torch.isin(labels, ids), IGNORE_LABEL)
        inputs = replace(inputs, labels=labels, supervised_only=True, heads_only=not whole, masks_read=whole)
        return examples, self.model(**inputs.as_kwargs()), inputs

    def given_answers(
        self,
        samples: Sequence[Sample],
        examples: Sequence[Example],
        output: Any,
        inputs: ModelInputs,
        choice: ClipChoice,
    ) -> list[Answer]:
        """Answers of what ``read_given`` returned; ``choice``: settled."""
        texts = [(sample.turns[-1].answer, True, 0) for sample in samples]
        with stage("post-process"):
            return self._answers(examples, texts, output, inputs, choice)

    @torch.inference_mode()
    def surprise(self, samples: Sequence[Sample], *, overrides: Mapping[str, Any] = NOTHING) -> list[tuple[float, int]]:
        """How unlikely the *given* answers are: of each sample the sum of -ln p of the tokens, and how many there are.

        Each token is judged after all that comes before it in the dialogue; the token that ends a turn counts.
        """
        if not samples:
            return []
        _, output, inputs = self.read_given(samples, overrides, whole=True)
        return row_surprises(output.supervised_logits, output.targets, cast(torch.Tensor, inputs.labels))

    # ------------------------------------------------------------ back to images
    def _on_device(self, collate: Collator, examples: Sequence[Example], overrides: Mapping[str, Any]) -> ModelInputs:
        inputs, _ = collate(examples).usable()
        placed = inputs.to(self.device, non_blocking=self.device.type == "cuda")
        return replace(placed, content_only=True, overrides={**self.overrides, **overrides})

    def _answers(
        self,
        examples: Sequence[Example],
        texts: Sequence[tuple[str, bool, int]],
        output: Any,
        inputs: ModelInputs,
        choice: ClipChoice,
    ) -> list[Answer]:
        """Answers of rows; ``output`` is an UllavaOutput or a GroundedGeneration."""
        tracker = ClipTracker(self.model, self.processor, choice, inputs.overrides)
        over_time = row_masks(tracker, output.clips, [example.videos for example in examples])
        seg, loc = output.seg, output.loc
        masks: list[list[tuple[torch.Tensor, float]]] = [[] for _ in examples]
        judged, scores = seg.judged()
        logits = judged.cpu()
        for place, (row, score) in enumerate(zip(seg.row.tolist(), scores.tolist(), strict=True)):
            masks[row].append((logits[place], score))
        boxes: list[list[tuple[np.ndarray, float]]] = [[] for _ in examples]
        if loc.boxes_xyxy_head is not None:
            corners = loc.boxes_xyxy_head.cpu().double().numpy()
            for place, (row, score) in enumerate(zip(loc.row.tolist(), loc.scores.tolist(), strict=True)):
                boxes[row].append((corners[place], score))
        presence: list[list[float]] = [[] for _ in examples]
        if seg.presence_logits is not None:
            told = seg.presence_logits.float().sigmoid().tolist()
            for row, value in zip(seg.row.tolist(), told, strict=True):
                presence[row].append(value)
        if self.processor.masks.tells_presence:
            for row, found in enumerate(over_time):
                presence[row] += [max(thing.presence) for thing in found]
        phrases = self._find_phrases(examples, [text for text, _, _ in texts], inputs)
        return [
            self.processor.to_answer(
                text,
                original_hw=[image.original_hw for image in example.images],
                masks=masks[row],
                boxes=boxes[row],
                finished=finished,
                new_tokens=new_tokens,
                phrases=phrases[row],
                chosen=output.chosen[row],
                presence=presence[row],
                over_time=over_time[row],
            )
            for row, (example, (text, finished, new_tokens)) in enumerate(zip(examples, texts, strict=True))
        ]

    def _find_phrases(
        self, examples: Sequence[Example], texts: Sequence[str], inputs: ModelInputs
    ) -> list[dict[int, DetectedPhrase]]:
        """What the box head finds for the words of the answers: for each row, by the place of the thing in it."""
        found: list[dict[int, DetectedPhrase]] = [{} for _ in examples]
        last = np.cumsum([len(example.images) for example in examples]) - 1
        index = [] if inputs.images is None else inputs.images.index.tolist()
        seen = [bool(example.images) and example.images[-1].box_u8 is not None for example in examples]
        images = [index[item] if there else -1 for there, item in zip(seen, last, strict=True)]
        prompts = self.processor.boxes.prompts(texts, images)
        result = None if prompts is None else self.model.find_boxes(prompts.to(self.device), inputs)
        if prompts is None or result is None:
            return found
        parts = (result.boxes_xyxy_head, result.scores, result.word_scores)
        arrays = zip(*(part.cpu().double().numpy() for part in parts), strict=True)
        for row, thing, (boxes, scores, word_scores) in zip(prompts.row, prompts.thing, arrays, strict=True):
            found[row][thing] = DetectedPhrase(boxes, scores, word_scores)
        return found
