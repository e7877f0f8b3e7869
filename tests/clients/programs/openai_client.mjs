// Calls of the official JavaScript client: prints what came back as one JSON object.
// openai_client.mjs URL MODEL IMAGE OTHER_IMAGE, in a folder where npm installed `openai`.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const require = createRequire(pathToFileURL(`${process.cwd()}/`));
const { default: OpenAI } = await import(pathToFileURL(require.resolve("openai")));

const [url, model, ...files] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "unused", maxRetries: 0 });
const [first, second] = files.map((file) => ({
  type: "image_url",
  image_url: { url: `data:image/png;base64,${readFileSync(file).toString("base64")}` },
}));
const question = { type: "text", text: "What do you see?" };
const turn = { role: "user", content: [first, question] };

const create = (messages, options = {}) =>
  client.chat.completions.create({ model, messages, temperature: 0, ...options });

async function whole(messages, options) {
  const completion = await create(messages, options);
  const [choice] = completion.choices;
  return {
    text: choice.message.content,
    role: choice.message.role,
    finish_reason: choice.finish_reason,
    usage: completion.usage,
    model: completion.model,
    object: completion.object,
  };
}

async function streamed(options) {
  const chunks = [];
  // An answer from a cache comes in one piece.
  const stream = await create([turn], { stream: true, fovea: { cache: "bypass" }, ...options });
  for await (const chunk of stream) chunks.push(chunk);
  const withChoices = chunks.filter((chunk) => chunk.choices.length);
  return {
    text: withChoices.map((chunk) => chunk.choices[0].delta.content ?? "").join(""),
    finish_reasons: withChoices.map((chunk) => chunk.choices[0].finish_reason),
    usages: chunks.filter((chunk) => chunk.usage).map((chunk) => chunk.usage),
    objects: [...new Set(chunks.map((chunk) => chunk.object))],
  };
}

async function error(call) {
  try {
    await call();
  } catch (raised) {
    if (raised instanceof OpenAI.APIError) {
      return { class: raised.constructor.name, status: raised.status, param: raised.param ?? null };
    }
    throw raised;
  }
  return {};
}

const models = [];
for await (const listed of client.models.list()) models.push({ id: listed.id, object: listed.object });
const history = [turn, { role: "assistant", content: "5" }, { role: "user", content: "What color is the moon?" }];
const notAnImage = { type: "image_url", image_url: { url: "data:image/png;base64,AAAA" } };
console.log(
  JSON.stringify({
    models,
    retrieved: (await client.models.retrieve(model)).id,
    whole: await whole([turn]),
    streamed: await streamed(),
    streamed_with_usage: await streamed({ stream_options: { include_usage: true } }),
    several_images: await whole([{ role: "user", content: [first, second, question] }]),
    history: await whole(history),
    alias: await whole([turn], { model: `${model}@desap:9` }),
    extra_body: await whole([turn], { fovea: { pruner: "desap", keep_tokens: 9 } }),
    short: await whole([turn], { max_completion_tokens: 2 }),
    errors: {
      "unknown model": await error(() => create([turn], { model: "another" })),
      "unknown pruner": await error(() => create([turn], { fovea: { pruner: "another" } })),
      "temperature out of range": await error(() => create([turn], { temperature: 9 })),
      "no messages": await error(() => create([])),
      "not an image": await error(() => create([{ role: "user", content: [notAnImage, question] }])),
      "unknown model in a stream": await error(() => create([turn], { model: "another", stream: true })),
    },
  }),
);
