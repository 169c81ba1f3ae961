"""A server that is killed in the middle of a stream, and started again at its address."""

import urllib.parse

from tests.keys.conftest import new_folder
from tests.process import serving
from tests.ui.conftest import Browsing
from tests.ui.test_write import FIELD, GO, PROMPT, set_number, text_of

LENGTH = 20_000


def test_a_text_goes_on_when_the_server_is_back(browser, tmp_path):
    folder = new_folder(tmp_path)
    with serving(folder) as server:
        browsing = Browsing(browser, server.url, expected=("ERR_", "status of 503"))
        page = browsing.page()
        set_number(page, "Length", LENGTH)
        page.fill(FIELD, PROMPT)
        page.focus(FIELD)
        page.keyboard.press("Control+Enter")
        page.wait_for_function("() => document.querySelector('.field').value.length > 200")
        server.process.kill()
        server.process.wait()
        page.wait_for_selector(".status.error")
        before = text_of(page)
        assert len(before) < LENGTH
    port = str(urllib.parse.urlsplit(server.url).port)
    with serving(folder, CAROUSEL_PORT=port):
        page.wait_for_selector(GO)
        after = text_of(page)
        assert after.startswith(before)
        assert len(after) == LENGTH + len(PROMPT)
    page.context.close()
    assert browsing.complaints == []
