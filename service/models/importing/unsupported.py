"""Files that are no checkpoint: what each is, and what its owner can do."""

import re

_PROGRAM = "which is a program, and nothing in a file is ever executed"
_SAFETENSORS = (
    "in Python: `from safetensors.torch import save_file`, then "
    "`save_file(torch.load(a, weights_only=True), b)`"
)
PYTORCH = f"it is a PyTorch archive, whose weights are a pickle, {_PROGRAM}; {_SAFETENSORS}"
TORCHSCRIPT = (
    f"it is TorchScript, {_PROGRAM}; in Python: `from safetensors.torch import save_file`, then "
    "`save_file(torch.jit.load(a).state_dict(), b)`"
)
_PICKLE = (
    f"it is a pickle, {_PROGRAM}; if it is a Keras Tokenizer, in Python: "
    "`json.dump(pickle.load(open(a, 'rb')).word_index, open(b, 'w'))`, or write its `.to_json()`; "
    "if it is weights, save the model with Keras"
)
_JOBLIB = (
    "it is compressed by zlib, as joblib compresses a pickle, "
    f"{_PROGRAM}; in Python: `json.dump(joblib.load(a).word_index, open(b, 'w'))`"
)
_LFS = (
    "it is a Git LFS pointer of {size} bytes: download the file itself, by `git lfs pull` or from "
    "the page of the file"
)
_HTML = "it is an HTML page, not the file that it shows: download the file itself, by its raw link"
_TFLITE = "it is a TensorFlow Lite model, whose recurrent state cannot be kept between steps"
_JSON = (
    "it is JSON, which is at most an architecture without weights: give the .h5 file of weights, "
    "and put the architecture beside it under the same name with .json"
)
_FIRST = "the model's file is the first argument (`source`)"
_TOKENIZER = (
    "it is a Keras Tokenizer's JSON, which is a vocabulary without a model: give it as "
    f"`vocabulary` (--vocabulary); {_FIRST}"
)
_TOKENIZER_JSON = _TOKENIZER.replace("a Keras Tokenizer's JSON", "a Hugging Face tokenizer.json")
_VOCABULARY = (
    "it is JSON with tokens, which is a vocabulary without a model: give it as `vocabulary` "
    f"(--vocabulary); {_FIRST}"
)
_TEXT = (
    "it is a text: give the training text as `vocabulary_text` (--vocabulary-text), a list of "
    f"tokens as `vocabulary` (--vocabulary); {_FIRST}"
)
_YAML = "it is a model in YAML, which is an architecture without weights"
_OLD_PICKLE = (  # of protocols 0 and 1: a dict, a list, or an object by its module and name
    rb"\([dl]p\d*\n|[\]}]q[\0-\x20]|(?:\(i)?c?(?:copy_?reg|__builtin__|builtins|collections|"
    rb"[\w.]+\.[\w.]+)\n\w+\n"
)
_BY_CONTENT = (  # a pattern of the first bytes, and what such a file is
    (rb"\Z", "it is empty"),
    (rb"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19\.", PYTORCH),
    (rb"\x80[\x02-\x05]", _PICKLE),
    (_OLD_PICKLE, _PICKLE),
    (rb".{4}TFL3", _TFLITE),
    (rb"version https://git-lfs", _LFS),
    (rb"(?i:\s*<(?:!doctype html|html|head))", _HTML),
    (rb"\s*(?:backend|class_name|config|keras_version): ", _YAML),
    (rb'\s*"?\{\s*\\?"class_name\\?":\s*\\?"Tokenizer', _TOKENIZER),
    (rb'\s*\{.*"(?:truncation|added_tokens)":', _TOKENIZER_JSON),
    (rb'\s*(?:\[\s*"|\{\s*"(?:[^"\\]|\\.)*":\s*"?\d|\{\s*"\d+":\s*")', _VOCABULARY),
    (rb"\s*\{", _JSON),
    (rb"\x1f\x8b|BZh|\xfd7zXZ", "it is compressed; unpack it first"),
    (rb"x[\x01\x5e\x9c\xda]", _JOBLIB),
)
_BY_NAME = (
    (
        r"\.data-\d{5}-of-\d{5}\Z",
        "it is the data of a TensorFlow checkpoint; give its .index file or its folder",
    ),
)


def is_pickle(content: bytes) -> bool:
    """Return whether a file is a pickle of any protocol, or one that joblib has compressed."""
    pattern = rb"\x80[\x02-\x05]|x[\x01\x5e\x9c\xda]|" + _OLD_PICKLE
    return re.match(pattern, content, re.DOTALL) is not None


def _is_text(head: bytes) -> bool:
    """Whether the first bytes of a file are UTF-8 without control characters."""
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        if error.reason != "unexpected end of data":  # of a character that the end cuts
            return False
        text = head[: error.start].decode()
    return re.search(r"[\0-\x08\x0e-\x1f\x7f]", text) is None and bool(text.strip())


def reason_of(head: bytes, name: str, size: int) -> str:
    """Return the most specific reason why a file is refused; `head` is its first bytes."""
    reasons = [why for pattern, why in _BY_NAME if re.search(pattern, name)]
    reasons += [why for pattern, why in _BY_CONTENT if re.match(pattern, head, re.DOTALL)]
    if _is_text(head):
        reasons.append(_TEXT)
    reasons.append(
        "it has none of the supported formats: a TensorFlow checkpoint or SavedModel, a .keras, "
        ".weights.h5 or .h5 file of Keras, or a .safetensors file of PyTorch"
    )
    return reasons[0].replace("{size}", str(size))
