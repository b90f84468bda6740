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

/** The number of each measure; a pickup has the number of the bar after it. Without bars: none. */
export function numbersOf(tune) {
  return tune.bars ? tune.keep_numbers : [];
}
