#!/usr/bin/env bash
# When does a generated view help? CIFAR-10, where anybody can repeat it.
#
#   bash recipes/cifar10.sh                          fetches CIFAR-10; BUDGET=cpu without a GPU
#   BUDGET=night bash recipes/cifar10.sh             one night on one card
#   SET=cifar100 bash recipes/cifar10.sh             the same on CIFAR-100
#   DATA=/my/cifar bash recipes/cifar10.sh           image files instead: train/ and val/ or test/
#
# BUDGET says how much is trained; METHODS, LABELS, ARMS, SEEDS and DECLARED can be given as well:
#   cpu     SimCLR, a 10-layer ResNet, 60 epochs of 10,000 images, 15 arms, 2 to 5 seeds: 20 minutes
#           of one core an encoder, or 13 of two with OMP_NUM_THREADS=2, some 17 hours of one core in
#           all; it can be stopped and continued
#   hour    SimCLR, ResNet-18, 16 epochs, 4 arms, 2 seeds
#   night   SimCLR, ResNet-18, 45 epochs, 12 arms, 3 seeds
#   full    VICReg and SimCLR with solo-learn's settings: 1,000 epochs, 17 arms, 3 seeds
# Half of the pairs (gamma 0.5) have a view from the arm's images:
#   baseline             hand-crafted views only
#   control              the real image where the generated one would stand
#   reconstruction       the tokenizer's reconstruction, nothing masked
#   mask25 mask50 ...    in-painted: that share of the tokens is predicted
#   keep25 keep50 ...    as mask25 ..., with the original's pixels where nothing was masked
#   weak50               as mask50, by a transformer that was stopped early
#   outpaint             the image at the centre, its surroundings predicted
#   diffusion0.1 ...     a text-free diffusion model, by strength
#   neighbour            the image that the first baseline finds most similar
#   oracle               another image of the class: the ceiling of any generator, it uses the labels
# First the baseline, the control and the oracle are trained on two seeds. If the oracle is not 3
# points of linear top-1 above the control in both, this budget cannot tell a good partner from a bad
# one, and the study ends there (GATE=0 goes on). The generators are trained without labels on nine
# tenths of the training images. What they make of the last tenth says how good they are. DECLARED
# arms are trained on all seeds, the others on two. The last product is the report: RUNS/gains.png is
# the gain of every arm against what its images keep of the originals.
source "$(dirname "$0")/start.sh"
SET=${SET:-cifar10}
case $SET in
  cifar10) CLASSES=10 ;;
  cifar100) CLASSES=100 ;;
  *)
    echo "SET=$SET: it is cifar10 or cifar100." >&2
    exit 2
    ;;
esac
preflight "$@"
if [ "$GPUS" -gt 0 ]; then BUDGET=${BUDGET:-night}; else BUDGET=${BUDGET:-cpu}; fi
ALL_METHODS=simclr
PART=""
TOKENIZER="--size 32 --filters 128 --multipliers 1 2 --unshuffle 2 --blocks 2 --codes 1024
  --code-dim 64 --gan-weight 0 --perceptual-weight 0 --learning-rate 5e-4 --batch-size 128"
