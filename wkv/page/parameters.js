/**
 * What a user may set for an answer, as plain data.
 *
 * Settings hold only what the user has set; what is missing is the model's own. So a request names
 * nothing that the server would know better.
 */

const sampling = (name, min, max, step, more = {}) => ({ name, min, max, step, ...more });

/** A whole number. Other programs write −1 for "no limit" or "random": `minusOne` is what is sent for it. */
const whole = (name, min, max, minusOne) => sampling(name, min, max, 1, { whole: true, minusOne });

/** The fields that presets fill. */
export const SAMPLING = [
  sampling("temperature", 0, 10, 0.05),
  sampling("top_p", 0, 1, 0.05),
  whole("top_k", 0, 2 ** 20, 0),
  sampling("presence_penalty", -10, 10, 0.1),
  sampling("frequency_penalty", -10, 10, 0.1),
  sampling("penalty_decay", 0, 1, 0.001),
];

export const LIMITS = [
  whole("max_tokens", 1, 1_000_000, 1_000_000),
  whole("seed", 0, Number.MAX_SAFE_INTEGER, null),
];

export const EFFORTS = ["none", "low", "medium", "high"];
const MOST_STOPS = 16;
const MOST_STOP_LETTERS = 256;

/** The number that was typed, null for nothing, undefined for what is no such number. */
export function readNumber({ min, max, whole, minusOne }, typed) {
  if (typed.trim() === "") return null;
  const value = Number(typed.replace(",", ".").replace("−", "-"));
  if (value === -1 && minusOne !== undefined) return value;
  const good = Number.isFinite(value) && value >= min && value <= max;
  return good && (!whole || Number.isInteger(value)) ? value : undefined;
}

/** The texts at which an answer ends, out of lines; undefined for too many or too long ones. */
export function readStops(typed) {
  const stops = typed.split("\n").filter((line) => line !== "")
    .map((line) => line.replaceAll("\\n", "\n").replaceAll("\\t", "\t"));
  const good = stops.length <= MOST_STOPS && stops.every((stop) => stop.length <= MOST_STOP_LETTERS);
  return good ? stops : undefined;
}

/** A request's fields for a raw text: what was set, by the names of the interface. */
export function completionFields(settings, model) {
  const fields = model.id ? { model: model.id } : {};
  for (const { name, minusOne } of [...SAMPLING, ...LIMITS]) {
    const value = settings[name] === -1 && minusOne !== undefined ? minusOne : settings[name];
    if (typeof value === "number") fields[name] = value;
  }
  const stops = readStops(settings.stop ?? "") ?? [];
  if (stops.length > 0) fields.stop = stops;
  return fields;
}

/** Whether a model may be asked to think; one that says nothing of it may. */
export const thinks = (model) => model.wkv?.thinks !== false;

/** The same for a chat. */
export function chatFields(settings, model) {
  const fields = completionFields(settings, model);
  const wanted = thinks(model) && EFFORTS.includes(settings.reasoning_effort);
  if (wanted) fields.reasoning_effort = settings.reasoning_effort;
  return fields;
}

/** The messages, after the system prompt if there is one. */
export function withSystem(settings, messages) {
  const system = (settings.system ?? "").trim();
  return system ? [{ role: "system", content: system }, ...messages] : messages;
}

/** Settings with the values of a preset. */
export function withPreset(settings, preset) {
  const values = SAMPLING.filter(({ name }) => typeof preset[name] === "number")
    .map(({ name }) => [name, preset[name]]);
  return { ...withoutSampling(settings), ...Object.fromEntries(values) };
}

export function withoutSampling(settings) {
  const left = { ...settings };
  for (const { name } of SAMPLING) delete left[name];
  return left;
}

/** The name of the preset that gives just what would be sent, or null. */
export function presetOf(settings, own, presets) {
  const value = (name, preset) => preset[name] ?? own[name];
  for (const [key, preset] of Object.entries(presets)) {
    const same = SAMPLING.every(({ name }) => (settings[name] ?? own[name]) === value(name, preset));
    if (same) return key;
  }
  return null;
}
