"""The check of a vocabulary by the training text, with the model itself as the judge."""

from service.errors import BadCheckpoint
from service.models.importing.assumptions import Assumptions
from service.models.importing.text_score import TextScore, score_text
from service.models.importing.training_text import EXCERPT, Candidate, candidates, readings
from service.models.spec import ModelSpec
from service.models.step import StepProgram
from service.models.tokenizers import read_tokenizer
from service.models.tokenizers.special_tokens import UnknownPolicy
from service.models.tokenizers.tokenizer import Tokenizer
from service.models.tokenizers.words import WordTokenizer

FIRST_TOKENS, TOKENS = 1_500, 10_000
"""Tokens that are scored of each candidate, and of the best one."""

MIN_TOKENS = 30  # tokens that have to be scored for a verdict
_WORSE = 0.1  # nats by which a given order may score above one that is made of the text
_NEAR = 0.25  # nats by which an order has to be better than a more usual one


def vocabulary_of_text(
    text: str, spec: ModelSpec, program: StepProgram, assumptions: Assumptions
) -> tuple[Tokenizer, str]:
    """Find the vocabulary of a training text by score; return its tokenizer and the record.

    Raises BadCheckpoint if no candidate of the right size fits the model.
    """
    found = candidates(text, spec.vocabulary_size)
    scores = [(_score(each, spec, program, FIRST_TOKENS), each) for each in found]
    least = min(score.nats for score, _ in scores)
    # Orders that differ in a few ids score alike: the usual one comes first.
    best = next(each for score, each in scores if score.nats <= least + _NEAR)
    score = _score(best, spec, program, TOKENS)
    if len(score.tokens) < MIN_TOKENS:
        raise BadCheckpoint(
            f"the training text has {len(best.text)} characters, too few to tell the order of its "
            "tokens by: give more of it, or the tokens themselves as `vocabulary`"
        )
    if not score.is_of_the_model:
        what = "words" if isinstance(best.tokenizer, WordTokenizer) else "characters"
        raise BadCheckpoint(
            f"no order of these {what} fits the weights: the text is another one, or the list was "
            "made by a set, whose order Python does not repeat; only the map saved at training "
            f"helps: give it as `vocabulary`. Of {len(found)} orders tried, {best.name} is the "
            f"best with {score.nats:.2f} nats per token, and the frequencies of single tokens "
            f"alone give {score.entropy:.2f}"
        )
    _check_places(score, best.tokenizer)
    near = [each.name for s, each in scores if each is not best and s.nats <= least + _NEAR]
    others = f"; these fit as well: {', '.join(near)}" if near else ", which fits best"
    assumptions.note(f"the vocabulary is the {best.name} of the text{others}")
    if best.note:
        assumptions.note(best.note)
    return best.tokenizer, _record(score)


def check_vocabulary(tokenizer: Tokenizer, text: str, spec: ModelSpec, program: StepProgram) -> str:
    """Check a given vocabulary by the training text; return the record. Raises BadCheckpoint."""
    scores = [
        (_score(Candidate(tokenizer, read, ""), spec, program, FIRST_TOKENS), read)
        for read, _ in readings(text[:EXCERPT])
    ]
    _, read = min(scores, key=lambda pair: pair[0].nats)
    score = _score(Candidate(tokenizer, read, ""), spec, program, TOKENS)
    if len(score.tokens) < MIN_TOKENS:
        raise BadCheckpoint(
            f"the training text has {len(score.tokens)} of the vocabulary's tokens in a place "
            "that can be scored, too few to check their order by: give more of it, or none"
        )
    if not score.is_of_the_model:
        raise BadCheckpoint(
            f"the vocabulary is not in the order of the model's ids: the text scores "
            f"{score.nats:.2f} nats per token, and the frequencies of single tokens alone give "
            f"{score.entropy:.2f}; give the map that was saved at training, or the text alone"
        )
    _check_places(score, tokenizer)
    _check_against_text(score, tokenizer, text, spec, program)
    return _record(score)


def _check_against_text(
    score: TextScore, tokenizer: Tokenizer, text: str, spec: ModelSpec, program: StepProgram
) -> None:
    """Refuse a vocabulary where one that is made of the text fits better."""
    try:
        found = candidates(text, spec.vocabulary_size)
    except BadCheckpoint:  # the model has another vocabulary than the text alone gives
        return
    for each in found:
        if each.tokenizer.tokens == tokenizer.tokens:
            continue
        if _score(each, spec, program, FIRST_TOKENS).nats < score.nats - _WORSE:
            nats = _score(each, spec, program, TOKENS).nats
            if nats < score.nats - _WORSE:
                raise BadCheckpoint(
                    "the vocabulary is not in the order of the model's ids: the text scores "
                    f"{score.nats:.2f} nats per token, but {nats:.2f} with the {each.name}; give "
                    "the map that was saved at training, or the text alone"
                )


def _check_places(score: TextScore, tokenizer: Tokenizer) -> None:
    if misplaced := score.misplaced:
        listed = ", ".join(repr(tokenizer.tokens[token]) for token in misplaced[:10])
        raise BadCheckpoint(
            f"the vocabulary has tokens at wrong ids: the model does not predict {listed} where "
            "the text has them; give the map that was saved at training"
        )


def _record(score: TextScore) -> str:
    return (
        f"the training text scores {score.nats:.2f} nats per token over {len(score.tokens)} "
        f"tokens, below the {score.entropy:.2f} of its single tokens"
    )


def _score(candidate: Candidate, spec: ModelSpec, program: StepProgram, most: int) -> TextScore:
    tokenizer = candidate.tokenizer
    known = read_tokenizer(tokenizer.tokens, UnknownPolicy.SKIP, tokenizer.options, tokenizer.files)
    lines = candidate.text.splitlines(keepends=True)
    encoded = [known.encode(line) for line in lines]
    return score_text(program, spec, encoded, tokenizer.suppressed_ids, most)
