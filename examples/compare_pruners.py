"""Compares pruners on a question:  FOVEA_URL=http://127.0.0.1:8000 python examples/compare_pruners.py IMAGE QUESTION

A gateway with keys needs one in FOVEA_API_KEY.
"""

import sys
from pathlib import Path

from fovea import Client

if len(sys.argv) != 3:
    sys.exit(__doc__)
image, question = Path(sys.argv[1]), sys.argv[2]

with Client() as client:
    for pruner in client.pruners()["pruners"]:
        name = pruner["name"]
        if pruner["side"] == "encoder":
            answer = client.answer(image, question, pruner=name)
        else:  # inside the language model, on the half of the tokens that DeSAP keeps
            llm_pruner = {"name": name, "keep_ratio": 0.25}
            answer = client.answer(image, question, pruner="desap", keep_ratio=0.5, llm_pruner=llm_pruner)
        print(f"{name:<15} {answer['usage']['visual_tokens_kept']:>4} tokens sent  {answer['answer']}")
