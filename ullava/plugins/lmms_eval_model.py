"""The model class that lmms-eval makes (``lmms_eval.api.model.lmms``, a chat model)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from tqdm import tqdm

from ullava.errors import UserError, did_you_mean
from ullava.plugins.harness import Asked, Options, answer_all, asked_of, generation_of

try:
    from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
    from lmms_eval.api.model import lmms
except ImportError as error:
    raise UserError("the model for lmms-eval needs lmms-eval: pip install 'ullava[lmms-eval]'") from error

FORM = "answer"
"""The setting of a task's ``generation_kwargs`` that says how answers are told (ullava.plugins.harness)."""
_OPTIONS = ("answer", "ask", "max_new_tokens", "text_box_frame")


class Ullava(lmms):
    """``--model_args pretrained=tiny,device=cpu,answer=auto``.

    ``pretrained``: a name, a folder or a Hub id; ``device``, ``dtype``: see ``ullava.load``; the others are those of
    ``harness.Options``. A task may say how its answers are told by ``answer`` in its ``generation_kwargs``. Several
    processes: one each under ``torchrun`` or ``accelerate launch``.
    Raises UserError: an unknown argument, no model of that name, a batch size that is no number.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str = "tiny",
        device: str | None = None,
        dtype: str = "auto",
        batch_size: int | str | None = 1,
        **more: Any,
    ) -> None:
        super().__init__()
        more.pop("max_batch_size", None)  # lmms-eval gives it to every model
        unknown = [name for name in more if name not in _OPTIONS]
        if unknown:
            known = ("pretrained", "device", "dtype", "batch_size", *_OPTIONS)
            raise UserError([f"model_args: '{name}' is not an argument{did_you_mean(name, known)}" for name in unknown])
        try:
            size = int(batch_size or 1)
        except ValueError:
            raise UserError(f"batch_size: expected a number, not '{batch_size}'") from None
        self.options = Options(batch_size=size, **more)
        from accelerate import Accelerator

        from ullava.evaluation.run import own_device
        from ullava.inference.load import load

        self.accelerator = Accelerator()
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        self.predictor = load(str(pretrained), device=own_device(device or "auto"), dtype=dtype)

    @property
    def device(self) -> Any:
        """Where the model lies."""
        return self.predictor.device

    @property
    def batch_size(self) -> int:
        """How many questions are answered together."""
        return self.options.batch_size

    def generate_until(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """Answer all requests, in their order; those with equal settings are batched. Raises UserError."""
        results: list[GenerationResult] = []
        with tqdm(total=len(requests), desc="ullava", disable=self.rank != 0) as bar:
            for settings, group in groupby(requests, key=lambda request: request.args[2]):
                given = dict(settings)
                form = given.pop(FORM, None)
                asked = (self._asked(request, form) for request in group)  # images are read as they come
                generation = generation_of(given, self.options.max_new_tokens)
                for text, answer in answer_all(self.predictor, asked, self.options, generation):
                    results.append(GenerationResult(text, TokenCounts(output_tokens=answer.new_tokens)))
                    bar.update()
        return results

    def _asked(self, request: Instance, form: str | None) -> Asked:
        _, doc_to_messages, _, doc_id, task, split = request.args
        messages = doc_to_messages(self.task_dict[task][split][doc_id])
        try:
            return asked_of([_message(message) for message in messages], self.options, form)
        except UserError as error:
            raise UserError([f"{task}/{split}/{doc_id}: {problem}" for problem in error.problems]) from error

    def loglikelihood(self, requests: Any) -> Any:
        """Refuse: UserError. Tasks of this kind compare how likely answers are."""
        raise UserError("tasks that ask for likelihoods are not served; take one of output_type generate_until")

    def generate_until_multi_round(self, requests: Any) -> Any:
        """Refuse: UserError."""
        raise UserError("tasks of several rounds are not served; take one of output_type generate_until")


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return one of lmms-eval's messages as ``asked_of`` takes it; ``content`` may be a text."""
    content = message["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    told = [{"type": part["type"], "value": part["text" if part["type"] == "text" else "url"]} for part in parts]
    return {"role": message["role"], "content": told}
