/** Request of an answer: fields that a form and the snippets share. */

/**
 * Fields of a request, in the order in which they are sent.
 * @param {string} question
 * @param {{maxTokens: string, cache: string, explain: boolean}} shared options of both settings
 * @param {object} setting fields of one setting
 * @returns {Object<string, unknown>} values by name
 */
export function requestFields(question, shared, setting) {
  return {
    question,
    ...setting,
    ...(shared.maxTokens && { max_tokens: Number(shared.maxTokens) }),
    ...(shared.cache !== "use" && { cache: shared.cache }),
    ...(shared.explain && { explain: true }),
  };
}

/** Text of a value in a form: texts as they are, all else as JSON. */
export const formText = (value) => (typeof value === "string" ? value : JSON.stringify(value));

/**
 * Form of a streamed answer.
 * @param {{file: Blob}[]} images
 * @param {Object<string, unknown>} fields
 */
export function requestForm(images, fields) {
  const form = new FormData();
  for (const [name, value] of Object.entries({ ...fields, stream: true })) form.append(name, formText(value));
  // Names of files stay on the user's machine.
  for (const { file } of images) form.append("image", file, "image");
  return form;
}
