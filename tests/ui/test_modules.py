"""The page's pure modules, run where they run: in a browser."""

import random

import pytest


@pytest.fixture
def page(browsing):
    return browsing.page()


def test_an_event_stream_is_the_same_wherever_it_is_cut(page):
    text = (
        ': ping\r\n\r\nid: 0.1.5\ndata: {"a":\ndata: 1}\n\n'
        "event: done\rid: 7\rdata:x\r\rdata: é𠮷\n\n"
    )
    rng = random.Random(1)
    cuts = [sorted(rng.sample(range(len(text)), rng.randrange(1, 12))) for _ in range(200)]
    cuts.append(list(range(len(text))))
    found = page.evaluate(
        """async ([text, cuts]) => {
          const { EventStream } = await import("/ui/core/event_stream.js");
          return cuts.map((cut) => {
            const units = Array.from(text), stream = new EventStream(), found = [];
            let start = 0;
            for (const end of [...cut, units.length]) {
              found.push(...stream.push(units.slice(start, end).join("")));
              start = end;
            }
            return found;
          });
        }""",
        [text, cuts],
    )
    whole = [
        {"event": "message", "id": "0.1.5", "data": '{"a":\n1}'},
        {"event": "done", "id": "7", "data": "x"},
        {"event": "message", "id": "7", "data": "é𠮷"},
    ]
    assert all(one == whole for one in found)


def test_the_hash_of_a_link_is_fnv_1a(page):
    def fnv(text: str) -> str:
        value = 0xCBF29CE484222325
        for byte in text.encode():
            value = ((value ^ byte) * 0x100000001B3) % 2**64
        return f"{value:016x}"

    rng = random.Random(2)
    texts = [
        "",
        "a",
        "𠮷 text",
        *("".join(map(chr, rng.choices(range(1, 3000), k=99))) for _ in range(50)),
    ]
    found = page.evaluate(
        """async (texts) => {
          const { hashOf } = await import("/ui/write/link.js");
          return texts.map(hashOf);
        }""",
        texts,
    )
    assert found == [fnv(text) for text in texts]


def test_a_tree_keeps_every_text(page):
    """Random forks: the text of each node stays what it was when it was added."""
    wrong = page.evaluate(
        """async (seed) => {
          const { Tree } = await import("/ui/write/tree.js");
          let state = seed;
          const below = (n) => {
            state = (state * 1103515245 + 12345) % 2147483648;
            return state % n;
          };
          let tree = new Tree();
          const texts = new Map();
          for (let n = 0; n < 300; n += 1) {
            const pieces = Array.from({ length: below(5) }, () => "ab𠮷😀\\n"[below(2)] + "𠮷");
            const all = [...tree.nodes.values()];
            const parent = all.length && below(9) ? all[below(all.length)] : null;
            const text = parent ? tree.text(parent.id) : "";
            let at = parent ? parent.to : 0, node = parent, before = text;
            if (parent && text && below(2)) {
              const offset = below(text.length), place = tree.locate(parent.id, offset);
              node = place.node; at = place.position; before = text.slice(0, place.start);
            }
            const made = tree.add(node?.id ?? null, at, { kind: "typed", pieces });
            texts.set(made.id, before + pieces.join(""));
            if (n === 150) tree = Tree.of(structuredClone(tree.toStored()));
          }
          const wrong = [...texts].filter(([id, text]) => tree.text(id) !== text);
          const rows = tree.outline();
          if (rows.length !== 300 || new Set(rows.map((one) => one.node.id)).size !== 300) {
            wrong.push("the outline");
          }
          return wrong;
        }""",
        7,
    )
    assert wrong == []


def test_a_link_comes_back_and_a_forged_one_is_bounded(page):
    found = page.evaluate(
        """async () => {
          const { decoded, encoded } = await import("/ui/write/link.js");
          const steps = [{ typed: "A 𠮷 <b>" }, { settings: { seed: 3, length: 9, temperature: 1e9,
            stop: ["x", 5, "", "y", "z", "u", "v"], evil: "<script>" } }];
          const query = async (recipe) => (await encoded(recipe)).split("?")[1];
          const back = await decoded(await query({ model: "m@1", steps, hash: "0" }));
          const long = Array(3).fill({ settings: { length: 1e9 } });
          const refused = [];
          for (const bad of ["t=AAAA", "t=", "x=1", await query({ steps: 5 }),
              await query({ steps: long })]) {
            refused.push(await decoded(bad).catch(() => "refused"));
          }
          return [back.steps[0].typed, back.steps[1].settings, refused];
        }"""
    )
    typed, settings, refused = found
    assert typed == "A 𠮷 <b>"
    assert (settings["temperature"], settings["seed"], settings["length"]) == (2, 3, 9)
    assert settings["stop"] == ["x", "y", "z", "u"]
    assert "evil" not in settings
    assert refused == ["refused", None, None, "refused", "refused"]


