"""Chat with the real `openai`, `huggingface_hub` and LangChain packages, unchanged."""

import huggingface_hub
import openai
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI

SAID = [
    {"role": "system", "content": "Explain Python."},
    {"role": "user", "content": "What is a class?"},
]
PROMPT = "system: Explain Python.\nuser: What is a class?\nassistant: "
PLAIN = {"model": "demo", "messages": SAID, "max_tokens": 60, "seed": 5}


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def chat(client, **more):
    return client.chat.completions.create(**PLAIN | more)


def said(client, **more) -> str:
    return chat(client, **more).choices[0].message.content


def completed(client, prompt=PROMPT, **more):
    asked = {"model": "demo", "max_tokens": 60, "seed": 5, "stop": ["\n"]} | more
    return client.completions.create(prompt=prompt, **asked)


def test_messages_are_lines_and_the_reply_is_one(client):
    reply, plain = chat(client), completed(client)
    (choice,) = reply.choices
    assert choice.message.role == "assistant"
    assert choice.message.content == plain.choices[0].text
    assert choice.finish_reason == plain.choices[0].finish_reason
    assert reply.usage == plain.usage
    assert reply.usage.prompt_tokens == len(PROMPT)
    assert (reply.object, reply.model) == ("chat.completion", "demo@1")
    assert reply.id.startswith("chatcmpl-")
    assert reply.choices[0].logprobs is None


def test_a_reply_that_is_sent_back_gives_the_text_that_was_seen(client):
    reply = said(client)
    again = [*SAID, {"role": "assistant", "content": reply}, {"role": "user", "content": "Why?"}]
    prompt = f"{PROMPT}{reply}\nuser: Why?\nassistant: "
    assert said(client, messages=again) == completed(client, prompt).choices[0].text


def test_a_stream_has_the_same_text_a_role_first_and_its_usage_last(client):
    stream = chat(client, stream=True, stream_options={"include_usage": True})
    first, *chunks, last = list(stream)
    assert (first.choices[0].delta.role, first.choices[0].delta.content) == ("assistant", "")
    assert "".join(chunk.choices[0].delta.content for chunk in chunks) == said(client)
    reasons = [chunk.choices[0].finish_reason for chunk in chunks]
    assert set(reasons[:-1]) == {None}
    assert reasons[-1] == chat(client).choices[0].finish_reason
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert {chunk.id for chunk in chunks} == {first.id, last.id}
    assert (last.choices, last.usage) == ([], chat(client).usage)


def test_several_replies_are_streamed_together(client):
    reply = chat(client, n=3)
    texts = [choice.message.content for choice in reply.choices]
    assert texts[0] == said(client)
    growing = ["", "", ""]
    for chunk in chat(client, n=3, stream=True):
        growing[chunk.choices[0].index] += chunk.choices[0].delta.content
    assert growing == texts


def test_stop_strings_end_a_reply_beside_the_templates(client):
    text = said(client)
    reply = chat(client, stop=[text[5:7]]).choices[0]
    assert reply.message.content == text[: text.index(text[5:7])]
    assert (reply.finish_reason, reply.stop_reason) == ("stop", text[5:7])
    line = chat(client, max_tokens=2_000).choices[0]
    assert (line.finish_reason, line.stop_reason) == ("stop", "\n")
    assert "\n" not in line.message.content


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_are_those_of_a_completion(client, stream):
    asked = {"logprobs": True, "top_logprobs": 3}
    if stream:
        chunks = [chunk.choices[0] for chunk in chat(client, stream=True, **asked)]
        tokens = [one for chunk in chunks if chunk.logprobs for one in chunk.logprobs.content]
    else:
        tokens = chat(client, **asked).choices[0].logprobs.content
    plain = completed(client, logprobs=3).choices[0].logprobs
    assert [one.token for one in tokens] == plain.tokens
    assert [one.logprob for one in tokens] == plain.token_logprobs
    assert all(bytes(one.bytes).decode() == one.token for one in tokens)
    assert all(len(one.top_logprobs) == 3 for one in tokens)


def test_content_may_be_parts_of_text(client):
    parts = [{"type": "text", "text": "What is "}, {"type": "text", "text": "a class?"}]
    assert said(client, messages=[SAID[0], {"role": "user", "content": parts}]) == said(client)
    image = [{"type": "image_url", "image_url": {"url": "data:,"}}]
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        chat(client, messages=[{"role": "user", "content": image}])
    assert "text alone" in refused.value.message


@pytest.mark.parametrize(
    ("messages", "sentence"),
    [
        ([{"role": "tool", "content": "4"}], "'tool'; the model's chat template has assistant"),
        ([{"role": "user", "content": "snow ☃"}], "☃"),
        ([], "messages"),
    ],
)
def test_what_cannot_be_written_is_refused_with_the_field(client, messages, sentence):
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        chat(client, messages=messages)
    assert sentence in refused.value.message
    assert refused.value.param == "messages"


