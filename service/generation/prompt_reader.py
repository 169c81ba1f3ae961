"""What a program needs of a prompt before its last token: a step for each token, or no step."""

from dataclasses import replace

from service.errors import Validation
from service.generation.request import PENALTY_WINDOW, GenerationRequest
from service.models.step import StepProgram, WindowedProgram
from service.models.window import Padding


class PromptReader:
    """Checks prompts, and reads those of a windowed model, whose state is its window."""

    def __init__(self, program: StepProgram) -> None:
        self._windowed = program if isinstance(program, WindowedProgram) else None

    @property
    def needs_steps(self) -> bool:
        """Whether a prompt takes steps, so that its states are worth a cache."""
        return self._windowed is None

    @property
    def steps_per_token(self) -> int:
        """Steps of the network that a sampled token takes, at most."""
        return 1 if self._windowed is None else self._windowed.window.length

    def close(self) -> None:
        """Free the program. What is read afterwards is for an engine that runs nothing any more."""
        self._windowed = None

    def check(self, n: int) -> None:
        """Check that a generation can begin after `n` tokens in all. Raises Validation."""
        if self._windowed is None or self._windowed.window.padding is not Padding.NONE:
            return
        length = self._windowed.window.length
        if n < length:
            raise Validation(
                f"the model reads {length} tokens for each prediction, and its author's loop never "
                f"pads: the prompt has {n}; begin with at least {length} tokens"
            )

    def read(self, request: GenerationRequest) -> GenerationRequest:
        """Return the same request from the state before the last token of its prompt.

        Only for a windowed model is there such a state without a step; else it is `request`. A text
        that is only scored does not set how many tokens a sliding window holds.
        """
        prompt, is_scored = request.prompt, bool(request.forced_tokens)
        if self._windowed is None or (len(prompt) == 1 and is_scored):
            return request
        return replace(
            request,
            prompt=prompt[-1:],
            initial_state=self._windowed.prefill(
                request.initial_state, prompt, request.sampled_in_prompt
            ),
            penalty_context=(*request.penalty_context, *prompt[:-1])[-PENALTY_WINDOW:],
        )
