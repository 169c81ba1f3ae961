"""The how-to's examples, run as they stand."""

import doctest
import re

from tests.process import ROOT

PAGE = ROOT / "docs" / "how-to" / "python-client.md"


def test_every_example_of_the_page_is_true(server):
    blocks = re.findall(r"```pycon\n(.*?)```", PAGE.read_text(), re.DOTALL)
    source = "".join(blocks).replace("http://127.0.0.1:8000", server.url)
    test = doctest.DocTestParser().get_doctest(source, {}, PAGE.name, str(PAGE), 0)
    told: list[str] = []
    results = doctest.DocTestRunner().run(test, out=told.append)
    assert not results.failed, "".join(told)
    assert results.attempted > 30
