// The sampling parameters of the sheet: their bounds, their off positions, what a request gets.

export const PARAMETERS = [
  { name: "temperature", least: 0, most: 2, step: 0.05, off: 1, start: 0.8 },
  { name: "top_k", least: 0, most: 100, step: 1, off: 0, start: 0 },
  { name: "top_p", least: 0.05, most: 1, step: 0.01, off: 1, start: 1 },
  { name: "min_p", least: 0, most: 0.5, step: 0.01, off: 0, start: 0 },
  { name: "repetition_penalty", least: 1, most: 2, step: 0.01, off: 1, start: 1 },
  { name: "frequency_penalty", least: -2, most: 2, step: 0.05, off: 0, start: 0 },
  { name: "presence_penalty", least: -2, most: 2, step: 0.05, off: 0, start: 0 },
];
export const MOST_TOKENS = 100_000;
export const MOST_STOPS = 4;

export function startSettings() {
  const settings = Object.fromEntries(PARAMETERS.map(({ name, start }) => [name, start]));
  return { ...settings, length: 400, stop: [], seed: drawnSeed() };
}

export function drawnSeed() {
  return crypto.getRandomValues(new Uint32Array(1))[0] % 1_000_000;
}

/** Return the parameters of a request, without those that are off. */
export function parametersOf(settings) {
  const given = {};
  for (const { name, off } of PARAMETERS) {
    if (settings[name] !== off) given[name] = settings[name];
  }
  given.temperature = settings.temperature;
  given.seed = settings.seed;
  if (settings.stop.length > 0) given.stop = settings.stop;
  return given;
}

/** Return settings whose every member is in its bounds, whoever wrote `given`. */
export function checkedSettings(given) {
  const settings = startSettings();
  for (const { name, least, most } of PARAMETERS) {
    settings[name] = bounded(given?.[name], least, most, settings[name]);
  }
  settings.length = Math.round(bounded(given?.length, 1, MOST_TOKENS, settings.length));
  settings.seed = Math.round(bounded(given?.seed, 0, Number.MAX_SAFE_INTEGER, settings.seed));
  const stops = Array.isArray(given?.stop) ? given.stop : [];
  settings.stop = stops.filter((one) => typeof one === "string" && one).slice(0, MOST_STOPS);
  return settings;
}

export function bounded(value, least, most, otherwise) {
  if (typeof value !== "number" || !Number.isFinite(value)) return otherwise;
  return Math.min(most, Math.max(least, value));
}

/**
 * Say of each alternative whether the settings leave it, or which of them removes it.
 *
 * The server applies the temperature first, then top-k, top-p and min-p, to the whole vocabulary;
 * here are its most likely tokens only, so the mass of the rest is taken as it is at temperature 1.
 */
export function fates(alternatives, settings) {
  const temperature = settings.temperature;
  if (temperature === 0) return alternatives.map((_, rank) => (rank === 0 ? "" : "temperature"));
  const scaled = alternatives.map(({ logprob }) => Math.exp(logprob / temperature));
  const seen = alternatives.reduce((sum, { logprob }) => sum + Math.exp(logprob), 0);
  const tail = Math.max(0, 1 - seen);
  const total = scaled.reduce((sum, one) => sum + one, tail);
  let before = 0;
  return scaled.map((mass, rank) => {
    const share = mass / total;
    const passed = before;
    before += share;
    if (settings.top_k > 0 && rank >= settings.top_k) return "top_k";
    if (settings.top_p < 1 && passed >= settings.top_p) return "top_p";
    if (settings.min_p > 0 && mass < settings.min_p * scaled[0]) return "min_p";
    return "";
  });
}
