/**
 * Server-sent events out of a stream of bytes.
 *
 * Chunks may end anywhere: within a line, between CR and LF, within a character of UTF-8.
 */

/** Yields the data of each event of a response's body, as text. */
export async function* events(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  const lines = new Lines();
  let data = [];
  try {
    for (;;) {
      const { done, value } = await reader.read();
      const text = done ? decoder.decode() : decoder.decode(value, { stream: true });
      for (const line of lines.take(text)) {
        if (line.startsWith("data:")) {
          data.push(line.slice(line[5] === " " ? 6 : 5));
        } else if (line === "" && data.length > 0) {
          yield data.join("\n");
          data = [];
        }
      }
      if (done) return;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** Cuts text into lines that end with LF, CR LF or CR. */
class Lines {
  #rest = "";

  take(text) {
    const all = this.#rest + text;
    // A CR at the very end may be the first half of CR LF.
    const held = all.endsWith("\r") ? 1 : 0;
    const lines = all.slice(0, all.length - held).split(/\r\n|\n|\r/);
    this.#rest = lines.pop() + all.slice(all.length - held);
    return lines;
  }
}
