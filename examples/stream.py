"""Prints an answer while it is decoded:  FOVEA_URL=http://127.0.0.1:8000 python examples/stream.py IMAGE QUESTION"""

import json
import os
import sys

import httpx

url = os.environ.get("FOVEA_URL", "http://127.0.0.1:8000")
if len(sys.argv) != 3:
    sys.exit(__doc__)
path, question = sys.argv[1:]

with (
    open(path, "rb") as image,
    httpx.stream(
        "POST",
        f"{url}/v1/answer",
        data={"question": question, "stream": "true"},
        files={"image": image},
        timeout=60,
    ) as response,
):
    if response.is_error:
        sys.exit(response.read().decode())
    received = b""
    for chunk in response.iter_bytes():
        # An empty line ends an event. `iter_lines` would also split at characters inside an answer.
        *events, received = (received + chunk).split(b"\n\n")
        for event in events:
            name, text = (line.partition(b": ")[2] for line in event.split(b"\n"))
            data = json.loads(text)
            if name == b"token":
                print(data["text"], end="", flush=True)
            elif name == b"done":
                usage = data["usage"]
                kept, total = usage["visual_tokens_kept"], usage["visual_tokens_total"]
                print(f"\n({kept} of {total} visual tokens, {usage['wire_bytes']} bytes sent)")
            elif name == b"error":
                sys.exit(data["error"]["message"])
