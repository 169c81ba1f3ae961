"""Each word of the page is there in each language."""

import re

from service.api.ui_page import FOLDER

TABLE = re.compile(r'^  "([^"]+)": "(.*)",$', re.MULTILINE)
PLACE = re.compile(r"\{(\w+)\}")
USED = re.compile(r"""\bt\(["']([^"']+)["']""")
COMPOSED = re.compile(r"\bt\(`([a-z.]+)\$\{")


def table(language: str) -> dict[str, str]:
    text = (FOLDER / "core" / f"words_{language}.js").read_text()
    found = TABLE.findall(text)
    assert len(found) == text.count('": "'), "a line has another form"
    assert len(dict(found)) == len(found), "a key is there twice"
    return dict(found)


def code() -> str:
    paths = [p for p in FOLDER.rglob("*.js") if p.parent.name != "vendor"]
    return "\n".join(path.read_text() for path in paths)


def test_the_languages_have_the_same_words_with_the_same_places():
    english, chinese = table("en"), table("zh")
    assert set(english) == set(chinese)
    for key, words in english.items():
        assert set(PLACE.findall(words)) == set(PLACE.findall(chinese[key])), key


def test_chinese_is_chinese():
    same = {key for key, words in table("zh").items() if words.isascii()}
    assert same <= {"parameter.min_p", "parameter.top_k", "parameter.top_p"}


def test_every_word_that_is_used_is_there_and_every_one_that_is_there_is_used():
    text, keys = code(), set(table("en"))
    used, stems = set(USED.findall(text)), set(COMPOSED.findall(text))
    quoted = set(re.findall(r'"([a-zA-Z_.]+)"', re.sub(r"(?m)^  \"[^\n]*$", "", text)))
    assert used - keys == set()
    reached = {key for key in keys if any(key.startswith(stem) for stem in stems)}
    assert keys - used - reached - quoted == set()
    assert all(any(key.startswith(stem) for key in keys) for stem in stems)