def test_the_equations_of_each_cell(page):
    """A sum is shown where the value of its activation tells two decimals of it."""
    found = page.evaluate(
        """async (gates) => {
          const { equations, gate } = await import("/ui/inside/equations.js");
          const kind = {
            activation: "tanh", recurrent: "sigmoid", hasBias: true, resetsAfter: true,
          };
          const plain = { ...kind, cell: "gru", resetsAfter: false, hasBias: false };
          const at = (values) => {
            const lists = Object.entries(values).map(([name, value]) => [name, [value]]);
            return { at: Object.fromEntries(lists), before: { h: 0.25, c: 2 } };
          };
          const gru = at({ z: 0.5, r: 0.75, candidate: 0, h: 0.125 });
          return {
            peephole: equations({ ...kind, cell: "peephole_lstm" },
              at({ f: 0.5, i: 0.25, g: 0, o: 1, c: 1, h: 0.7616 }), 0),
            gru: equations({ ...kind, cell: "gru" }, gru, 0),
            before: equations(plain, gru, 0),
            rnn: equations({ ...kind, cell: "simple_rnn", activation: "relu" }, at({ h: 3 }), 0),
            gates: gates.map(([activation, y]) => gate("y", activation, ["x"], y)),
          };
        }""",
        [
            ("sigmoid", 0.9998),
            ("sigmoid", 0.99995),
            ("tanh", -0.96402758),
            ("hard_sigmoid_02", 0.7),
            ("hard_sigmoid_02", 1),
            ("hard_sigmoid_6", 0.25),
            ("softsign", 0.5),
        ],
    )
    assert found["peephole"] == [
        "f = σ(W_f·x + U_f·h₋₁ + b_f + p_f·c₋₁) = σ(0.00) = 0.5000",
        "i = σ(W_i·x + U_i·h₋₁ + b_i + p_i·c₋₁) = σ(-1.10) = 0.2500",
        "g = tanh(W_g·x + U_g·h₋₁ + b_g) = tanh(0.00) = 0.0000",
        "o = σ(W_o·x + U_o·h₋₁ + b_o + p_o·c) = 1.0000",
        "c = f · c₋₁ + i · g = 0.5000 · 2.0000 + 0.2500 · 0.0000 = 1.0000",
        "h = o · tanh(c) = 1.0000 · tanh(1.0000) = 0.7616",
    ]
    assert found["gru"] == [
        "z = σ(W_z·x + U_z·h₋₁ + b_z) = σ(0.00) = 0.5000",
        "r = σ(W_r·x + U_r·h₋₁ + b_r) = σ(1.10) = 0.7500",
        "h̃ = tanh(W_h·x + b_h + r · (U_h·h₋₁ + b'_h)) = tanh(0.00) = 0.0000",
        found["gru"][3],
    ]
    assert found["gru"][3].endswith(" = 0.5000 · 0.2500 + 0.5000 · 0.0000 = 0.1250")
    assert found["before"][2] == "h̃ = tanh(W_h·x + U_h·(r ⊙ h₋₁)) = tanh(0.00) = 0.0000"
    assert found["rnn"] == ["h = relu(W·x + U·h₋₁ + b) = 3.0000"]
    assert [line.removeprefix("y = ") for line in found["gates"]] == [
        "σ(x) = σ(8.52) = 0.9998",
        "σ(x) = 1.0000",
        "tanh(x) = tanh(-2.00) = -0.9640",
        "hard_sigmoid_02(x) = hard_sigmoid_02(1.00) = 0.7000",
        "hard_sigmoid_02(x) = 1.0000",
        "hard_sigmoid_6(x) = hard_sigmoid_6(-1.50) = 0.2500",
        "softsign(x) = 0.5000",
    ]