TRANSFORMER="--layers 8 --dim 384 --heads 6 --learning-rate 5e-4 --batch-size 256"
DIFFUSION="--size 32 --multipliers 1 2 2 --learning-rate 2e-4"
PRETRAIN="--preset cifar --in-memory"
EVAL="--cache-features"
ALL_LABELS="10 100"
case $BUDGET in
  cpu)
    PART="--limit $((10000 / CLASSES)) $((10000 / CLASSES))"
    ALL_ARMS="keep10 keep25 keep50 mask10 mask25 mask50 weak50 reconstruction diffusion0.1
      diffusion0.2 diffusion0.4 neighbour"
    ALL_SEEDS="0 1 2 3 4"
    ALL_DECLARED="keep10 diffusion0.1" # by the rule in docs/results.md
    EPOCHS=60
    TOKENIZER="--size 32 --filters 64 --multipliers 1 --unshuffle 4 --blocks 1 --codes 1024
      --code-dim 48 --groups 16 --perceptual-weight 0 --gan-weight 0 --learning-rate 1e-3
      --batch-size 64 --epochs 10 --workers 0"
    TRANSFORMER="--layers 4 --dim 192 --heads 6 --ema 0.999 --learning-rate 2e-3 --batch-size 64
      --workers 0"
    TRANSFORMER_EPOCHS="8 1"
    DIFFUSION="$DIFFUSION --width 32 --blocks 1 --epochs 10 --ema 0.999 --batch-size 64 --workers 0"
    PRETRAIN="$PRETRAIN --backbone resnet10 --crop-scale 0.2 1 --optimizer adamw --learning-rate 4e-3
      --warmup-epochs 1 --batch-size 128 --projector 256-128 --log-every 78 --workers 0"
    EVAL="$EVAL --workers 0"
    ALL_LABELS=10
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
    ;;
  hour)
    ALL_ARMS="keep25"
    ALL_SEEDS="0 1"
    EPOCHS=16
    TOKENIZER="$TOKENIZER --epochs 20"
    TRANSFORMER_EPOCHS="60 1"
    PRETRAIN="$PRETRAIN --warmup-epochs 4"
    ;;
  night)
    ALL_ARMS="reconstruction keep25 keep50 mask25 mask50 weak50 outpaint diffusion0.2 neighbour"
    ALL_SEEDS="0 1 2"
    EPOCHS=45
    TOKENIZER="$TOKENIZER --epochs 40"
    TRANSFORMER_EPOCHS="200 2"
    DIFFUSION="$DIFFUSION --epochs 100 --ema 0.999"
    ;;
  full)
    ALL_METHODS="vicreg simclr"
    ALL_ARMS="reconstruction keep25 keep50 mask25 mask50 mask75 weak50 outpaint diffusion0.1
      diffusion0.2 diffusion0.3 diffusion0.4 diffusion0.5 neighbour"
    ALL_SEEDS="0 1 2"
    EPOCHS=1000
    TOKENIZER="$TOKENIZER --epochs 100"
    TRANSFORMER_EPOCHS="1000 5"
    DIFFUSION="$DIFFUSION --epochs 1000"
    ;;
  *)
    echo "BUDGET=$BUDGET: it is cpu, hour, night or full." >&2
    exit 2
    ;;
esac
METHODS=${METHODS:-$ALL_METHODS}
LABELS=${LABELS:-$ALL_LABELS}
ARMS=${ARMS:-$ALL_ARMS}
SEEDS=${SEEDS:-$ALL_SEEDS}
DECLARED=${DECLARED:-${ALL_DECLARED:-$ALL_ARMS}}
GATE=${GATE:-3}
GAMMA=${GAMMA:-0.5}
PAIR=${PAIR:-crop}
IMAGES=${DATA:+--images $DATA}
INPAINT="--steps 6 --top-k 24 --softmax-temperature 0.67 --batch-size 250"
DRAWS=10
COST="--images 200 --compare 5000"
HELD=$((5000 / CLASSES))
if [ -n "${TINY:-}" ]; then
  PART="--limit 8 4"
  HELD=4
  ARMS="keep50"
  SEEDS="0"
  GATE=0
  LABELS="2"
  EPOCHS=1
  TOKENIZER="$TOKENIZER --filters 16 --groups 4 --codes 16 --batch-size 16 --epochs 1 --workers 0"
  TRANSFORMER="$TRANSFORMER --layers 1 --dim 32 --heads 2 --batch-size 16 --workers 0"
  TRANSFORMER_EPOCHS="2 1"
  DIFFUSION="--size 32 --width 32 --multipliers 1 2 --blocks 1 --epochs 1 --batch-size 16 --workers 0"
  INPAINT="$INPAINT --steps 2 --workers 0"
  PRETRAIN="$PRETRAIN --backbone resnet10 --projector 16-16 --batch-size 16 --warmup-epochs 0
    --log-every 1 --workers 0"
  EVAL="--cache-features --workers 0"
  DRAWS=2
  COST="--images 2 --compare 40 --workers 0"
fi
RUNS=${RUNS:-$RUN_ROOT/$SET-$BUDGET}
DATA=$DATA_ROOT/$SET${PART:+-part}
SEEN=$DATA_ROOT/$SET-generators  # by the generators; its val is held out
MIRRORS=$RUNS/mirrors
FIRST=${METHODS%% *}-baseline-seed${SEEDS%% *}  # its features say what is near
read -r LONG SHORT <<< "$TRANSFORMER_EPOCHS"

say "the images"
make="run python recipes/datasets.py $SET --archive $DATA_ROOT/archives $IMAGES"
$make --out "$DATA" $PART
$make --out "$SEEN" --held-out "$HELD"

