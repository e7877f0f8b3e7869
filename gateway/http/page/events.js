/** Parser of server-sent events, by the HTML standard. */

/**
 * Events of a body.
 * @param {ReadableStream<Uint8Array>} body body of a response
 * @yields {{name: string, data: string}} each event with data; the name is `message` where the event has none
 */
export async function* events(body) {
  let name = "";
  let data = [];
  for await (const line of lines(body)) {
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "event") name = value;
    else if (field === "data") data.push(value);
    else if (line === "") {
      if (data.length) yield { name: name || "message", data: data.join("\n") };
      name = "";
      data = [];
    }
  }
}

/** Lines that have ended with CR LF, LF or CR. */
async function* lines(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      rest += value;
      // A CR at the end may be the first half of a CR LF.
      let end;
      while ((end = rest.search(/\r\n|\n|\r(?!$)/)) >= 0) {
        yield rest.slice(0, end);
        rest = rest.slice(end + (rest.startsWith("\r\n", end) ? 2 : 1));
      }
    }
  } finally {
    await reader.cancel().catch(() => {});
  }
}
