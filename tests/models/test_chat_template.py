"""The text of a conversation, and the file that keeps a model's template."""

import pytest

from service.errors import BadRequest, ModelNotReady, Validation
from service.models.chat_template import ChatTemplate, Message, MessageForm
from service.models.chat_template_store import FILE_NAME, KEPT_S, ChatTemplateStore
from service.models.spec import ModelRef
from service.models.store import ModelStore
from tests.bundles import put_model

LINES = ChatTemplate.of_lines()
REF = ModelRef("a", 1)
OWN = ChatTemplate(roles={"assistant": MessageForm(prefix="> ")}, cue=">", stop=["<"])


def test_the_default_writes_lines():
    said = [Message("system", "be"), Message("user", "a"), Message("assistant", "b")]
    assert LINES.conversation(said) == "system: be\nuser: a\nassistant: b\nassistant: "
    assert LINES.conversation(said, has_cue=False) == "system: be\nuser: a\nassistant: b\n"
    assert LINES.stops == ["\n"]


def test_a_turn_ends_the_reply_before_it_once():
    said = [Message("user", "a")]
    assert LINES.turn(said, "assistant: b") == "\nuser: a\nassistant: "
    assert LINES.turn(said, "assistant: b\n") == "user: a\nassistant: "


def test_the_last_message_may_go_on():
    said = [Message("user", "a"), Message("assistant", "b")]
    assert LINES.open_reply(said) == "user: a\nassistant: b"
    with pytest.raises(Validation, match="'user'"):
        LINES.open_reply(said[:1])


def test_a_role_without_a_form_is_refused_but_for_developers():
    assert LINES.conversation([Message("developer", "a")]) == "system: a\nassistant: "
    with pytest.raises(Validation, match="has assistant, system, user"):
        LINES.conversation([Message("tool", "a")])
    with pytest.raises(Validation, match="'developer'"):
        OWN.conversation([Message("developer", "a")])


def test_cue_and_stops_may_differ_from_the_assistants_form():
    assert OWN.conversation([Message("assistant", "b")]) == "> b>"
    assert OWN.stops == ["<"]
    assert ChatTemplate(roles={"assistant": MessageForm()}).stops == []


@pytest.fixture
def store(tmp_path):
    put_model(tmp_path, "a")
    return ModelStore(tmp_path)


def test_a_template_is_kept_beside_the_manifest(store):
    templates = ChatTemplateStore(store)
    assert templates.get(REF) == LINES
    templates.put(REF, OWN)
    assert templates.get(REF) == OWN
    assert ChatTemplateStore(store).get(REF) == OWN
    assert store.read(REF).ref == REF
    templates.delete(REF)
    assert templates.get(REF) == ChatTemplateStore(store).get(REF) == LINES


def test_the_change_of_another_process_is_seen_in_time(store):
    now = [0.0]
    templates = ChatTemplateStore(store, clock=lambda: now[0])
    assert templates.get(REF) == LINES
    ChatTemplateStore(store).put(REF, OWN)
    assert templates.get(REF) == LINES
    now[0] = KEPT_S
    assert templates.get(REF) == OWN


def test_a_damaged_template_is_an_error_and_not_the_default(store):
    (store.path(REF) / FILE_NAME).write_text("{}")
    templates = ChatTemplateStore(store)
    with pytest.raises(ModelNotReady, match="PUT /admin/models/a@1/chat-template"):
        templates.get(REF)
    templates.put(REF, OWN)
    assert templates.get(REF) == OWN


def test_a_store_that_cannot_be_written_is_a_sentence(store):
    (store.path(REF) / FILE_NAME).mkdir()
    with pytest.raises(BadRequest, match="has to be writable"):
        ChatTemplateStore(store).put(REF, OWN)
    assert not list(store.path(REF).glob(".*"))
