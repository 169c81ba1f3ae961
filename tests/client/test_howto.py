"""The examples of the how-to."""

import doctest
import re

from tests.process import ROOT

PAGE = ROOT / "docs" / "how-to" / "python-client.md"


def test_every_example_has_the_output_shown(server):
    blocks = re.findall(r"```pycon\n(.*?)```", PAGE.read_text(), re.DOTALL)
    source = "".join(blocks).replace("http://127.0.0.1:8000", server.url)
    test = doctest.DocTestParser().get_doctest(source, {}, PAGE.name, str(PAGE), 0)
    output: list[str] = []
    results = doctest.DocTestRunner().run(test, out=output.append)
    assert not results.failed, "".join(output)
    assert results.attempted > 30
