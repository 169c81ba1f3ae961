"""Sessions, batches, grammars and scores over models of words, subwords and windows."""

import json
import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx2
import pytest

from tests.process import serving
from tests.sessions.valkey import OwnValkey
from tests.wild.equality import Written
from tests.wild.test_wild import imported

pytestmark = [pytest.mark.tf, pytest.mark.slow, pytest.mark.timeout(900)]

MODELS = {  # kind → a regex that its tokens can spell
    "next_word": "(the|old|king|of|every) (river|hill|lamb)s?( runs)*",
    "subwords": "[a-z]{3,9}( [a-z]+)? was",
    "one_hot_window": "[a-f]{3}(old|king)+",
    "right_pads": "[a-f]{3}(old|king)+",
    "next_word_masked": "(the|old|king|of|every|to|was)( that| no)*",
    "scaled_integers": "[a-f]{3}(old|king)+",
    "notes": r"(C4|rest|4\.7\.11)( (D4|G3))+ B2",
    "textgenrnn": "[a-f]{3}(old|king)+",
}
PARAMETERS = {
    "temperature": 0.9,
    "top_p": 0.95,
    "repetition_penalty": 1.2,
    "details": True,
    "top_n_tokens": 2,
}
SEED = 1234


class Place:
    """A store and a server over all models, both of which can be killed."""

    def __init__(self, folder, authored) -> None:
        self.home, self.prompts = folder, {}
        for kind in MODELS:
            made = authored / kind
            case = json.loads((made / "cases.json").read_text())[0]
            imported(made, folder / "model_store", case, kind.replace("_", "-"))
            self.prompts[kind] = Written.read(made, case["author"]).prompt
        (folder / "imports").mkdir()
        (folder / "valkey").mkdir()
        self.valkey = OwnValkey(folder / "valkey", "valkey")
        self.valkey.start()
        self._servers = ExitStack()
        self.server = self._serve()

    def _serve(self):
        settings = {"CAROUSEL_REDIS_URL": self.valkey.url, "CAROUSEL_SECRET": "a" * 40}
        return self._servers.enter_context(serving(self.home, **settings))

    def kill_all_and_restart(self) -> None:
        os.kill(self.server.process.pid, signal.SIGKILL)
        self.server.process.wait()
        self.valkey.restart()
        self.server = self._serve()

    def close(self) -> None:
        self._servers.close()
        self.valkey.close()

    def post(self, path, body, status=200):
        with httpx2.Client(base_url=self.server.url, timeout=120) as http:
            reply = http.post(path, json=body)
        assert reply.status_code == status, reply.text
        return reply.json()

    def session(self, kind) -> dict:
        body = {"model": kind.replace("_", "-"), "text": self.prompts[kind], "seed": SEED}
        return self.post("/sessions", body, 201)

    def generate(self, session, n) -> list:
        """Generate `n` tokens in a session: ids, texts, logprobs and the most likely ones."""
        parameters = PARAMETERS | {"max_new_tokens": n}
        body = {"inputs": "", "session_id": session, "parameters": parameters}
        details = self.post("/generate", body)["details"]
        return list(zip(details["tokens"], details["top_tokens"], strict=True))

    def complete(self, kind, n=40, **parameters) -> dict:
        """Generate without a session."""
        parameters = {"seed": SEED, "max_new_tokens": n} | PARAMETERS | parameters
        inputs = self.prompts[kind]
        return self.post(
            "/generate",
            {"inputs": inputs, "model": kind.replace("_", "-"), "parameters": parameters},
        )


@pytest.fixture(scope="module")
def place(tmp_path_factory, authored):
    made = Place(tmp_path_factory.mktemp("place"), authored("tf_keras", *MODELS))
    yield made
    made.close()


@pytest.fixture(scope="module")
def whole(place):
    """By kind, 200 tokens in one turn."""
    return {kind: place.generate(place.session(kind)["id"], 200) for kind in MODELS}


def test_a_killed_server_between_two_turns_changes_nothing(place, whole):
    sessions = {kind: place.session(kind) for kind in MODELS}
    first = {kind: place.generate(session["id"], 77) for kind, session in sessions.items()}
    place.kill_all_and_restart()
    for kind, session in sessions.items():
        assert first[kind] + place.generate(session["id"], 123) == whole[kind], kind


@pytest.mark.parametrize("kind", MODELS)
def test_forks_and_rewinds_continue_alike(place, whole, kind):
    session = place.session(kind)
    first = place.generate(session["id"], 77)
    body = {"n": 1, "seeds": "same"}
    (fork,) = place.post(f"/sessions/{session['id']}/fork", body, 201)["sessions"]
    assert first + place.generate(fork["id"], 123) == whole[kind]
    place.generate(session["id"], 30)
    place.post(f"/sessions/{session['id']}/rewind", {"to": session["position"] + 77})
    assert first + place.generate(session["id"], 123) == whole[kind]


@pytest.mark.parametrize("kind", MODELS)
def test_a_batch_changes_nothing(place, kind):
    alone = place.complete(kind)
    with ThreadPoolExecutor(16) as pool:
        others = [pool.submit(place.complete, kind, seed=seed) for seed in range(15)]
        together = place.complete(kind)
    assert together == alone
    assert any(other.result() != alone for other in others)


@pytest.mark.parametrize("kind", MODELS)
def test_a_grammar_is_kept_and_complete(place, kind):
    regex = MODELS[kind]
    grammar = {"type": "regex", "value": regex}
    for seed in range(5):
        reply = place.complete(kind, grammar=grammar, seed=seed)
        assert re.fullmatch(regex, reply["generated_text"].removeprefix(" ")), reply


@pytest.mark.parametrize("kind", MODELS)
def test_a_score_has_the_logprobs_of_the_generation(place, kind):
    """In a session after the prompt, the generated text is scored token for token."""
    session = place.session(kind)
    generated = [token for token, _ in place.generate(session["id"], 40)]
    place.post(f"/sessions/{session['id']}/rewind", {"to": session["position"]})
    text = "".join(token["text"] for token in generated)
    scored = place.post("/score", {"inputs": text, "session_id": session["id"]})
    ids = [token["id"] for token in scored["tokens"]]
    if kind == "subwords" and ids != [token["id"] for token in generated]:
        pytest.skip("the text has a shorter tokenization than the generated one")
    assert ids == [token["id"] for token in generated]
    for ours, theirs in zip(scored["tokens"], generated, strict=True):
        assert ours["logprob"] == pytest.approx(theirs["logprob"], abs=1e-6)
    assert scored["nats"] == pytest.approx(-sum(t["logprob"] for t in generated), abs=1e-3)
