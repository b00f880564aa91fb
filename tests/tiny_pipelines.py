"""Tiny models with random weights, in the layout of the published ones: blip, sdxl (64 px) and
ddim (32 px, as of extras/train_diffusion.py).

    python tests/tiny_pipelines.py OUT
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
    import transformers

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    pieces = [*string.ascii_lowercase, *("##" + c for c in string.ascii_lowercase)]
    pieces = [piece for piece in pieces if piece not in WORDS]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *pieces]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    tokenizer = transformers.BertTokenizer.from_pretrained(folder)
    n = len(vocabulary)  # BLIP puts its [DEC] token behind BERT's vocabulary
    sizes = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    text = sizes | dict(vocab_size=n + 2, encoder_hidden_size=32, projection_dim=16)
    text |= dict(bos_token_id=n, eos_token_id=2, pad_token_id=0, sep_token_id=3)
    text |= dict(max_position_embeddings=64, is_decoder=True, initializer_range=0.5)
    vision = sizes | dict(image_size=64, patch_size=16, initializer_range=0.3)
    torch.manual_seed(seed)
    joined = dict(projection_dim=16, image_text_hidden_size=16)
    config = transformers.BlipConfig(text_config=text, vision_config=vision, **joined)
    model = transformers.BlipForConditionalGeneration(config)
    with torch.no_grad():  # whole words only, and captions that depend on the image
        model.text_decoder.cls.predictions.bias[5 + len(WORDS) :] = -100
        model.text_decoder.cls.predictions.bias[:5] = torch.tensor([-100.0, -100, -100, -1, -100])
        for name, weight in model.text_decoder.named_parameters():
            if "crossattention" in name and weight.ndim == 2:
                weight *= 4
    model.save_pretrained(folder)
    images = transformers.BlipImageProcessor(size={"height": 64, "width": 64})
    transformers.BlipProcessor(images, tokenizer).save_pretrained(folder)
    return folder


def clip_tokenizer(folder):
    """Write a byte-pair tokenizer in CLIP's layout; returns its number of tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    characters = string.ascii_lowercase + string.digits + ".,'!-"
    merges = ["t h", "th e</w>", "a n", "an d</w>", "o f</w>", "b i", "bi r", "bir d</w>"]
    tokens = [*characters, *(c + "</w>" for c in characters)]
    tokens += [*(m.replace(" ", "") for m in merges), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    config = dict.fromkeys(("eos_token", "unk_token", "pad_token"), "<|endoftext|>")
    config |= {"bos_token": "<|startoftext|>"}
    config |= {"model_max_length": 77, "tokenizer_class": "CLIPTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return len(tokens)


def sdxl(folder, seed=0):
    """StableDiffusionXLImg2ImgPipeline: 64 px, latents 8x8, SDXL-Turbo's scheduler."""
    import diffusers
    import torch
    import transformers

    folder = Path(folder)
    n = clip_tokenizer(folder / "tokenizer")
    clip_tokenizer(folder / "tokenizer_2")
    torch.manual_seed(seed)
    down, up = ("DownBlock2D", "CrossAttnDownBlock2D"), ("CrossAttnUpBlock2D", "UpBlock2D")
    blocks = dict(layers_per_block=1, norm_num_groups=8)
    net = dict(sample_size=8, block_out_channels=(16, 32), attention_head_dim=(2, 4), **blocks)
    net |= dict(down_block_types=down, up_block_types=up, transformer_layers_per_block=(1, 1))
    net |= dict(use_linear_projection=True, cross_attention_dim=64)
    net |= dict(addition_embed_type="text_time", addition_time_embed_dim=8)
    unet = diffusers.UNet2DConditionModel(**net, projection_class_embeddings_input_dim=6 * 8 + 32)
    coder = dict(block_out_channels=(8, 8, 16, 16), latent_channels=4, sample_size=64, **blocks)
    coder |= dict(down_block_types=("DownEncoderBlock2D",) * 4, scaling_factor=0.13025)
    coder |= dict(up_block_types=("UpDecoderBlock2D",) * 4, force_upcast=True)
    vae = diffusers.AutoencoderKL(**coder)
    with torch.no_grad():  # like a trained one: spread means with little noise, much contrast
        vae.quant_conv.weight[:4] *= 12
        vae.quant_conv.weight[4:] = 0
        vae.quant_conv.bias[4:] = -10
    sizes = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4)
    sizes |= dict(projection_dim=32, max_position_embeddings=77, hidden_act="gelu")
    tokens = dict(vocab_size=n, bos_token_id=n - 2, eos_token_id=n - 1, pad_token_id=n - 1)
    text = transformers.CLIPTextConfig(**sizes, **tokens)
    betas = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    steps = dict(steps_offset=1, timestep_spacing="trailing")
    scheduler = diffusers.EulerAncestralDiscreteScheduler(**betas, **steps)
    diffusers.StableDiffusionXLImg2ImgPipeline(
        vae=vae,
        unet=unet,
        scheduler=scheduler,
        add_watermarker=False,
        text_encoder=transformers.CLIPTextModel(text),
        text_encoder_2=transformers.CLIPTextModelWithProjection(text),
        tokenizer=transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        tokenizer_2=transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer_2"),
    ).save_pretrained(folder)
    return folder


def ddim(folder, seed=0):
    """DDIMPipeline: an unconditional UNet2DModel in pixel space, 32 px."""
    import torch
    from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel

    torch.manual_seed(seed)
    down, up = ("DownBlock2D", "AttnDownBlock2D"), ("AttnUpBlock2D", "UpBlock2D")
    net = dict(sample_size=32, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=8)
    unet = UNet2DModel(**net, attention_head_dim=8, down_block_types=down, up_block_types=up)
    with torch.no_grad():  # little noise: 50 steps of wild predictions would saturate every image
        unet.conv_out.weight *= 0.1
    DDIMPipeline(unet, DDIMScheduler(timestep_spacing="trailing")).save_pretrained(folder)
    return Path(folder)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    for build in (blip, sdxl, ddim):
        print(build(Path(sys.argv[1]) / build.__name__))
