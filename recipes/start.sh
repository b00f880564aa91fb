# Sourced by every recipe: where things stand, and how a stage is launched on this machine.
#   DATA   image folder, ROOT/train/CLASS/* and ROOT/val/CLASS/*
#   RUNS   where the runs go         GPUS   how many processes (default: the GPUs there are)
#   TINY=1 the same commands at a tiny size, on generated images and random weights, on a CPU in minutes
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
GPUS=${GPUS:-$(nvidia-smi --list-gpus 2>/dev/null | wc -l || true)}
LAUNCH=python
if [ "$GPUS" -gt 1 ]; then LAUNCH="torchrun --standalone --nproc_per_node=$GPUS"; fi
say() { printf '\n== %s\n' "$*"; }
