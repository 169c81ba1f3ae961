// What a text is like before it is trained on: its entropies give a loss its scale.

const MOST_CHARACTERS = 4_000_000; // of which the entropies are counted

/** Return the losses, in nats a character, of who knows nothing, each character, and each pair. */
export function entropies(text) {
  const singles = new Map();
  const pairs = new Map();
  let before = null;
  let n = 0;
  for (const one of text) {
    singles.set(one, (singles.get(one) ?? 0) + 1);
    if (before !== null) pairs.set(before + one, (pairs.get(before + one) ?? 0) + 1);
    before = one;
    n += 1;
    if (n === MOST_CHARACTERS) break;
  }
  const unigram = entropyOf(singles);
  return {
    characters: n,
    vocabulary: singles.size,
    uniform: Math.log(Math.max(1, singles.size)),
    unigram,
    bigram: Math.max(0, entropyOf(pairs) - unigram),
  };
}

function entropyOf(counts) {
  let total = 0;
  for (const count of counts.values()) total += count;
  let sum = 0;
  for (const count of counts.values()) sum -= (count / total) * Math.log(count / total);
  return sum;
}
