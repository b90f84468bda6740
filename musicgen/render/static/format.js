/** Times and bar numbers as text. */

/** @param {number} seconds @returns {string} minutes and seconds, such as 1:05 */
export function formatTime(seconds) {
  const whole = Math.floor(seconds + 1e-6); // sums of durations may fall just short of a second
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

/** Write "bar 3" or "bars 3–4". */
export function formatBarRange([first, last]) {
  return first === last ? `bar ${first}` : `bars ${first}–${last}`;
}

/** Write "0:12" or "0:12–0:15". */
export function formatTimeRange([first, last]) {
  return first === last ? formatTime(first) : `${formatTime(first)}–${formatTime(last)}`;
}
