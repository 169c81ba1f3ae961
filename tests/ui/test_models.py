"""The view Models: a checkpoint is uploaded, looked at, made the default, unloaded and deleted."""

import json

from tests.api.test_admin import VOCABULARY, weights_h5


def test_an_upload_is_imported_and_says_what_was_assumed(browsing, tmp_path):
    browsing.expected = ("status of 422",)  # a first sample begins with what the model has not
    weights_h5(tmp_path / "mine.weights.h5")
    (tmp_path / "vocabulary.json").write_text(json.dumps(list(VOCABULARY)))
    page = browsing.page("#/models")
    page.set_input_files("[name=source]", tmp_path / "mine.weights.h5")
    page.set_input_files("[name=vocabulary]", tmp_path / "vocabulary.json")
    page.fill("[name=name]", "mine")
    page.get_by_role("button", name="Import").click()
    card = page.get_by_role("article", name="mine@1")
    card.locator(".sample").wait_for(timeout=60_000)
    assert "LSTM(6)" in card.inner_text()
    assert card.locator(".assumed li").count() >= 1
    assert card.locator(".badge.ready").count() == 1
    assert "mine@1 is imported" in page.inner_text(".told.good")

    card.get_by_role("button", name="Make default").click()
    card.locator(".badge.alias").wait_for()
    demo = page.get_by_role("article", name="demo@1")
    demo.get_by_role("button", name="Make default").click()
    demo.locator(".badge.alias").wait_for()

    card.get_by_role("button", name="Unload").click()
    card.locator(".badge.stored").wait_for()
    card.get_by_role("button", name="Load").click()
    card.locator(".badge.ready").wait_for(timeout=60_000)
    card.get_by_role("button", name="Unload").click()
    card.locator(".badge.stored").wait_for()
    card.locator("details summary").click()
    delete = card.get_by_role("button", name="Delete")
    assert delete.is_disabled()
    card.get_by_role("textbox").fill("mine@1")
    delete.click()
    card.wait_for(state="detached")


def test_what_is_no_checkpoint_is_a_sentence(browsing, tmp_path):
    browsing.expected = ("status of 422",)
    (tmp_path / "broken.h5").write_bytes(b"nothing")
    page = browsing.page("#/models")
    page.set_input_files("[name=source]", tmp_path / "broken.h5")
    page.fill("[name=name]", "broken")
    page.get_by_role("button", name="Import").click()
    page.wait_for_selector(".told.error:not(:empty)")
    assert "broken.h5" in page.inner_text(".told.error")
