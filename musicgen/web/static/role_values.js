/** Values by role, such as density "drums=low,bass=high", or range "D4-B5,bass=E1-G2". */

/** Return the value of a role in a text; null: none. */
export function roleValue(text, role) {
  return parse(text).byRole.get(role) ?? null;
}

/** Return a text with another value for a role; null, or an empty value: without it. */
export function withRoleValue(text, role, value) {
  const { common, byRole } = parse(text);
  if (value) byRole.set(role, value);
  else byRole.delete(role);
  return format(common, byRole);
}

/** Return a text without the values of all other roles. @param {Set<string>} roles */
export function keepRoles(text, roles) {
  const { common, byRole } = parse(text);
  return format(common, new Map([...byRole].filter(([role]) => roles.has(role))));
}

/** Return the roles whose values differ between two texts; null: the value of all parts differs. */
export function changedRoles(before, after) {
  const [a, b] = [parse(before), parse(after)];
  if (String(a.common) !== String(b.common)) return null;
  return new Set([...a.byRole.keys(), ...b.byRole.keys()].filter((role) => a.byRole.get(role) !== b.byRole.get(role)));
}

function parse(text) {
  const words = String(text ?? "").split(",").map((word) => word.trim()).filter(Boolean);
  return {
    common: words.filter((word) => !word.includes("=")),
    byRole: new Map(words.filter((word) => word.includes("=")).map((word) => splitAt(word, "="))),
  };
}

function splitAt(word, sign) {
  const index = word.indexOf(sign);
  return [word.slice(0, index).trim().toLowerCase(), word.slice(index + 1).trim()];
}

function format(common, byRole) {
  return [...common, ...[...byRole].map(([role, value]) => `${role}=${value}`)].join() || null;
}
