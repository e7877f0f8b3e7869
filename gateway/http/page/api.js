/** Calls of the gateway's API. URLs are relative, because a proxy may serve the gateway under a prefix. */

import { authorization } from "./api_key.js";
import { events } from "./events.js";

/** Error of the API, or of the connection to it. */
export class ApiError extends Error {
  /**
   * @param {string} message text for the user
   * @param {{status?: number, code?: string, param?: string, retryAfterS?: number, requestId?: string}} details
   */
  constructor(message, details = {}) {
    super(message);
    Object.assign(this, { status: 0, code: "", param: "", retryAfterS: 0, requestId: "" }, details);
  }
}

/** Object of a GET. */
export async function get(path) {
  const response = await send(path, {});
  return response.json();
}

/**
 * Answer to a question.
 * @param {FormData} form fields and files, with `stream`
 * @param {AbortSignal} signal ends the request
 * @param {(text: string) => void} onText called with each piece of the text
 * @returns {Promise<object>} the answer object
 */
export async function answer(form, signal, onText) {
  const response = await send("v1/answer", { method: "POST", body: form, signal });
  const requestId = response.headers.get("x-request-id") ?? "";
  try {
    for await (const { name, data } of events(response.body)) {
      const value = JSON.parse(data);
      if (name === "token") onText(value.text);
      else if (name === "done") return value;
      else if (name === "error") throw failure(value, { requestId });
    }
  } catch (error) {
    throw readable(error);
  }
  throw new ApiError("The connection ended before the answer was done.", { requestId });
}

async function send(path, options) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: authorization(), redirect: "error", cache: "no-store" });
  } catch (error) {
    throw readable(error);
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  throw failure(body, {
    status: response.status,
    retryAfterS: Number(response.headers.get("retry-after")) || 0,
    requestId: response.headers.get("x-request-id") ?? "",
  });
}

function failure(body, details) {
  const error = body.error ?? {};
  const message = error.message ?? `The server answered with status ${details.status} and no message.`;
  return new ApiError(message, {
    ...details,
    code: error.code ?? "",
    param: error.param ?? "",
    retryAfterS: details.retryAfterS || error.retry_after_s || 0,
  });
}

function readable(error) {
  if (error instanceof ApiError || error.name === "AbortError") return error;
  return new ApiError("The server cannot be reached, or the connection broke.");
}