# ---- the generators, and the images of an arm
maskgit() {  # name, epochs
  $LAUNCH 00_train_generator.py maskgit --data "$SEEN/train" --tokenizer "$RUNS/vqgan" \
    --out "$RUNS/$1" $TRANSFORMER --epochs "$2"
}
generators() {
  $LAUNCH 00_train_generator.py vqgan --data "$SEEN/train" --out "$RUNS/vqgan" $TOKENIZER
  maskgit maskgit "$LONG"
  if [[ $ARMS == *weak* ]]; then maskgit maskgit-weak "$SHORT"; fi
  if [[ $ARMS == *diffusion* ]]; then
    $LAUNCH extras/train_diffusion.py --data "$SEEN/train" --out "$RUNS/ddpm" $DIFFUSION
  fi
}
mirror() {  # arm, originals, folder of the mirrors
  local to=(--data "$2" --out "$3/$1")
  local paint="$LAUNCH 02_augment.py inpaint $INPAINT"
  local weights=(--weights "$RUNS/maskgit")
  case $1 in
    reconstruction) $paint "${to[@]}" "${weights[@]}" --mask none ;;
    mask*) $paint "${to[@]}" "${weights[@]}" --mask "random:0.${1#mask}" ;;
    keep*) $paint "${to[@]}" "${weights[@]}" --mask "random:0.${1#keep}" --composite ;;
    weak*) $paint "${to[@]}" "${weights[@]}-weak" --mask "random:0.${1#weak}" ;;
    outpaint)
      $LAUNCH 02_augment.py outpaint $INPAINT "${to[@]}" "${weights[@]}" --positions center
      ;;
    diffusion*)
      $LAUNCH 02_augment.py diffusion --data "$2" --out "$3/diffusion" --model "$RUNS/ddpm" \
        --strength "${1#diffusion}" --store-size 32 --batch-size 250
      ;;
    neighbour) $LAUNCH 02_augment.py neighbour "${to[@]}" --size 32 --backbone "$RUNS/$FIRST" ;;
    oracle) $LAUNCH 02_augment.py same-class "${to[@]}" --size 32 ;;
  esac
}
folder() {  # arm: where its images are, below the folder of the mirrors
  case $1 in
    diffusion*) echo "diffusion/strength${1#diffusion}" ;;
    *) echo "$1" ;;
  esac
}

# ---- an arm: the encoder, then frozen features with all labels and with few
arm() {  # name, method, seed
  local name=$RUNS/$2-$1-seed$3 flags
  case $1 in
    baseline) flags="--mix 0" ;;
    control) flags="--generated real --mix $GAMMA --pair $PAIR" ;;
    *) flags="--generated $MIRRORS/$(folder "$1") --mix $GAMMA --pair $PAIR" ;;
  esac
  say "$2, $1, seed $3"
  $LAUNCH 03_pretrain.py --data "$DATA/train" --out "$name" --method "$2" --seed "$3" \
    --epochs "$EPOCHS" $PRETRAIN $flags
  local more=""
  if [ "$1" = baseline ]; then more=--baselines; fi
  $LAUNCH 04_linear_eval.py --data "$DATA" --backbone "$name" --knn $more $EVAL
  for labels in $LABELS; do
    $LAUNCH 04_linear_eval.py --data "$DATA" --backbone "$name" --labels-per-class "$labels" \
      --draws "$DRAWS" $EVAL
  done
}
arms() {  # seeds, arms: each with every method
  local names=$2
  for seed in $1; do
    for method in $METHODS; do
      for name in $names; do arm "$name" "$method" "$seed"; done
    done
  done
}
read -r one two more <<< "$SEEDS"
mirror oracle "$DATA/train" "$MIRRORS"
arms "$one $two" "baseline oracle control"
say "can this budget tell a good partner from a bad one?"
gate=""
if [ "$GATE" != 0 ]; then gate="--gate $GATE"; fi
run python 07_metrics.py report "$RUNS" $gate

say "the generators, and what they make of images that they have not seen"
generators
places=()
for name in $ARMS oracle; do
  mirror "$name" "$SEEN/val" "$RUNS/held-out"
  places+=("$RUNS/held-out/$(folder "$name")")
done
$LAUNCH 07_metrics.py cost "${places[@]}" --out "$RUNS/cost" --size 32 --features "$RUNS/$FIRST" $COST

for name in $ARMS; do mirror "$name" "$DATA/train" "$MIRRORS"; done
arms "$one $two" "$ARMS"
if [ -n "$more" ]; then arms "$more" "baseline oracle control $DECLARED"; fi
run python 07_metrics.py report "$RUNS"
