"""Files of examples as text: what is accepted, and the sentence for what is not."""

import json

import pytest

from service.errors import Validation
from service.training.examples import MAX_LINE_BYTES, write_text


def text_of(tmp_path, content: bytes, excess=lambda _: None) -> tuple[int | None, str]:
    (tmp_path / "in").write_bytes(content)
    (tmp_path / "out").unlink(missing_ok=True)
    n = write_text(tmp_path / "in", tmp_path / "out", excess)
    return n, (tmp_path / "out").read_bytes().decode()


def lines(*values) -> bytes:
    return "".join(json.dumps(value) + "\n" for value in values).encode()


HI, REPLY = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "é"}
PAIRS = lines({"prompt": "a ", "completion": "b"}, {"completion": "d", "prompt": "c\n"})


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (lines({"text": "one"}, {"text": "two\n"}), "one\ntwo\n"),
        (PAIRS, "a b\nc\nd\n"),
        (lines({"messages": [HI, REPLY]}), "user: hi\nassistant: é\n"),
        (b"\xef\xbb\xbf\n  \n" + lines({"text": "after blanks"}) + b"\n", "after blanks\n"),
        (b'{"text": "no line break"}', "no line break\n"),
        (b'{"text": "\\ud83d\\ude42"}\r\n', "🙂\n"),
    ],
)  # fmt: skip
def test_examples_follow_each_other(tmp_path, content, expected):
    n, text = text_of(tmp_path, content)
    assert text == expected
    assert n == sum(b"{" in line for line in content.splitlines())


@pytest.mark.parametrize(
    "content", [b"a text\n{}\n", b"", b"[1, 2]\n", b"{ no JSON\nat all", b"\n\n"]
)
def test_any_other_file_is_the_text_itself(tmp_path, content):
    assert text_of(tmp_path, content) == (None, content.decode())


GOOD = {"text": "good"}


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ({"input": "x"}, 'line 2 is no example; one is {"text"}, {"prompt", "completion"} or'),
        ([], "line 2 is no example"),
        ({"text": "x", "weight": 0}, "line 2 has 'weight' beside 'text'"),
        ({"text": 7}, "line 2: `text` must be a text"),
        ({"text": ""}, "line 2 is an example without a text"),
        ({"text": "\ud800"}, "line 2 has half of a surrogate pair"),
        ({"prompt": "x", "completion": "y"}, "line 2 has 'prompt', and those before have 'text'"),
        ("{", "line 2 is no example"),
    ],
)
def test_what_is_no_example_is_named_by_its_line(tmp_path, line, sentence):
    with pytest.raises(Validation) as refused:
        text_of(tmp_path, lines(GOOD, line))
    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        ({"role": "user"}, "a message is a `role` and a `content`"),
        ({"role": "assistant", "content": "x", "weight": 0}, "no weight, name, tool or picture"),
        ({"role": "user", "content": [{"type": "text", "text": "x"}]}, "both texts"),
        ({"role": "tool", "content": "x"}, "line 1: a message has the role 'tool'"),
    ],
)
def test_messages_that_cannot_be_trained_on(tmp_path, message, sentence):
    with pytest.raises(Validation) as refused:
        text_of(tmp_path, lines({"messages": [message]}))
    assert sentence in str(refused.value)


def test_a_prompt_without_its_completion(tmp_path):
    with pytest.raises(Validation, match="`prompt` and `completion` must be a text"):
        text_of(tmp_path, lines({"prompt": "x"}))
    with pytest.raises(Validation, match="`messages` is a list"):
        text_of(tmp_path, lines({"messages": []}))


def test_broken_json_after_an_example(tmp_path):
    with pytest.raises(Validation, match="line 2 is not JSON"):
        text_of(tmp_path, lines(GOOD) + b'{"text": \n')
    with pytest.raises(Validation, match="line 2 is not JSON"):
        text_of(tmp_path, lines(GOOD) + b'{"text": "\xff"}\n')
    with pytest.raises(Validation, match="line 2"):
        text_of(tmp_path, lines(GOOD) + b'{"text": ' + b"[" * 100_000 + b"\n")


def test_limits_of_a_line(tmp_path):
    with pytest.raises(Validation, match="line 1 has more than 4194304 bytes; cut the example"):
        text_of(tmp_path, lines({"text": "x" * MAX_LINE_BYTES}))


def test_the_limits_of_json_hold_for_each_line(tmp_path):
    def excess(line: bytes) -> str | None:
        return "too much" if b"[[" in line else None

    with pytest.raises(Validation, match="line 2: too much"):
        text_of(tmp_path, lines(GOOD) + b'{"text": [[]]}\n', excess)
