"""Calls of LangChain's ChatOpenAI: prints what came back as one JSON object.

langchain_client.py URL MODEL IMAGE
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path

from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI

url, model, file = sys.argv[1:]
chat = ChatOpenAI(
    base_url=f"{url}/v1",
    api_key="unused",
    model=model,
    temperature=0,
    max_retries=0,
    stream_usage=True,
    extra_body={"fovea": {"pruner": "desap", "keep_tokens": 9}},
)
data = base64.b64encode(Path(file).read_bytes()).decode()
message = HumanMessage(
    [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
        {"type": "text", "text": "What do you see?"},
    ]
)
answer = chat.invoke([message])
chunks = list(chat.stream([message]))
total = chunks[0]
for chunk in chunks[1:]:
    total += chunk
json.dump(
    {
        "invoked": {"text": answer.text, "usage": answer.usage_metadata},
        "streamed": {"text": total.text, "usage": total.usage_metadata},
    },
    sys.stdout,
)
