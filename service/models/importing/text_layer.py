"""The vocabulary of a layer of the model that converts text into tokens.

Sources: Keras 2 and 3, `layers.TextVectorization`, `layers.StringLookup`.
"""

from collections.abc import Sequence
from typing import Any

from service.errors import BadCheckpoint, Validation
from service.models.importing.assumptions import Assumptions
from service.models.importing.checkpoint import Checkpoint
from service.models.importing.keras_graph import read_calls
from service.models.importing.keras_layer import TEXT_LAYERS, KerasLayer
from service.models.importing.vocabulary import Vocabulary, decode
from service.models.tokenizers.word_rules import text_vectorization_rules

_FILE = "vocabulary.txt"
_STANDARDIZE = ("lower_and_strip_punctuation", "lower", "strip_punctuation", None)
_NO_VOCABULARY = (
    "give `vocabulary` (--vocabulary: a JSON list of tokens, a Keras Tokenizer's to_json(), or one "
    "token a line) or `vocabulary_text` (--vocabulary-text: the training text), or both: the text "
    "then checks the order of the vocabulary"
)


def model_vocabulary(
    checkpoint: Checkpoint,
    given: Vocabulary | None,
    assumptions: Assumptions,
    *,
    has_text: bool,
) -> Vocabulary | None:
    """Return the vocabulary of the model's own text layer, else the `given` one.

    Raises Validation if there is neither, and no training text; BadCheckpoint if the layer's rules
    are not served and no vocabulary is given.
    """
    calls = () if checkpoint.config is None else read_calls(checkpoint.config)
    layer = next((call.layer for call in calls if call.layer.class_name in TEXT_LAYERS), None)
    if layer is None:
        if given is None and not has_text:
            raise Validation(_NO_VOCABULARY)
        return given
    try:
        own = _vocabulary(layer, checkpoint, assumptions)
    except BadCheckpoint as error:
        if given is None and not has_text:
            raise
        assumptions.note(f"the model's own vocabulary is not used: {error}")
        return given
    assumptions.note(f"the vocabulary is that of layer {layer.name!r}")
    if given is not None and given.tokens != own.tokens:
        assumptions.note("the vocabulary that is given is another one, and is not used")
    return own


def _vocabulary(layer: KerasLayer, checkpoint: Checkpoint, assumptions: Assumptions) -> Vocabulary:
    """Return the vocabulary with its rules. Raises BadCheckpoint."""
    is_lookup = layer.class_name == "StringLookup"
    mask = layer.config.get("mask_token") if is_lookup else ""
    oov = layer.config.get("oov_token", "[UNK]") if is_lookup else "[UNK]"
    layer.expect("num_oov_indices", 1, 0)
    if not isinstance(oov, str) or not isinstance(mask, str | None):
        layer.refuse("its mask_token or its oov_token is not text")
    special = [] if mask is None else [mask]
    special += [oov] * layer.config.get("num_oov_indices", 1)
    tokens = _tokens(layer, checkpoint)
    if list(tokens[: len(special)]) != special:
        tokens = (*special, *tokens)
    unknown = oov if oov in special else None
    plain = tokens[len(special) :]
    if is_lookup:
        kind = "keras_characters" if all(len(token) == 1 for token in plain) else None
        return Vocabulary(tokens, tokenizer=kind, unknown_token=unknown)
    standardize, split = layer.config.get("standardize"), layer.config.get("split")
    if standardize not in _STANDARDIZE:
        layer.refuse(
            f"its standardize is {str(standardize)[:80]!r}, a function whose code is not in the "
            "file: give the tokens as `vocabulary`"
        )
    if split == "whitespace":
        rules = text_vectorization_rules(standardize)
        return Vocabulary(
            tokens, tokenizer="text_vectorization", rules=rules, unknown_token=unknown
        )
    if split != "character":
        layer.refuse(
            f"its split is {str(split)[:80]!r}; served are whitespace and character: give the "
            "tokens as `vocabulary`"
        )
    _check_characters(layer, plain, standardize or "", assumptions)
    is_lower = "lower" in (standardize or "")
    return Vocabulary(
        tokens, tokenizer="keras_characters", is_lower=is_lower, unknown_token=unknown
    )


def _check_characters(
    layer: KerasLayer, tokens: Sequence[str], standardize: str, assumptions: Assumptions
) -> None:
    if "strip_punctuation" in standardize:
        layer.refuse(
            "it splits a text into characters without punctuation: give the tokens as "
            "`vocabulary`, and prompts without punctuation"
        )
    if "lower" in standardize:
        if any(token.lower() != token for token in tokens):
            layer.refuse(
                "it makes A to Z lower case, but has tokens of other letters in upper case: give "
                "the tokens as `vocabulary`"
            )
        assumptions.note(
            "prompts are made lower case; the author's layer makes only A to Z lower case"
        )


def _tokens(layer: KerasLayer, checkpoint: Checkpoint) -> tuple[str, ...]:
    """Return the tokens in the config, else those in a file of the archive."""
    stated: Any = layer.config.get("vocabulary")
    if isinstance(stated, list) and stated and all(isinstance(token, str) for token in stated):
        return tuple(stated)
    files = {content for name, content in checkpoint.assets.items() if name.endswith(_FILE)}
    if len(files) != 1:
        layer.refuse(
            f"it converts text by a vocabulary, and the file has {len(files) or 'none'} of it: "
            "give the tokens as `vocabulary`"
        )
    tokens = tuple(decode(files.pop(), "the model's vocabulary").split("\n"))
    if len(set(tokens)) < len(tokens):
        layer.refuse(
            "its vocabulary has a token twice, perhaps a line break, which its file cannot hold: "
            "give the tokens as `vocabulary`"
        )
    return tokens
