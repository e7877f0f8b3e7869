#!/usr/bin/env bash
# What `/v1/answer` and `/v1/explain` do, with curl.  FOVEA_URL=http://127.0.0.1:8000 examples/curl.sh [picture]
set -euo pipefail
url=${FOVEA_URL:-http://127.0.0.1:8000}
picture=${1:-$(dirname "$0")/../lab/demo/demo.png}

echo "--- a question"
curl -sS --fail-with-body "$url/v1/answer" -F image=@"$picture" -F question="What do you see?"

echo; echo "--- the same in JSON, with a budget of 32 tokens"
curl -sS --fail-with-body "$url/v1/answer" -H 'content-type: application/json' -d @- <<JSON
{"question": "What do you see?", "keep_tokens": 32, "image": "data:image/png;base64,$(base64 < "$picture" | tr -d '\n')"}
JSON

echo; echo "--- about two pictures"
curl -sS --fail-with-body "$url/v1/answer" -F images=@"$picture" -F images=@"$picture" -F question="Is <image> like <image>?"

echo; echo "--- as it is decoded"
curl -sS --fail-with-body -N "$url/v1/answer" -F image=@"$picture" -F question="Describe the picture." -F stream=true

echo "--- what would be kept, and why: numbers; without format=json a PNG"
curl -sS --fail-with-body "$url/v1/explain" -F image=@"$picture" -F question="What do you see?" -F keep_tokens=4 -F format=json

echo; echo "--- which pruners there are"
curl -sS --fail-with-body "$url/v1/pruners"
