/** Bar numbers as `--keep` writes them, and which measure of the score has which number. */

/** Write numbers as "1-8,13-16". */
export function rangesText(numbers) {
  const ascending = [...numbers].sort((a, b) => a - b);
  const stretches = [];
  for (const number of ascending) {
    const last = stretches.at(-1);
    if (last && last[1] === number - 1) last[1] = number;
    else stretches.push([number, number]);
  }
  return stretches.map(([first, last]) => (first === last ? `${first}` : `${first}-${last}`)).join();
}

/** Say numbers to a person: "bars 1–8, 13". */
export function barsText(numbers) {
  const told = rangesText(numbers).replaceAll("-", "–").replaceAll(",", ", ");
  return `${numbers.size === 1 ? "bar" : "bars"} ${told}`;
}

/**
 * Number the measures from 1; a pickup has the number of the bar after it.
 *
 * A short measure opens the tune, or completes one that closed short; else it closes.
 */
export function numbersOf(tune) {
  if (tune.numbers) return tune.numbers;
  let [count, owed] = [0, true];
  return shortOnes(tune.heard).map((short) => {
    if (short && owed) {
      owed = false;
      return count + 1;
    }
    owed = short;
    count += 1;
    return count;
  });
}

/** Tell which measures last clearly less than most do. */
function shortOnes(heard) {
  const lengths = [];
  for (const [start, end, measure] of heard) lengths[measure] ??= end - start;
  const usual = [...lengths].sort((a, b) => a - b)[lengths.length >> 1] ?? 0;
  return Array.from(lengths, (length) => (length ?? usual) < 0.97 * usual);
}
