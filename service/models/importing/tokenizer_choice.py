"""The tokenizer of a vocabulary, by its file, by its tokens, and by what is assumed."""

import json
from collections.abc import Sequence
from dataclasses import replace

from service.errors import BadCheckpoint
from service.models.importing.assumptions import Assumptions
from service.models.importing.vocabulary import Vocabulary
from service.models.tokenizers.characters import CharacterTokenizer
from service.models.tokenizers.special_tokens import (
    BEGIN_TOKENS,
    END_TOKENS,
    PAD_TOKENS,
    UNKNOWN_TOKENS,
    SpecialTokens,
    UnknownPolicy,
)
from service.models.tokenizers.subword_json import template
from service.models.tokenizers.subword_text_encoder import SubwordTextEncoder
from service.models.tokenizers.subwords import SubwordTokenizer
from service.models.tokenizers.tokenizer import Tokenizer
from service.models.tokenizers.word_rules import (
    TEXTGENRNN_RULES,
    UNICODE_WHITESPACE,
    Lower,
    Punctuation,
    WordRules,
    keras_rules,
    text_vectorization_rules,
)
from service.models.tokenizers.words import WordTokenizer
from service.models.window import Padding, Window

WORD_RULES = {
    "keras_words": keras_rules(),
    "text_vectorization": text_vectorization_rules(),
    "split": WordRules(),
    "split_lower": WordRules(Lower.UNICODE),
    "symbols": WordRules(),
    "textgenrnn_words": TEXTGENRNN_RULES,
}
"""The rules of each value of `assume.tokenizer` whose tokens are words."""

_NAMES = frozenset((*UNKNOWN_TOKENS, *PAD_TOKENS, *BEGIN_TOKENS, *END_TOKENS))
_LINE_RULES = WordRules(Lower.NONE, Punctuation.WORD, "\n", " ")  # a line break is a word
_SHOWN = 10  # tokens in a message


def choose_tokenizer(
    vocabulary: Vocabulary, size: int, assumptions: Assumptions, window: Window | None = None
) -> Tokenizer:
    """Return the tokenizer of a vocabulary for a model of `size` tokens. Raises BadCheckpoint.

    `window` is what the model reads; its padding may begin an empty prompt.
    """
    given = assumptions.given("tokenizer")
    if given is not None and vocabulary.tokenizer not in (None, given):
        raise BadCheckpoint(
            f"the vocabulary's file states its tokenizer ({vocabulary.tokenizer}), but "
            f"assume.tokenizer is {given}; leave assume.tokenizer out"
        )
    if vocabulary.tokenizer == "subwords":
        return _subwords(vocabulary, assumptions)
    if vocabulary.tokenizer == "subword_text_encoder":
        return SubwordTextEncoder.from_file(vocabulary.content, size)
    kind = given or vocabulary.tokenizer
    vocabulary = _fitted(vocabulary, size, assumptions)
    tokens = vocabulary.tokens
    if kind is None:
        kind = _kind_of(tokens, assumptions)
    if kind in ("characters", "keras_characters", "textgenrnn"):
        return _characters(vocabulary, kind, assumptions, window)
    return _words(vocabulary, kind, assumptions, window)


def _subwords(vocabulary: Vocabulary, assumptions: Assumptions) -> Tokenizer:
    tokenizer = SubwordTokenizer(
        vocabulary.content, assumptions.unknown_policy(UnknownPolicy.ERROR)
    )
    special = _special(tokenizer.tokens, vocabulary, assumptions, are_words=True)
    if not assumptions.has_special_tokens:
        special = tokenizer.special
    special = _with_template(special, vocabulary.content, tokenizer.tokens, assumptions)
    if special != tokenizer.special:
        tokenizer = SubwordTokenizer(vocabulary.content, tokenizer.unknown, special)
    tokenizer.check_decoder()
    return tokenizer


def _with_template(
    special: SpecialTokens, content: bytes, tokens: Sequence[str], assumptions: Assumptions
) -> SpecialTokens:
    """Add the token that the file's post-processor puts before each text, if it does."""
    before, after = template(json.loads(content))
    if any(not 0 <= token < len(tokens) for token in (*before, *after)):
        raise BadCheckpoint("the post_processor of tokenizer.json adds ids that are no tokens")
    if after:
        names = ", ".join(repr(tokens[token]) for token in after)
        assumptions.note(
            f"tokenizer.json adds {names} after a text; it is left out, because a prompt goes on"
        )
    if not before:
        return special
    if len(before) > 1 or (
        special.begin not in (None, before[0]) and assumptions.given("begin_token")
    ):
        raise BadCheckpoint(
            f"the post_processor of tokenizer.json begins a text with "
            f"{', '.join(repr(tokens[token]) for token in before)}; one token is served, the same "
            "as assume.begin_token"
        )
    assumptions.note(f"each prompt begins with {tokens[before[0]]!r}, as tokenizer.json has it")
    return replace(special, begin=before[0], is_begin_added=True)


