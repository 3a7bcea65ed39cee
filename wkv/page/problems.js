/** What went wrong, in words, and the buttons that help. */

import { element, textButton } from "./dom.js";
import { text } from "./language.js";

const KINDS = ["unreachable", "key", "busy", "refused", "failed", "broken"];
const EXPLAINED = ["refused", "failed", "broken"];

/** What is wrong in one sentence or two. */
function problemText({ kind, wait = null }) {
  if (kind === "busy" && wait !== null) return text("problem_busy_wait", { seconds: wait });
  return text(KINDS.includes(kind) ? `problem_${kind}` : "problem_failed");
}

/**
 * A box about a problem ({kind, detail, wait}): our words, the server's own where they explain, and
 * what can be done: try again and, for a missing key, enter it.
 */
export function problemBox(problem, { retry, enterKey }) {
  const buttons = [textButton(text("retry"), retry, { name: "again", "data-action": "retry" })];
  if (problem.kind === "key") {
    buttons.unshift(textButton(text("enter_key"), enterKey, { "data-action": "key" }));
  }
  return element("div", { class: "problem", role: "alert" },
    element("p", { text: problemText(problem) }),
    problem.detail && EXPLAINED.includes(problem.kind)
      ? element("p", { class: "detail", text: problem.detail, dir: "auto" }) : null,
    element("div", { class: "buttons" }, ...buttons));
}
