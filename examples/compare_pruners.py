"""Compares pruners on a question:  FOVEA_URL=http://127.0.0.1:8000 python examples/compare_pruners.py IMAGE QUESTION"""

import os
import sys
from pathlib import Path

import httpx

from fovea.client import ask

url = os.environ.get("FOVEA_URL", "http://127.0.0.1:8000")
if len(sys.argv) != 3:
    sys.exit(__doc__)
image, question = Path(sys.argv[1]), sys.argv[2]

for pruner in httpx.get(f"{url}/v1/pruners").json()["pruners"]:
    name = pruner["name"]
    if pruner["side"] == "encoder":
        answer = ask(url, image, question, pruner=name)
    else:  # inside the language model, on the half of the tokens that DeSAP keeps
        answer = ask(url, image, question, keep_ratio=0.5, llm_pruner={"name": name, "keep_ratio": 0.25})
    print(f"{name:<15} {answer['usage']['visual_tokens_kept']:>4} tokens sent  {answer['answer']}")
