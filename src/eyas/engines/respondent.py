"""A model that answers examples: prompts rendered, completions sampled, parsed and graded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, TypeVar

from transformers import PreTrainedTokenizerBase

from eyas.engines.base import Generator, Request, Sampled
from eyas.engines.transformers import TransformersEngine
from eyas.grading import can_grade, extract_answer
from eyas.recipe import ExecutionSpec, SamplingSpec, ThinkingSpec
from eyas.records import Example, Mode, SequenceRecord, Source, seed_for
from eyas.storage.models import device_of, load_model
from eyas.storage.tokenization import (
    decode_completion,
    encode_text,
    load_tokenizer,
    render_prompt,
    stop_ids,
    vocabulary_size,
)
from eyas.storage.verdicts import judge
from eyas.thinking import begins_thinking, parse_completion

Job = tuple[Example, Mode, int]
"""An example, a mode and the number of the sample."""
Answering = TypeVar("Answering", bound=Generator)


@dataclass(frozen=True)
class Respondent(Generic[Answering]):
    """An engine with the tokenizer and thinking format that turn examples into tokens and back."""

    engine: Answering
    tokenizer: PreTrainedTokenizerBase
    stop: tuple[int, ...]
    thinking: ThinkingSpec

    def answer(
        self,
        jobs: Sequence[Job],
        *,
        sampling: SamplingSpec,
        source: Source,
        seed: tuple[object, ...],
        too_long: Literal["refuse", "wrong"] = "refuse",
    ) -> list[SequenceRecord]:
        """One graded sequence per job, in order; a job's random stream is a hash of (seed, example, mode, sample).

        A prompt that leaves no room for a completion in the model's context is refused, or answered by a sequence
        without completion that counts as cut at its length limit, and so as wrong.

        Raises: DataError, if a prompt is empty, or is too long and refused; whatever `Engine.generate` raises.
        """
        prompts = [render_prompt(self.tokenizer, example, mode, thinking=self.thinking) for example, mode, _ in jobs]
        requests = [
            Request(
                prompt_ids=encode_text(self.tokenizer, prompt),
                seed=seed_for(*seed, example.id, mode, sample),
            )
            for prompt, (example, mode, sample) in zip(prompts, jobs, strict=True)
        ]
        results = self._completed(requests, sampling=sampling, too_long=too_long)
        texts = [decode_completion(self.tokenizer, result.completion_ids, stop=self.stop) for result in results]
        answers = [
            None if result.finish_reason == "length" else self._answer_part(text, prompt=prompt)
            for text, prompt, result in zip(texts, prompts, results, strict=True)
        ]
        return [
            SequenceRecord(
                example_id=example.id,
                sample=sample,
                mode=mode,
                source=source,
                prompt_ids=request.prompt_ids,
                completion_ids=result.completion_ids,
                finish_reason=result.finish_reason,
                sampling_logprobs=result.logprobs if sampling.temperature > 0 else [],
                text=text,
                answer=None if answer is None else extract_answer(answer, grader=example.grader),
                grade=verdict,
            )
            for (example, mode, sample), request, result, text, answer, verdict in zip(
                jobs, requests, results, texts, answers, _verdicts(answers, jobs), strict=True
            )
        ]

    def _completed(
        self, requests: Sequence[Request], *, sampling: SamplingSpec, too_long: Literal["refuse", "wrong"]
    ) -> list[Sampled]:
        fits = [too_long == "refuse" or len(request.prompt_ids) < self.engine.context for request in requests]
        asked = [request for request, fit in zip(requests, fits, strict=True) if fit]
        made = iter(self.engine.generate(asked, sampling=sampling, stop=self.stop))
        return [next(made) if fit else Sampled(completion_ids=[], logprobs=[], finish_reason="length") for fit in fits]

    def _answer_part(self, text: str, *, prompt: str) -> str:
        whole = self.thinking.open + text if begins_thinking(prompt, thinking=self.thinking) else text
        return parse_completion(whole, thinking=self.thinking).answer


def _verdicts(answers: Sequence[str | None], jobs: Sequence[Job]) -> list[float | None]:
    """One verdict per job; an answer that is None, because the completion was cut, is wrong."""
    examples = [example for example, _, _ in jobs]
    whole = [(answer, example) for answer, example in zip(answers, examples, strict=True) if answer is not None]
    judged = iter(judge([answer for answer, _ in whole], [example for _, example in whole]))
    return [
        next(judged) if answer is not None else 0.0 if can_grade(example) else None
        for answer, example in zip(answers, examples, strict=True)
    ]


def load_respondent(
    path: Path, *, dtype: str, thinking: ThinkingSpec, execution: ExecutionSpec
) -> Respondent[TransformersEngine]:
    """The model in a Hugging Face directory, ready to answer.

    Raises: ModelError, if it cannot be loaded.
    """
    tokenizer = load_tokenizer(path)
    model = load_model(path, dtype=dtype, device=device_of(execution))
    engine = TransformersEngine(model, execution=execution, vocabulary=vocabulary_size(tokenizer))
    return Respondent(engine=engine, tokenizer=tokenizer, stop=stop_ids(tokenizer, path), thinking=thinking)
