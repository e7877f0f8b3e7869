"""Prints an answer while it is decoded:  FOVEA_URL=http://127.0.0.1:8000 python examples/stream.py PICTURE QUESTION"""

import json
import os
import sys

import httpx

url = os.environ.get("FOVEA_URL", "http://127.0.0.1:8000")
if len(sys.argv) != 3:
    sys.exit(__doc__)
path, question = sys.argv[1:]

with (
    open(path, "rb") as picture,
    httpx.stream(
        "POST",
        f"{url}/v1/answer",
        data={"question": question, "stream": "true"},
        files={"image": picture},
        timeout=60,
    ) as response,
):
    if response.is_error:
        sys.exit(response.read().decode())
    event = ""
    for line in response.iter_lines():
        if line.startswith("event: "):
            event = line.removeprefix("event: ")
        elif line.startswith("data: "):
            data = json.loads(line.removeprefix("data: "))
            if event == "token":
                print(data["text"], end="", flush=True)
            elif event == "done":
                usage = data["usage"]
                kept, total = usage["visual_tokens_kept"], usage["visual_tokens_total"]
                print(f"\n({kept} of {total} visual tokens, {usage['wire_bytes']} bytes shipped)")
            elif event == "error":
                sys.exit(data["error"]["message"])
