"""One question, every pruner:  FOVEA_URL=http://127.0.0.1:8000 python examples/compare_pruners.py PICTURE QUESTION"""

import os
import sys
from pathlib import Path

import httpx

from fovea.client import ask

url = os.environ.get("FOVEA_URL", "http://127.0.0.1:8000")
picture, question = Path(sys.argv[1]), sys.argv[2]

for pruner in httpx.get(f"{url}/v1/pruners").json()["pruners"]:
    reply = ask(url, picture, question, pruner=pruner["name"])
    print(f"{pruner['name']:<10} {reply['usage']['visual_tokens_kept']:>4} tokens  {reply['answer']}")
