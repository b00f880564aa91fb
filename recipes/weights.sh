#!/usr/bin/env bash
# Fetches every published weight file, so that the machine needs no network afterwards.
#
#   bash recipes/weights.sh        into $GCL_WEIGHTS, else ~/.cache/gcl; some 11 GB
#   HUB= bash recipes/weights.sh   without SDXL-Turbo and BLIP (8 GB, in the hub's cache, $HF_HOME)
#
# A file whose name begins or ends with its hash is checked against it. The hashes of all in
# $GCL_WEIGHTS are kept in SHA256SUMS and checked when this is run again. What is there is kept.
source "$(dirname "$0")/start.sh"
export GCL_WEIGHTS=${GCL_WEIGHTS:-$HOME/.cache/gcl}
FILES=${FILES-"icgan swav maskgit-tokenizer maskgit-transformer inception vgg16"}
LISTS=${LISTS-"1percent 10percent"}
HUB=${HUB-yes}

cat <<'LICENCES'
Licences, as far as the publishers state them. Read them before you use or pass on a file, or what
it generates:
  IC-GAN generator                CC BY-NC 4.0 (facebookresearch/ic_gan): no commercial use
  SwAV ResNet-50                  CC BY-NC 4.0 (facebookresearch/swav): no commercial use
  MaskGIT tokenizer, transformer  Apache 2.0 (google-research/maskgit)
  FID Inception                   Apache 2.0 (mseitzer/pytorch-fid; a port of TensorFlow's, Apache 2.0)
  VGG-16                          BSD-3-Clause (torchvision's code; trained on ImageNet: check its terms)
  SDXL-Turbo                      Stability AI's non-commercial research community licence
  BLIP captioning base            BSD-3-Clause (Salesforce/BLIP)
  SimCLR's 1 % and 10 % lists     Apache 2.0 (google-research/simclr)
LICENCES

if [ -n "${CHECK:-}" ]; then exit 0; fi # what it needs is the network
say "weight files, into $GCL_WEIGHTS"
run mkdir -p "$GCL_WEIGHTS/imagenet_subsets"
run python -c "
import sys
from base.weights import weight_file
for name in sys.argv[1:]:
    print(weight_file(name))" $FILES

say "the images of SimCLR's 1 % and 10 % of ImageNet's labels"
for list in $LISTS; do
  base=https://raw.githubusercontent.com/google-research/simclr/master
  address=$base/imagenet_subsets/$list.txt
  file=$GCL_WEIGHTS/imagenet_subsets/$list.txt
  if [ ! -e "$file" ]; then
    run curl --fail --silent --show-error --location --output "$file.part" "$address" ||
      { echo "$address cannot be reached: put it there as $file." >&2; exit 1; }
    run mv "$file.part" "$file"
  fi
done

say "hashes"
check_sums() { (cd "$GCL_WEIGHTS" && run sha256sum --check --quiet SHA256SUMS >&2); }
if [ -e "$GCL_WEIGHTS/SHA256SUMS" ] && ! check_sums; then
  echo "A file in $GCL_WEIGHTS is not what SHA256SUMS there says: delete it, or its line if you" \
    "changed it." >&2
  exit 1
fi
if [ -z "${DRY:-}" ]; then
  (cd "$GCL_WEIGHTS" && find . -type f ! -name 'SHA256SUMS*' ! -name '*.sha256' ! -name '.*' | sort |
    xargs sha256sum | tee SHA256SUMS.part)
  mv "$GCL_WEIGHTS/SHA256SUMS.part" "$GCL_WEIGHTS/SHA256SUMS"
fi

if [ -n "$HUB" ]; then
  say "SDXL-Turbo and BLIP, into the hub's cache, whose files are named after their hashes"
  run python -c "
from augment.diffusion import pipeline_folder
print(pipeline_folder('stabilityai/sdxl-turbo'))"
  run python -c "
from huggingface_hub import snapshot_download
from base.weights import model_folder
name = 'Salesforce/blip-image-captioning-base'
print(model_folder(name, 'config.json', 'a BLIP folder', snapshot_download))"
fi
