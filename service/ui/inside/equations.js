// The equations of one cell at a token, as the textbooks write them, each with its numbers.

const LEAST_SLOPE = 1e-4; // below it the last bits of a gate no longer tell two decimals of its sum

// Of an activation: how flat it is at a value, and the sum at which it has the value.
const INVERSE = {
  sigmoid: { slope: (y) => y * (1 - y), sum: (y) => Math.log(y / (1 - y)) },
  tanh: { slope: (y) => 1 - y * y, sum: Math.atanh },
  hard_sigmoid_02: { slope: (y) => (y > 0 && y < 1 ? 0.2 : 0), sum: (y) => (y - 0.5) / 0.2 },
  hard_sigmoid_6: { slope: (y) => (y > 0 && y < 1 ? 1 / 6 : 0), sum: (y) => (y - 0.5) * 6 },
};

const n = (value) => value.toFixed(4);

/** Return `name = σ(terms) = σ(sum) = value`; without the sum where the value does not tell it. */
export function gate(name, activation, terms, value) {
  const act = activation === "sigmoid" ? "σ" : activation;
  const { slope, sum } = INVERSE[activation] ?? { slope: () => 0 };
  const told = slope(value) > LEAST_SLOPE ? `${act}(${sum(value).toFixed(2)}) = ` : "";
  return `${name} = ${act}(${terms.filter(Boolean).join(" + ")}) = ${told}${n(value)}`;
}

/** Return the lines of a cell's equations at a token, of which each can be computed again. */
export function equations({ cell, activation, recurrent, hasBias, resetsAfter }, found, token) {
  const at = (name) => found.at[name][token];
  const before = (name) => (token > 0 ? found.at[name][token - 1] : found.before[name]);
  const bias = (name) => hasBias && name;
  const usual = (part) => [`W${part}·x`, `U${part}·h₋₁`, bias(`b${part}`)];
  if (cell.includes("lstm")) {
    const peephole = (part, c) => cell === "peephole_lstm" && `p_${part}·${c}`;
    return [
      gate("f", recurrent, [...usual("_f"), peephole("f", "c₋₁")], at("f")),
      gate("i", recurrent, [...usual("_i"), peephole("i", "c₋₁")], at("i")),
      gate("g", activation, usual("_g"), at("g")),
      gate("o", recurrent, [...usual("_o"), peephole("o", "c")], at("o")),
      `c = f · c₋₁ + i · g = ${n(at("f"))} · ${n(before("c"))} + ${n(at("i"))} · ${n(at("g"))} = ${n(at("c"))}`,
      `h = o · ${activation}(c) = ${n(at("o"))} · ${activation}(${n(at("c"))}) = ${n(at("h"))}`,
    ];
  }
  if (cell === "gru") {
    const product = hasBias ? "r · (U_h·h₋₁ + b'_h)" : "r · (U_h·h₋₁)";
    const inner = [bias("b_h"), resetsAfter ? product : "U_h·(r ⊙ h₋₁)"];
    return [
      gate("z", recurrent, usual("_z"), at("z")),
      gate("r", recurrent, usual("_r"), at("r")),
      gate("h̃", activation, ["W_h·x", ...inner], at("candidate")),
      `h = z · h₋₁ + (1 − z) · h̃ = ${n(at("z"))} · ${n(before("h"))} + ${n(1 - at("z"))} · `
        + `${n(at("candidate"))} = ${n(at("h"))}`,
    ];
  }
  return [gate("h", activation, usual(""), at("h"))];
}
