/** Images of the question, in their order. */

const MAX_IMAGES = 8;

/** List of images. It dispatches `change`. */
export class Images extends EventTarget {
  /** @type {{name: string, file: Blob, url: string, bitmap: ImageBitmap}[]} */
  items = [];
  #last = Promise.resolve();

  /**
   * Adds files, in the order of the calls.
   * @param {Iterable<File>} files
   * @param {{replace?: boolean}} options `replace`: instead of the images that are there
   * @throws {Error} A file is not an image that the browser can read, or there are too many; the message is for the
   *   user. No file is added then.
   */
  add(files, options = {}) {
    const list = [...files];
    // One after the other: reading takes time, in which more may be dropped.
    const added = this.#last.then(() => this.#add(list, options));
    this.#last = added.catch(() => {});
    return added;
  }

  async #add(list, { replace = false }) {
    const kept = replace ? [] : this.items;
    if (kept.length + list.length > MAX_IMAGES) throw new Error(`A question has at most ${MAX_IMAGES} images.`);
    const added = [];
    for (const file of list)
      added.push(
        await read(
          file,
          [...kept, ...added].map(({ name }) => name),
        ),
      );
    for (const item of replace ? this.items : []) URL.revokeObjectURL(item.url);
    this.items = [...kept, ...added];
    this.dispatchEvent(new Event("change"));
  }

  /** Removes an image. */
  remove(item) {
    this.items = this.items.filter((other) => other !== item);
    URL.revokeObjectURL(item.url);
    this.dispatchEvent(new Event("change"));
  }
}

async function read(file, taken) {
  if (file.type.startsWith("video/")) {
    throw new Error("This page takes images only. The API answers questions about videos: field video of /v1/answer.");
  }
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new Error(
      `${file.name || "This file"} is not an image that this browser can read (JPEG, PNG, WebP, GIF, BMP).`,
    );
  }
  return { name: unused(file.name, taken), file, bitmap, url: URL.createObjectURL(file) };
}

/** Name that no other image has: browsers call every pasted image the same. */
function unused(name, taken) {
  const [, stem, suffix] = /^(.*?)(\.[^.]*)?$/.exec(name || "image.png");
  let free = stem + (suffix ?? "");
  for (let number = 2; taken.includes(free); number++) free = `${stem}-${number}${suffix ?? ""}`;
  return free;
}
