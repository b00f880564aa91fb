# Sourced by every recipe: where things stand, and how a stage is launched on this machine.
#   DATA   image folder, ROOT/train/CLASS/* and ROOT/val/CLASS/*
#   RUNS   where the runs go         GPUS   how many processes (default: the GPUs there are)
#   TINY=1 the same commands at a tiny size, on generated images and random weights, on a CPU in minutes
#   DRY=1  only print the commands, to be copied one by one or handed to a cluster
# Stopped, a recipe is continued by the same command: what is finished is skipped, what is not is resumed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
DATA_ROOT=data RUN_ROOT=runs
if [ -n "${TINY:-}" ]; then
  DATA_ROOT=${TINY_DATA:-data/tiny} RUN_ROOT=${TINY_RUNS:-runs/tiny} GPUS=${GPUS:-0}
  export CUDA_VISIBLE_DEVICES=
fi
GPUS=${GPUS:-$(nvidia-smi --list-gpus 2>/dev/null | wc -l || true)}
LAUNCH="run python"
if [ "$GPUS" -gt 1 ]; then LAUNCH="run torchrun --standalone --nproc_per_node=$GPUS"; fi
say() { printf '\n== %s\n' "$*"; }
run() {  # print a command as it could be typed, then run it
  printf '$'; printf ' %q' "$@"; echo
  if [ -z "${DRY:-}" ]; then "$@"; fi
}