def test_an_unknown_model_is_a_404_that_lists_what_is_loaded(client):
    with pytest.raises(openai.NotFoundError) as refused:
        chat(client, model="gpt-4o")
    assert "'gpt-4o'; loaded: awkward, default, demo" in refused.value.message
    assert (refused.value.param, refused.value.code) == ("model", "model_not_found")


# -- sessions


def new_session(http, **more) -> str:
    return http.post("/sessions", json={"model": "demo", "seed": 5} | more).json()["id"]


def session_text(http, session_id: str) -> str:
    return http.get(f"/sessions/{session_id}/text").json()["text"]


@pytest.mark.parametrize("max_tokens", [8, 2_000])
def test_a_session_gets_the_new_messages_alone(http, client, max_tokens):
    extra = {"session_id": new_session(http)}
    first = said(client, extra_body=extra, max_tokens=max_tokens)
    why = [{"role": "user", "content": "Why?"}]
    reply = chat(client, messages=why, extra_body=extra, max_tokens=max_tokens)
    second = reply.choices[0]
    # The first reply ends with its line's end, which it wrote itself or which the turn adds.
    whole = f"{PROMPT}{first}\nuser: Why?\nassistant: {second.message.content}"
    end = "\n" if second.finish_reason == "stop" else ""
    assert session_text(http, extra["session_id"]) == whole + end
    assert reply.session["position"] == len(whole + end)


def test_a_retry_with_the_same_key_is_the_same_turn(http, client):
    extra = {"session_id": new_session(http)}
    said(client, extra_body=extra)
    headers = {"Idempotency-Key": "one"}
    first = said(client, extra_body=extra, extra_headers=headers)
    position = http.get(f"/sessions/{extra['session_id']}").json()["position"]
    assert said(client, extra_body=extra, extra_headers=headers) == first
    assert http.get(f"/sessions/{extra['session_id']}").json()["position"] == position


# -- other packages


def test_huggingface_hub_chats(server, client):
    hub = huggingface_hub.InferenceClient(server.url)
    asked = {"messages": SAID, "max_tokens": 60, "seed": 5}
    assert hub.chat_completion(**asked).choices[0].message.content == said(client)
    pieces = [one.choices[0].delta.content for one in hub.chat_completion(stream=True, **asked)]
    assert "".join(piece or "" for piece in pieces) == said(client)


def test_langchain_chats(server, client):
    model = ChatOpenAI(
        base_url=f"{server.url}/v1", api_key="none", model="demo", max_tokens=60, seed=5
    )
    messages = [SystemMessage("Explain Python."), HumanMessage("What is a class?")]
    reply = model.invoke(messages)
    assert reply.content == said(client)
    assert reply.usage_metadata["input_tokens"] == len(PROMPT)
    assert "".join(str(chunk.content) for chunk in model.stream(messages)) == reply.content
    again = [*messages, AIMessage(reply.content), HumanMessage("Why?")]
    assert model.invoke(again).content


def test_the_template_of_a_model_is_set_and_reset(http, client):
    path = "/admin/models/demo/chat-template"
    assert http.get(path).json()["stop"] == ["\n"]
    form = {
        "start": "Talk.\n",
        "roles": {
            "user": {"prefix": "Q: ", "suffix": "\n"},
            "assistant": {"prefix": "A: ", "suffix": "\n\n"},
        },
    }
    expected = completed(client, "Talk.\nQ: Hi\nA: ", stop=["\n\n"], max_tokens=200)
    hi = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 200}
    before = said(client, **hi)
    try:
        reply = http.put(path, json=form)
        assert reply.status_code == 200, reply.text
        assert reply.json()["stop"] == ["\n\n"]
        assert said(client, **hi) == expected.choices[0].text
        with pytest.raises(openai.UnprocessableEntityError, match="'system'"):
            chat(client)
    finally:
        assert http.delete(path).status_code == 204
    assert said(client, **hi) == before


@pytest.mark.parametrize(
    ("form", "sentence"),
    [
        ({"roles": {"user": {}}}, "needs 'assistant'"),
        ({"roles": {"assistant": {"between": ""}}}, "`roles.assistant.between`"),
        ({"roles": {"assistant": {"prefix": "x" * 1_025}}}, "1024"),
        ({"roles": {"assistant": {}}, "stop": [""]}, "1 to 256 characters"),
        ({"roles": {"Assistant!": {}}}, "Assistant!"),
    ],
)
def test_a_template_that_is_none_is_refused(http, form, sentence):
    reply = http.put("/admin/models/demo/chat-template", json=form)
    assert reply.status_code == 422
    assert sentence in reply.json()["error"]


def test_the_template_of_no_model_is_a_404(http):
    form = {"roles": {"assistant": {}}}
    assert http.put("/admin/models/nobody/chat-template", json=form).status_code == 404
