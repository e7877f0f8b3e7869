/** Code that sends the request on screen. */

import { formText } from "./request.js";

/** Kinds of code by name: functions of a request `{url, images, fields, needsKey, model}`. */
export const KINDS = { curl, Python: python, OpenAI: openai };

/** Word of a shell. */
const quoted = (text) => (/^[\w./:=@%+,-]+$/.test(text) ? text : `'${text.replaceAll("'", String.raw`'\''`)}'`);

/** Literal of Python: a JSON text is one, for texts without surrogates. */
function literal(value) {
  if (value === true) return "True";
  if (value === false) return "False";
  if (value === null || value === undefined) return "None";
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (typeof value === "object") {
    return `{${Object.entries(value)
      .map(([name, item]) => `${literal(name)}: ${literal(item)}`)
      .join(", ")}}`;
  }
  return JSON.stringify(value);
}

/** Name of a file for `curl -F`, which reads quotes, commas and semicolons. */
const fileName = (name) => (/^[\w.-]+$/.test(name) ? name : `"${name.replace(/["\\]/g, "\\$&")}"`);

function curl({ url, images, fields, needsKey }) {
  const parts = [
    `curl -sN ${quoted(`${url}/v1/answer`)}`,
    ...(needsKey ? ['-H "Authorization: Bearer $FOVEA_API_KEY"'] : []),
    ...images.map(({ name }) => `-F ${quoted(`image=@${fileName(name)}`)}`),
    ...Object.entries(fields).map(([name, value]) => `--form-string ${quoted(`${name}=${formText(value)}`)}`),
    "-F stream=true",
  ];
  return parts.join(" \\\n  ");
}

function python({ url, images, fields, needsKey }) {
  const { question, ...rest } = fields;
  const lines = [
    literal(url),
    `[${images.map(({ name }) => `Path(${literal(name)})`).join(", ")}]`,
    literal(question),
    'on_text=lambda text: print(text, end="", flush=True)',
    ...(needsKey ? ['api_key=os.environ["FOVEA_API_KEY"]'] : []),
    ...Object.entries(rest).map(([name, value]) => `${name}=${literal(value)}`),
  ];
  return `${needsKey ? "import os\n" : ""}from pathlib import Path

from fovea.client import ask

answer = ask(
${lines.map((line) => `    ${line},\n`).join("")})
print()
print(answer["usage"], answer["timing_ms"])
`;
}

/** Default of `/v1/answer`; a chat in OpenAI's format has another one. */
const MAX_TOKENS = 128;

function openai({ url, images, fields, needsKey, model }) {
  const { question, max_tokens: maxTokens = MAX_TOKENS, ...own } = fields;
  const parts = [
    ...images.map(({ name, file }) => `image(${literal(name)}, ${literal(file.type || "image/png")})`),
    `{"type": "text", "text": ${literal(question)}}`,
  ];
  return `import base64
${needsKey ? "import os\n" : ""}from pathlib import Path

from openai import OpenAI


def image(name, kind):
    data = base64.b64encode(Path(name).read_bytes()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{data}"}}


client = OpenAI(base_url=${literal(`${url}/v1`)}, api_key=${needsKey ? 'os.environ["FOVEA_API_KEY"]' : '"none"'})
stream = client.chat.completions.create(
    model=${literal(model)},
    messages=[
        {
            "role": "user",
            "content": [
${parts.map((part) => `                ${part},\n`).join("")}            ],
        }
    ],
    max_completion_tokens=${maxTokens},
    extra_body={"fovea": ${literal(own)}},
    stream=True,
)
for chunk in stream:
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
print()
`;
}
