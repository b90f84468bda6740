/** Bar numbers as text, and the bar number of each measure. */

/** Write bar numbers as `--keep` takes them: "1-8,13-16". */
export function formatKeep(numbers) {
  const ascending = [...numbers].sort((a, b) => a - b);
  const ranges = [];
  for (const number of ascending) {
    const range = ranges.at(-1);
    if (range && range[1] === number - 1) range[1] = number;
    else ranges.push([number, number]);
  }
  return ranges.map(([first, last]) => (first === last ? `${first}` : `${first}-${last}`)).join();
}

/** Write bar numbers for the user: "bars 1–8, 13". */
export function formatBars(numbers) {
  const text = formatKeep(numbers).replaceAll("-", "–").replaceAll(",", ", ");
  return `${numbers.size === 1 ? "bar" : "bars"} ${text}`;
}

/** Return the bar number of each measure; a pickup has that of the next bar. Without bars: none. */
export function barNumbersOf(tune) {
  return tune.bars ? tune.keep_numbers : [];
}

/** Return the highest bar number of a tune; 0 without bars. */
export function barCountOf(tune) {
  return Math.max(0, ...barNumbersOf(tune));
}
