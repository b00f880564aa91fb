# Sourced by every recipe: where things stand, and how a stage is launched on this machine.
#   DATA   image folder, DATA/train/CLASS/* and DATA/val/CLASS/*
#   RUNS   where the runs go
#   GPUS   how many processes; by default one for each GPU that PyTorch sees (CUDA_VISIBLE_DEVICES)
#   TINY=1 the same commands at a tiny size, on made-up images and random weights, on a CPU in minutes
#   CHECK=1 only look whether all is there that the recipe will need to its end
#   PART=1 a part of the data set is meant, such as some classes of ImageNet
#   DEVICE=cpu  use no GPU; the recipes on ImageNet then begin without one, too
#   DRY=1  only print the commands, to be copied one by one or handed to a cluster
# A recipe that was stopped is continued by the same command. What is finished is skipped, and what
# is not is resumed.
set -euo pipefail
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-600} # s, for the last checkpoint
RECIPE=$(cd "$(dirname "$0")" && pwd)/$(basename "$0")
for name in TINY CHECK PART DRY; do
  if [ "${!name:-}" = 0 ]; then unset "$name"; fi
done
for name in DATA RUNS; do  # they are meant from where the recipe is started
  case ${!name:-/} in
    *[[:space:]]*)
      echo "$name=${!name}: a recipe's folders must have no spaces in their names." >&2
      exit 2
      ;;
    /*) ;;
    *) printf -v "$name" %s "$PWD/${!name}" ;;
  esac
done
cd "$(dirname "${BASH_SOURCE[0]}")/.."
DATA_ROOT=data
RUN_ROOT=runs
if [ -n "${TINY:-}" ]; then
  DATA_ROOT=${TINY_DATA:-data/tiny}
  RUN_ROOT=${TINY_RUNS:-runs/tiny}
  DEVICE=cpu
fi
if [ "${DEVICE:-}" = cpu ]; then
  GPUS=${GPUS:-0}
  export CUDA_VISIBLE_DEVICES=
fi
gpus_seen() {
  python -c 'import torch; print(torch.cuda.device_count())' 2>/dev/null || {
    echo "python has no torch: run pip install -r requirements.txt, or activate its environment." >&2
    return 1
  }
}
GPUS=${GPUS:-$(gpus_seen)}
if [[ ! $GPUS =~ ^[0-9]+$ ]]; then
  echo "GPUS=$GPUS: it is the number of processes." >&2
  exit 2
fi
export GPUS  # for recipes that call others
LAUNCH="run python"
if [ "$GPUS" -gt 1 ]; then LAUNCH="run torchrun --standalone --nproc_per_node=$GPUS"; fi
preflight() {  # one list of what the recipe needs and of all that is missing, before anything is made
  if [ -n "${DRY:-}" ]; then return; fi
  say "what this recipe needs"
  DRY=1 bash "$RECIPE" "$@" | python recipes/preflight.py || exit 1
  if [ -n "${CHECK:-}" ]; then exit 0; fi
}
say() { printf '\n== %s\n' "$*"; }
run() {  # print a command as it could be typed, then run it
  printf '$'
  printf ' %q' "$@"
  echo
  if [ -z "${DRY:-}" ]; then "$@"; fi
}
