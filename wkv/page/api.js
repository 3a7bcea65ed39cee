/** The server's interface: one function for each thing the page asks of it. */

import { events } from "./stream.js";

/**
 * A request that failed. `kind` is one of
 * unreachable, key (401, 403), busy (429, 503), refused (other 4xx), failed (5xx), broken (in the middle).
 */
export class ServerError extends Error {
  constructor(kind, detail = "", wait = null) {
    super(detail || kind);
    this.kind = kind;
    this.detail = detail;
    this.wait = wait;
  }
}

export class Api {
  constructor() {
    this.key = "";
    /** Keeps this window on one replica where there are several; it names nobody. */
    this.session = Array.from(crypto.getRandomValues(new Uint32Array(4)), (n) => n.toString(16)).join("");
  }

  async models() {
    return (await this.#json("GET", "v1/models")).data;
  }

  /** Yields chunks of a chat completion, as parsed JSON. */
  chat(body, signal) {
    return this.#stream("v1/chat/completions", body, signal);
  }

  /** Yields chunks of a raw completion, as parsed JSON. */
  complete(body, signal) {
    return this.#stream("v1/completions", body, signal);
  }

  async states() {
    return (await this.#json("GET", "v1/states")).data;
  }

  saveState(body, name) {
    return this.#json("POST", "v1/states", body, nameHeader(name));
  }

  deleteState(id) {
    return this.#json("DELETE", `v1/states/${encodeURIComponent(id)}`);
  }

  async downloadState(id) {
    const path = `v1/states/${encodeURIComponent(id)}/content`;
    const response = await this.#request(path, { method: "GET" });
    return response.blob();
  }

  async uploadState(file, name) {
    const headers = { "Content-Type": "application/octet-stream", ...nameHeader(name) };
    const response = await this.#request("v1/states/upload", { method: "POST", headers, body: file });
    return response.json();
  }

  async #json(method, path, body, headers = {}) {
    const response = await this.#request(path, { method, ...asJson(body, headers) });
    return response.json();
  }

  async *#stream(path, body, signal) {
    const all = { ...body, stream: true, stream_options: { include_usage: true } };
    const response = await this.#request(path, { method: "POST", ...asJson(all), signal });
    let done = false;
    try {
      for await (const data of events(response.body)) {
        done = data === "[DONE]";
        if (done) break;
        const chunk = JSON.parse(data);
        if (chunk.error) throw new ServerError("broken", chunk.error.message);
        yield chunk;
      }
    } catch (error) {
      if (error.name === "AbortError" || error instanceof ServerError) throw error;
      throw new ServerError("broken");
    }
    if (!done) throw new ServerError("broken");
  }

  /** A response with a good status, or ServerError; AbortError passes through. */
  async #request(path, options) {
    const headers = { "X-Session-Id": this.session, ...options.headers };
    if (this.key) headers.Authorization = `Bearer ${this.key}`;
    let response;
    try {
      response = await fetch(path, { ...options, headers });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ServerError("unreachable");
    }
    if (response.ok) return response;
    const wait = Number.parseInt(response.headers.get("Retry-After"), 10);
    throw new ServerError(
      kindOf(response.status), await detailOf(response), Number.isNaN(wait) ? null : wait,
    );
  }
}

function asJson(body, headers = {}) {
  if (body === undefined) return {};
  return { headers: { "Content-Type": "application/json", ...headers }, body: JSON.stringify(body) };
}

/** The name of a state, beside its content: a header holds only ASCII. */
const nameHeader = (name) => (name ? { "X-State-Name": encodeURIComponent(name.toWellFormed()) } : {});

function kindOf(status) {
  if (status === 401 || status === 403) return "key";
  if (status === 429 || status === 503) return "busy";
  return status < 500 ? "refused" : "failed";
}

async function detailOf(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `HTTP ${response.status}`;
  }
}
