"""The view Train: from a text to a model that writes, without leaving the page."""

import pydoc_data.topics

from tests.ui.test_write import FIELD, GO


def test_a_text_becomes_a_model_that_writes(browsing, tmp_path):
    text = "".join(list(pydoc_data.topics.topics.values()))[:20_000]
    path = tmp_path / "small.txt"
    path.write_text(text)
    page = browsing.page("#/train")
    page.set_input_files(".drop input[type=file]", path)
    page.wait_for_selector(".drop .good")
    assert "20,000 characters" in page.inner_text(".drop .good")
    for name, value in {"units": 16, "embedding_dim": 8, "epochs": 2}.items():
        page.fill(f"[name={name}]", str(value))
    page.fill("[name=name]", "tiny")
    page.get_by_role("button", name="Train", exact=True).click()
    page.wait_for_selector(".chart circle", timeout=120_000)
    page.reload()  # everything so far comes again
    page.wait_for_selector(".badge.succeeded", timeout=120_000)
    if page.query_selector(".chart circle") is None:
        page.locator(".jobs button").nth(0).click()
    page.wait_for_selector(".chart circle")
    assert "bits a character" in page.locator(".chart svg").get_attribute("aria-label")
    page.wait_for_selector(".sample")
    page.get_by_role("button", name="Write with it").click()
    page.wait_for_selector(FIELD)
    page.fill(FIELD, text[:20])
    page.click(GO)
    page.wait_for_selector(".outline li.current .sign.generated")
    page.wait_for_selector(GO)
    assert len(page.input_value(FIELD)) == 20 + 400
    assert page.locator(".settings select").nth(0).input_value() == "tiny@1"


def test_a_text_that_is_refused_is_a_sentence(browsing, tmp_path):
    browsing.expected = ("status of 422",)
    path = tmp_path / "broken.txt"
    path.write_bytes(b"\xff\xfe\x00")
    page = browsing.page("#/train")
    page.set_input_files(".drop input[type=file]", path)
    page.wait_for_selector(".told.error:not(:empty)")
    assert "UTF-8" in page.inner_text(".told.error")
