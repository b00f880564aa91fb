# Sourced by the recipes on ImageNet: the folders they share, and the steps that an arm is made of.
#   DATA     ImageNet: DATA/train/n01440764/*.JPEG and DATA/val/n01440764/*.JPEG
#   RUNS     an arm NAME leaves RUNS/NAME-seed0 (the encoder), NAME-seed0-linear, NAME-seed0-1percent
#   GEN      GEN/inpaint, GEN/noise, ...: generated images
#   SUBSETS  SimCLR's lists of the 1 % and 10 % of the labels (weights.sh fetches them)
#   PRETRAIN, LINEAR, SEMISUP, TRANSFER, GENERATE, ...   further flags for every command of a kind
# Recipes share RUNS and GEN: what one has made, the next one uses. Their costs are estimates
# (python tools/estimates.py), each for a recipe that finds nothing made. The settings fit cards of
# 24 GB: VICReg with 200 pairs a GPU needs 18.9 GiB (python tools/estimates.py memory).
source "$(dirname "${BASH_SOURCE[0]}")/start.sh"
STUDY=${STUDY:-imagenet}
RUNS=${RUNS:-$RUN_ROOT/$STUDY}
GEN=${GEN:-$DATA_ROOT/generated/$STUDY}
PRETRAIN=${PRETRAIN:-} LINEAR=${LINEAR:-} SEMISUP=${SEMISUP:-} TRANSFER=${TRANSFER:-} COST=${COST:-}
GENERATE=${GENERATE:-} MASKGIT=${MASKGIT:-} OUTPAINT=${OUTPAINT:-} SDXL=${SDXL:-} BLIP=${BLIP:-}
if [ -n "${TINY:-}" ]; then
  DATA=${DATA:-$DATA_ROOT/imagenet}
  export GCL_WEIGHTS=$DATA_ROOT/weights
  PRETRAIN="--backbone resnet10 --small-images --size 32 --store-size 32 --epochs 1 --batch-size 12
    --optimizer adamw --warmup-epochs 0 --projector 16-16 --local-size 16 --log-every 1 --workers 0
    $PRETRAIN"
  LINEAR="--epochs 2 --batch-size 8 --workers 0 $LINEAR"
  SEMISUP="--epochs 1 --batch-size 4 --workers 0 $SEMISUP"
  TRANSFER="--workers 0 $TRANSFER"
  GENERATE="--batch-size 12 --workers 0"
  MASKGIT="--steps 2"
  OUTPAINT="--positions upper-left center"
  SDXL="--model $DATA_ROOT/sdxl"
  BLIP="--model $DATA_ROOT/blip --num-beams 1 --max-tokens 3 --batch-size 12 --workers 0"
  run python tests/tiny.py "$DATA_ROOT"
fi
: "${DATA:?is to name the folder of ImageNet, with train/ and val/ in it}"
SUBSETS=${SUBSETS:-${GCL_WEIGHTS:-$HOME/.cache/gcl}/imagenet_subsets}

# noise | inpaint | outpaint | diffusion (strength 0.2, unless flags say otherwise) | reconstruction,
# which is the control of both paintings: through the tokenizer, nothing masked
mirror() {
  local strategy=$1 more=""; shift
  case $strategy in
    inpaint) more=$MASKGIT ;;
    outpaint) more="$MASKGIT $OUTPAINT" ;;
    diffusion) more="--captions $GEN/captions.jsonl $SDXL" ;;
  esac
  if [ "$strategy" = reconstruction ]; then
    $LAUNCH 02_augment.py inpaint --data "$DATA/train" --out "$GEN/reconstruction" --mask none \
      $MASKGIT $GENERATE
  else
    $LAUNCH 02_augment.py "$strategy" --data "$DATA/train" --out "$GEN/$strategy" $more "$@" $GENERATE
  fi
}
captions() { $LAUNCH 01_caption.py --data "$DATA/train" --out "$GEN/captions.jsonl" $BLIP; }
pretrain() {  # name of the arm, seed, then the flags that make it
  local name=$1 seed=$2; shift 2
  say "$name, seed $seed"
  $LAUNCH 03_pretrain.py --data "$DATA/train" --out "$RUNS/$name-seed$seed" --seed "$seed" "$@" $PRETRAIN
}
linear() { $LAUNCH 04_linear_eval.py --data "$DATA" --backbone "$RUNS/$1-seed$2" --seeds "$2" $LINEAR; }
semisup() {
  for percent in 1 10; do
    $LAUNCH 05_semisup_eval.py --data "$DATA" --backbone "$RUNS/$1-seed$2" --percent $percent \
      --seed "$2" --subset-file "$SUBSETS/${percent}percent.txt" $SEMISUP
  done
}
arm() {  # name of the arm, seed, then the flags that make it: its encoder, then the EVALUATIONS
  pretrain "$@"
  for evaluation in $EVALUATIONS; do $evaluation "$1" "$2"; done
}
mixed() {  # seed, strategy or real, gamma: an arm of Table 4
  local generated=$GEN/$2
  if [ "$2" = real ]; then generated=real; fi
  arm "$2-gamma$3-crop" "$1" --generated "$generated" --mix "$3" --pair crop
}
EVALUATIONS=linear
preflight "$@"