def _fitted(vocabulary: Vocabulary, size: int, assumptions: Assumptions) -> Vocabulary:
    """Make the tokens begin at id 0 and end at the model's size. Raises BadCheckpoint."""
    tokens, n = vocabulary.tokens, len(vocabulary.tokens)
    are_characters = all(len(token) == 1 for token in tokens)
    if vocabulary.first_id == 1 and n == size and are_characters:
        assumptions.note(
            f"ids begin at 1, and the model has exactly {size} tokens: it is taken to use ids "
            "less 1"
        )
    elif vocabulary.first_id == 1:
        assumptions.note(
            "ids begin at 1, as a Keras Tokenizer's do: token 0 is taken to be the padding"
        )
        pad = next(name for name in PAD_TOKENS if name not in tokens)
        tokens = (pad, *tokens)
    num_words = vocabulary.num_words
    if num_words is not None and num_words < len(tokens) and num_words not in (size, size - 1):
        raise BadCheckpoint(
            f"the Tokenizer has num_words {num_words}, so it gives ids below that, but the weights "
            f"are made for {size} tokens; give the Tokenizer that the model was trained with"
        )
    if num_words == size - 1 < len(tokens):
        tokens = (*tokens[:num_words], "[unused]")  # the Tokenizer never gives the last id
        assumptions.note(f"the Tokenizer has num_words {num_words}: id {num_words} is never used")
    if len(tokens) > size and _may_be_cut(vocabulary, size):
        assumptions.note(
            f"the vocabulary has {len(tokens)} tokens and the model {size}: it is cut to these, "
            "as a Tokenizer with num_words does"
        )
        tokens = tokens[:size]
    if len(tokens) != size:
        raise BadCheckpoint(_size_error(tokens, size))
    return replace(vocabulary, tokens=tokens, first_id=0)


def _may_be_cut(vocabulary: Vocabulary, size: int) -> bool:
    """Whether a Keras Tokenizer with num_words may have made a model of `size` tokens."""
    if vocabulary.tokenizer == "keras_words":
        return vocabulary.num_words == size
    tokens = vocabulary.tokens
    has_words = sum(len(token) > 1 for token in tokens) * 2 > len(tokens)
    has_pad = vocabulary.first_id == 1 or tokens[0] in PAD_TOKENS
    return vocabulary.tokenizer is None and has_pad and has_words


def _size_error(tokens: Sequence[str], size: int) -> str:
    message = f"the vocabulary has {len(tokens)} tokens, but the weights are made for {size}"
    if len(tokens) + 1 == size:
        return (
            f"{message}: if the model looked tokens up with StringLookup, the list begins with "
            '"[UNK]"; if ids began at 1, it begins with "" for the padding'
        )
    if len(tokens) == size + 1:
        listed = ", ".join(repr(token) for token in tokens if not token.isalnum())[:200]
        return f"{message}: one token is not the model's; those that are no letters are {listed}"
    return f"{message}: give the tokenizer's file, or the text, that this model was trained with"


def _kind_of(tokens: Sequence[str], assumptions: Assumptions) -> str:
    """Tell characters from words, and which words, by the tokens themselves."""
    plain = [token for token in tokens if token not in _NAMES]
    longer = [token for token in plain if len(token) > 1]
    if not longer:
        return "characters"
    if len(longer) * 10 < len(plain) and len(plain) > _SHOWN:
        raise BadCheckpoint(
            f"{len(plain) - len(longer)} tokens of the vocabulary are single characters, and "
            f"{len(longer)} are longer: {', '.join(map(repr, longer[:_SHOWN]))}; if these pad, "
            "begin or end a text, `assume` names them: unknown_token, pad_token, begin_token, "
            'end_token; if tokens are words, `assume` {"tokenizer": "split"}'
        )
    if tokens[:2] == ("", "[UNK]"):
        kind = "text_vectorization"
    elif all(_is_word(keras_rules(), token) for token in plain):
        kind = "keras_words"
    elif any(character.isspace() for token in plain for character in token.replace("\n", "")):
        odd = next(token for token in plain if any(c.isspace() for c in token.replace("\n", "")))
        raise BadCheckpoint(
            f"the token {odd[:40]!r} of the vocabulary has a blank in it, so no text can be split "
            "into such tokens: give the tokenizer that the model was trained with, for instance "
            "as tokenizer.json"
        )
    else:
        kind = "symbols"
    assumptions.note(
        f"the tokens are taken to be words ({kind}): a list does not state how a text is split; "
        f"`assume.tokenizer` can be {', '.join(WORD_RULES)}"
    )
    return kind


def _is_word(rules: WordRules, token: str) -> bool:
    return [word for word, _, _ in rules.words(token)] == [token]


