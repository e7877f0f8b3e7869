#!/usr/bin/env bash
# Trains and evaluates the CLIP and the LLaVA of the world of 576 tokens in one call of at most MINUTES minutes.
#
#   lab/world576/train.sh            on a GPU: all of it in 9 minutes; status 75: call again, and it goes on
#   SMALL=1 lab/world576/train.sh    the whole of it, tiny, on a CPU
#
# WORK    folder of all that is kept between calls (build/world576); its folder `checkpoints` is enough to go on elsewhere
# OUT     folder to which the checkpoints, the model card and the log are copied at the end (none)
# PYTHON  interpreter (.venv/bin/python where there is one, else python3)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
work=${WORK:-build/world576}
arguments=(--work "$work" --minutes "${MINUTES:-9}")
if [ "${SMALL:-}" = 1 ]; then
  arguments+=(--small --device cpu)
fi

mkdir -p "$work/checkpoints"
status=0
"$python" -m lab.world576 "${arguments[@]}" "$@" 2>&1 | tee -a "$work/checkpoints/train.log" || status=$?
if [ -n "${OUT:-}" ]; then
  mkdir -p "$OUT"
  cp -r "$work/checkpoints/." "$OUT"
fi
exit "$status"
