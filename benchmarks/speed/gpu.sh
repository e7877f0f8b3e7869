#!/usr/bin/env bash
# All measurements on a GPU in one call of at most five minutes:  OUT=DIR benchmarks/speed/gpu.sh [--smoke]
#
# It needs no network, only a Python with torch and the packages of this project (PYTHON, default python3). Without git,
# BENCHMARK_COMMIT names the commit in the results. The phases run in the order of their importance, each within a limit
# of its own and within BUDGET_S seconds in all. After each phase two files in OUT are complete: log.txt, with every
# report, and results.tar.gz, with the result files and the exit status of each phase. The exit status is the number of
# phases that failed. With --smoke everything runs on the CPU in a short form, and the figures mean nothing.
set -uo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
out=${OUT:?set OUT to a folder for the results}
python=${PYTHON:-python3}
budget=${BUDGET_S:-290}
smoke=${1:-}
if [[ -n $smoke && $smoke != --smoke ]]; then
  echo "usage: OUT=DIR $0 [--smoke]" >&2
  exit 2
fi
device=cuda
if [[ -n $smoke ]]; then device=cpu; fi

mkdir -p "$out" || exit 2
out=$(cd "$out" && pwd)
results=$(mktemp -d)
checkpoints=$(mktemp -d)  # 13 GiB for LLaVA-1.5-7B with random weights, written once
trap 'rm -rf "$results" "$checkpoints"' EXIT
cd "$root" || exit 2
export PYTHONPATH=$root PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
: > "$out/log.txt"
failed=0

note() { echo "$*" | tee -a "$out/log.txt"; }

# phase NAME SECONDS MODULE WORDS...: runs `python -m MODULE WORDS`; what it has written so far is packed in any case.
phase() {
  local name=$1 limit=$2 status begin=$SECONDS
  shift 2
  local left=$((budget - SECONDS))
  if ((left < 5)); then
    note "== $name: not run, the time is used up"
    echo "$name not run" >> "$results/status.txt"
    failed=$((failed + 1))
  else
    note "== $name: $*"
    timeout --kill-after=5 "$((limit < left ? limit : left))" "$python" -m "$@" >> "$out/log.txt" 2>&1
    status=$?
    note "== $name: exit status $status after $((SECONDS - begin)) s, $SECONDS s in all"
    echo "$name $status" >> "$results/status.txt"
    if ((status != 0)); then failed=$((failed + 1)); fi
  fi
  tar -czf "$out/results.tar.gz.part" -C "$results" . && mv "$out/results.tar.gz.part" "$out/results.tar.gz"
}

# measure NAME SECONDS MODULE WORDS...: a phase whose command takes --device and --out, and --smoke before other words.
measure() {
  local name=$1 limit=$2 module=$3
  shift 3
  if [[ -n $smoke ]]; then set -- --smoke; fi
  mkdir -p "$results/$name"
  phase "$name" "$limit" "$module" "$@" --device "$device" --out "$results/$name"
}

exists() { "$python" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec(sys.argv[1]) is None)' "$1"; }

# Golden cases on the device.
if [[ -n $smoke ]]; then
  phase golden 240 benchmarks.golden tests/golden --device "$device" --method visionzip
else
  phase golden 60 benchmarks.golden tests/golden --device "$device"
fi

# CUDA graphs against eager runs. Versions without CUDA graphs have no such module.
if exists benchmarks.speed.graphs; then
  measure graphs 60 benchmarks.speed.graphs
else
  note "== graphs: there is no benchmarks.speed.graphs"
fi

# Prefills and decoding steps of the LLM service.
measure prefill 40 benchmarks.speed.prefill --rounds 5
measure decode 40 benchmarks.speed.decode --rounds 3

# Whole answers of the services beside the unsplit model, and requests a second.
windows=(--rounds 2 --window-s 1.5 --warm-up-s 0.5)
if [[ -n $smoke ]]; then windows=(); fi
graphs=("--encoder-flags=--cuda-graphs auto" "--llm-flags=--cuda-graphs auto")
measure answer 75 benchmarks.speed.answer --checkpoint "$checkpoints" "${graphs[@]}" --rounds 8 --warmups 2
measure concurrency 80 benchmarks.speed.concurrency --checkpoint "$checkpoints" "${graphs[@]}" "${windows[@]}"

# The same tokens on the CPU and on the device.
measure device_choices 45 benchmarks.speed.device_choices

# Times, and peak memory of encoder and pruners.
measure encoder_overhead 60 benchmarks.speed.encoder_overhead --rounds 20 --warmups 3
measure encoder_overhead_qwen3_vl 40 benchmarks.speed.encoder_overhead --model qwen3-vl-2b --rounds 10 --warmups 2
measure prune 40 benchmarks.speed.prune --rounds 10 --warmups 2
measure second_question 30 benchmarks.speed.second_question --rounds 10 --warmups 2

# Operations and kernels.
measure dispatches 60 benchmarks.dispatches --pruners none desap fovea visionzip

# From start to ready.
measure start 45 benchmarks.speed.start --repeats 2

# Compiled layers come last: compiling takes the longest. Versions that compile nothing have no such option.
if "$python" -c 'import sys; from benchmarks.speed import full_size_towers as t; sys.exit(not t.can_compile())'; then
  measure compiled 60 benchmarks.speed.encoder_overhead --compile --no-maps --rounds 20 --warmups 3
else
  note "== compiled: the encoder service compiles no layers"
fi

note "== $failed phases failed, $SECONDS s"
exit "$failed"