def _characters(
    vocabulary: Vocabulary, kind: str, assumptions: Assumptions, window: Window | None
) -> Tokenizer:
    tokens = vocabulary.tokens
    special = _special(tokens, vocabulary, assumptions, are_words=False)
    default, is_textgenrnn = UnknownPolicy.ERROR, kind == "textgenrnn"
    if is_textgenrnn:
        special = _textgenrnn(vocabulary)
        default = UnknownPolicy.UNK
    elif kind == "keras_characters":
        default = UnknownPolicy.SKIP if vocabulary.unknown_token is None else UnknownPolicy.UNK
    special = _begun_by_pad(special, window)
    for i, token in enumerate(tokens):
        if len(token) != 1 and i not in special.ids and token not in _NAMES:
            raise BadCheckpoint(
                f"token {i} of the vocabulary, {token[:40]!r}, has {len(token)} characters among "
                "tokens of one: `assume` says what it is, by unknown_token, pad_token, "
                "begin_token or end_token"
            )
    is_lower = vocabulary.is_lower
    if (lower := assumptions.given("lower")) is not None:
        if vocabulary.tokenizer is not None and is_lower != (lower == "true"):
            raise BadCheckpoint(
                f"the Tokenizer states lower {is_lower}, but assume.lower is {lower}; leave "
                "assume.lower out"
            )
        is_lower = lower == "true"
    return CharacterTokenizer(
        tokens, assumptions.unknown_policy(default), special, is_lower=is_lower
    )


def _words(
    vocabulary: Vocabulary, kind: str, assumptions: Assumptions, window: Window | None
) -> Tokenizer:
    tokens = vocabulary.tokens
    rules = vocabulary.rules or WORD_RULES.get(kind)
    if rules is None:
        raise BadCheckpoint(f"the vocabulary is not one of {kind}")
    special = _special(tokens, vocabulary, assumptions, are_words=True)
    default = UnknownPolicy.ERROR
    if kind == "textgenrnn_words":
        special, default = _textgenrnn(vocabulary), UnknownPolicy.UNK
    elif kind in ("keras_words", "text_vectorization"):
        default = UnknownPolicy.SKIP if special.unknown is None else UnknownPolicy.UNK
        if default is UnknownPolicy.SKIP and assumptions.given("unknown_character") is None:
            assumptions.note("unknown words of a prompt are skipped, as the Tokenizer does")
    if kind == "keras_words" and special.pad == 0 and not special.end:
        # The author's loop finds no word for 0, so its text does not change any more.
        special = replace(special, end=(0,))
        assumptions.note("token 0, the padding, ends a text when it is predicted")
    if "\n" in tokens and rules.separator == UNICODE_WHITESPACE and not rules.characters:
        rules = replace(_LINE_RULES, lower=rules.lower)
        assumptions.note("a line break is a token: a text is split at blanks and around it")
    special = _begun_by_pad(special, window)
    # A Keras loop appends the name of the unknown token like any word.
    policy, is_sampled = assumptions.unknown_policy(default), kind == "keras_words"
    return WordTokenizer(tokens, policy, rules, special, is_unknown_sampled=is_sampled)


def _begun_by_pad(special: SpecialTokens, window: Window | None) -> SpecialTokens:
    """Begin an empty prompt with the pad where the window reads pads before a text anyway."""
    if window is None or window.pad is None or special.begin is not None:
        return special
    is_before = window.padding is Padding.LEFT and not window.is_sliding and not window.keeps_first
    return (
        replace(special, begin=window.pad) if is_before and special.pad == window.pad else special
    )


def _textgenrnn(vocabulary: Vocabulary) -> SpecialTokens:
    """Unknown tokens are 0, which is never generated; `<s>` begins and ends a text.

    A model of a single text begins with nothing: with pads.
    """
    tokens = vocabulary.tokens
    meta = tokens.index("<s>") if "<s>" in tokens else None
    end = () if meta is None else (meta,)
    is_single = vocabulary.is_single_text or meta is None
    begin = 0 if is_single else meta
    return SpecialTokens(0, 0, begin, end, is_begin_added=not is_single)


def _special(
    tokens: Sequence[str], vocabulary: Vocabulary, assumptions: Assumptions, *, are_words: bool
) -> SpecialTokens:
    """Find the special tokens by the names that are given, else by the usual ones."""
    special = SpecialTokens.by_name(tokens, are_words=are_words)

    def given(role: str) -> int | None:
        name = assumptions.given(f"{role}_token")
        if role == "unknown" and name is None:
            name = vocabulary.unknown_token
        if name is None:
            return None
        name = {"\\n": "\n", "\\t": "\t"}.get(name, name)
        if name not in tokens:
            raise BadCheckpoint(f"assume.{role}_token is {name[:40]!r}, which is no token")
        return tokens.index(name)

    pad, unknown, begin, end = (given(role) for role in ("pad", "unknown", "begin", "end"))
    return SpecialTokens(
        special.pad if pad is None else pad,
        special.unknown if unknown is None else unknown,
        special.begin if begin is None else begin,
        special.end if end is None else (end,),
    )
