#!/usr/bin/env bash
# Requests to `/v1/answer` and `/v1/explain` with curl:  FOVEA_URL=http://127.0.0.1:8000 examples/curl.sh [IMAGE]
set -euo pipefail
url=${FOVEA_URL:-http://127.0.0.1:8000}
# FOVEA_API_KEY, if it is set, is sent by a file, because the arguments of a command are in the list of processes.
request() {
  curl -sS --fail-with-body ${FOVEA_CA_FILE:+--cacert "$FOVEA_CA_FILE"} \
    -K <(printf '%s' "${FOVEA_API_KEY:+header = \"Authorization: Bearer $FOVEA_API_KEY\"}") "$@"
}
image=${1:-$(dirname "$0")/../lab/demo/demo.png}

echo "--- a question"
request "$url/v1/answer" -F image=@"$image" -F question="What do you see?"

# A budget goes with a pruner, because that of the server may be none, which takes no budget.
echo; echo "--- the same in JSON, with a pruner and a budget of 32 tokens"
request "$url/v1/answer" -H 'content-type: application/json' -d @- <<JSON
{"question": "What do you see?", "pruner": "desap", "keep_tokens": 32, "image": "data:image/png;base64,$(base64 < "$image" | tr -d '\n')"}
JSON

echo; echo "--- about two images"
request "$url/v1/answer" -F images=@"$image" -F images=@"$image" -F question="Is <image> like <image>?"

echo; echo "--- streamed while it is decoded"
request -N "$url/v1/answer" -F image=@"$image" -F question="Describe the picture." -F stream=true

echo "--- which patches are kept, and why, as numbers; without format=json a PNG"
request "$url/v1/explain" -F image=@"$image" -F question="What do you see?" -F pruner=desap -F keep_tokens=4 \
  -F format=json

echo; echo "--- the list of pruners"
request "$url/v1/pruners"
