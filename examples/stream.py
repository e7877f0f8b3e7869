"""Prints an answer while it is decoded:  FOVEA_URL=http://127.0.0.1:8000 python examples/stream.py IMAGE QUESTION

A gateway with keys needs one in FOVEA_API_KEY.
"""

import sys
from pathlib import Path

from fovea import AnswerError, Client

if len(sys.argv) != 3:
    sys.exit(__doc__)
path, question = sys.argv[1:]

try:
    with Client() as client, client.stream(Path(path), question) as stream:
        for text in stream:
            print(text, end="", flush=True)
        usage = stream.answer["usage"]
except AnswerError as error:
    sys.exit(str(error))
kept, total = usage["visual_tokens_kept"], usage["visual_tokens_total"]
print(f"\n({kept} of {total} visual tokens, {usage['wire_bytes']} bytes sent)")
