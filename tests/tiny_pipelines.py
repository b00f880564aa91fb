"""Tiny model folders with random weights, of the classes and file layout of the published ones.

    python tests/tiny_pipelines.py OUT     writes OUT/blip, OUT/sdxl, OUT/ddim

blip stands for Salesforce/blip-image-captioning-base, sdxl (64 px) for stabilityai/sdxl-turbo, and
ddim (32 px) for a folder made by extras/train_diffusion.py. What they generate is noise; everything
around it is real.
"""

import json
import string
import sys
from pathlib import Path

WORDS = (
    "a an the of on in with and photo picture view from above bird dog cat forest river field "
    "desert city road sea snow cloud mountain green brown blue white red dark small large old new "
    "two many near standing flying sitting next to sky water tree grass rock house boat"
).split()


def blip(folder, seed=0):
    """BlipForConditionalGeneration (64 px) and BlipProcessor, whose BERT vocabulary is tiny."""
    import torch
    from transformers import (
        BertTokenizer,
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessor,
        BlipProcessor,
    )

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    pieces = [*string.ascii_lowercase, *("##" + c for c in string.ascii_lowercase)]
    vocabulary = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *WORDS,
        *(p for p in pieces if p not in WORDS),
    ]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    tokenizer = BertTokenizer.from_pretrained(folder)
    n = len(vocabulary)  # BLIP puts its [DEC] token behind BERT's vocabulary
    text = {
        "vocab_size": n + 2,
        "hidden_size": 32,
        "encoder_hidden_size": 32,
        "intermediate_size": 64,
        "projection_dim": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
        "bos_token_id": n,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "sep_token_id": 3,
        "is_decoder": True,
        "initializer_range": 0.5,
    }
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 64,
        "patch_size": 16,
        "initializer_range": 0.3,
    }
    torch.manual_seed(seed)
    model = BlipForConditionalGeneration(
        BlipConfig(
            text_config=text, vision_config=vision, projection_dim=16, image_text_hidden_size=16
        )
    )
    with torch.no_grad():  # whole words only, and captions that depend on the image
        model.text_decoder.cls.predictions.bias[5 + len(WORDS) :] = -100
        model.text_decoder.cls.predictions.bias[:5] = torch.tensor([-100.0, -100, -100, -1, -100])
        for name, weight in model.text_decoder.named_parameters():
            if "crossattention" in name and weight.ndim == 2:
                weight *= 4
    model.save_pretrained(folder)
    BlipProcessor(BlipImageProcessor(size={"height": 64, "width": 64}), tokenizer).save_pretrained(
        folder
    )
    return folder


def clip_tokenizer(folder):
    """Write a byte-pair tokenizer in CLIP's layout; returns its number of tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    characters = string.ascii_lowercase + string.digits + ".,'!-"
    merges = ["t h", "th e</w>", "a n", "an d</w>", "o f</w>", "b i", "bi r", "bir d</w>"]
    tokens = [
        *characters,
        *(c + "</w>" for c in characters),
        *(m.replace(" ", "") for m in merges),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    special = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    }
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**special, "model_max_length": 77, "tokenizer_class": "CLIPTokenizer"})
    )
    return len(tokens)


def sdxl(folder, seed=0):
    """StableDiffusionXLImg2ImgPipeline: 64 px, latents 8x8, SDXL-Turbo's scheduler."""
    import torch
    from diffusers import (
        AutoencoderKL,
        EulerAncestralDiscreteScheduler,
        StableDiffusionXLImg2ImgPipeline,
        UNet2DConditionModel,
    )
    from transformers import (
        CLIPTextConfig,
        CLIPTextModel,
        CLIPTextModelWithProjection,
        CLIPTokenizer,
    )

    folder = Path(folder)
    n = clip_tokenizer(folder / "tokenizer")
    clip_tokenizer(folder / "tokenizer_2")
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4),
        transformer_layers_per_block=(1, 1),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        cross_attention_dim=64,
        projection_class_embeddings_input_dim=6 * 8 + 32,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 16, 16),
        norm_num_groups=8,
        layers_per_block=1,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        scaling_factor=0.13025,
        sample_size=64,
        force_upcast=True,
    )
    with (
        torch.no_grad()
    ):  # like a trained VAE: a narrow posterior of spread means, an image with contrast
        vae.quant_conv.weight[:4] *= 12
        vae.quant_conv.weight[4:] = 0
        vae.quant_conv.bias[4:] = -10
    text = CLIPTextConfig(
        hidden_size=32,
        intermediate_size=64,
        projection_dim=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        vocab_size=n,
        bos_token_id=n - 2,
        eos_token_id=n - 1,
        pad_token_id=n - 1,
        max_position_embeddings=77,
        hidden_act="gelu",
    )
    scheduler = EulerAncestralDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        timestep_spacing="trailing",
    )
    StableDiffusionXLImg2ImgPipeline(
        vae=vae,
        unet=unet,
        scheduler=scheduler,
        add_watermarker=False,
        text_encoder=CLIPTextModel(text),
        text_encoder_2=CLIPTextModelWithProjection(text),
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        tokenizer_2=CLIPTokenizer.from_pretrained(folder / "tokenizer_2"),
    ).save_pretrained(folder)
    return folder


def ddim(folder, seed=0):
    """DDIMPipeline: an unconditional UNet2DModel in pixel space, 32 px."""
    import torch
    from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel

    torch.manual_seed(seed)
    unet = UNet2DModel(
        sample_size=32,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    with (
        torch.no_grad()
    ):  # predict little noise: 50 steps of wild predictions would saturate every image
        unet.conv_out.weight *= 0.1
    DDIMPipeline(unet, DDIMScheduler(timestep_spacing="trailing")).save_pretrained(folder)
    return Path(folder)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    for build in (blip, sdxl, ddim):
        print(build(Path(sys.argv[1]) / build.__name__))
