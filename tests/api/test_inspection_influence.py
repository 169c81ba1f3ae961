import pytest

TEXT = 'A "quoted (word" is here'


def influence(http, inputs, **fields):
    reply = http.post("/inspect/influence", json={"inputs": inputs, **fields})
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_the_latest_characters_before_a_prediction(http):
    found = influence(http, TEXT, of=16, back=10)
    assert found["token"]["text"] == TEXT[16]
    assert found["of"] == 16
    assert "".join(token["text"] for token in found["tokens"]) == TEXT[6:16]
    assert [token["start"] for token in found["tokens"]] == [*range(6, 16)]
    assert found["tokens"][-1]["bits"] > found["tokens"][0]["bits"]
    scored = http.post("/score", json={"inputs": TEXT}).json()["tokens"][16]
    assert found["token"]["logprob"] == pytest.approx(scored["logprob"], abs=1e-6)
    without = http.post("/score", json={"inputs": TEXT[:12] + TEXT[13:]}).json()["tokens"][15]
    change = found["tokens"][6]["logprob_change"]
    assert change == pytest.approx(without["logprob"] - scored["logprob"], abs=1e-6)
    tops = [token["logprob"] for token in found["top_tokens"]]
    assert tops == sorted(tops, reverse=True)


def test_the_next_character_of_a_text_and_of_a_session(http):
    found = influence(http, TEXT)
    assert "token" not in found
    assert found["of"] == len(TEXT)
    assert len(found["tokens"]) == len(TEXT) - 1  # the first cannot be left out
    session = http.post("/sessions", json={"text": TEXT[:10]}).json()
    rest = influence(http, TEXT[10:], session_id=session["id"])
    assert [token["bits"] for token in rest["tokens"]] == [
        token["bits"] for token in found["tokens"][9:]
    ]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"of": 4}, "`of` is 4; the text has 3 characters"),
        ({"of": 0}, "nothing before the prediction can be left out"),
        ({"back": 0}, "back"),
        ({"back": 513}, "back"),
        ({"inputs": "é"}, "no token for 'é'"),
    ],
)
def test_what_has_no_influence_is_refused_by_name(http, fields, sentence):
    reply = http.post("/inspect/influence", json={"inputs": "abc", **fields})
    assert reply.status_code == 422
    assert sentence in reply.json()["error"]
