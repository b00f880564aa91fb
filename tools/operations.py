"""Floating-point operations of the networks, counted on tensors without data.

Every function gives the operations of one image. A forward and a backward pass need three times
those of the forward pass.
"""

import functools
import importlib
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from models import biggan, maskgit, vqgan
from models.resnet import build_backbone


def forward(build, *inputs):
    """FLOPs of one forward pass of the module that build() makes."""
    with torch.device("meta"), torch.no_grad():
        module = build().eval()
        with FlopCounterMode(display=False) as counter:
            module(*[make() for make in inputs])
    return counter.get_total_flops()


def pixels(size, channels=3):
    return functools.partial(torch.zeros, 1, channels, size, size)


@functools.cache
def resnet(name, size, small_images=False):
    """One image through a backbone."""

    def build():
        return build_backbone(name, small_images)[0]

    return forward(build, pixels(size))


def tokenizer_parts(config, size):
    """(encoder, decoder) of a VQGAN for one image."""

    def build(part):
        return getattr(vqgan.VQGAN(**config), part)

    patch = config["unshuffle"] * 2 ** (len(config["multipliers"]) - 1)
    latent = pixels(size // patch, config["dim"])
    encoder = forward(functools.partial(build, "encoder"), pixels(size))
    return encoder, forward(functools.partial(build, "decoder"), latent)


def transformer(config):
    """One image's tokens through MaskGIT."""

    def build():
        return maskgit.MaskGIT(**config)

    def tokens():
        return torch.zeros(1, config["tokens"], dtype=torch.int64)

    def label():
        return torch.zeros(1, dtype=torch.int64)

    inputs = [tokens, label] if config["classes"] else [tokens]
    return forward(build, *inputs)


class Painter(NamedTuple):
    """What an in- or out-painting needs for one image."""

    size: int
    encoder: float
    decoder: float
    transformer: float

    def flop(self, steps):
        return self.encoder + steps * self.transformer + self.decoder


@functools.cache
def published_painter():
    encoder, decoder = tokenizer_parts(vqgan.PUBLISHED, 256)
    return Painter(256, encoder, decoder, transformer(maskgit.PUBLISHED))


@functools.cache
def icgan():
    """The published generator at 256 px, and its encoder."""
    config = {
        "channels": [1536, 1536, 768, 768, 384, 192, 96],
        "attention": [3],
        "chunk": 17,
        "embedding": 512,
        "feature": 2048,
    }

    def build():
        return biggan.Generator(**config)

    z = functools.partial(torch.zeros, 1, 119)
    feature = functools.partial(torch.zeros, 1, 2048)
    return forward(build, z, feature) + resnet("resnet50", 224)


def unet(args):
    """One step of the network of extras/train_diffusion.py, for one image."""
    build = functools.partial(importlib.import_module("train_diffusion").build_unet, args)
    return forward(build, pixels(args.size), functools.partial(torch.zeros, 1))


@functools.cache
def sdxl_turbo(size=512):
    """(VAE's encoder, UNet, VAE's decoder, text encoders), as the published config files say."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    def unet():
        return UNet2DConditionModel(
            sample_size=64,
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            cross_attention_dim=2048,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        )

    def vae(part):
        model = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
        )
        return getattr(model, part)

    def text(width, layers, heads):
        config = CLIPTextConfig(
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
        )
        return CLIPTextModel(config)

    def words():
        return torch.zeros(1, 77, dtype=torch.int64)

    def denoise():
        return Denoise(unet())

    latent = pixels(size // 8, 4)
    texts = forward(functools.partial(text, 768, 12, 12), words)
    texts += forward(functools.partial(text, 1280, 32, 20), words)
    encoder = forward(functools.partial(vae, "encoder"), pixels(size))
    decoder = forward(functools.partial(vae, "decoder"), latent)
    return encoder, forward(denoise, latent), decoder, texts


class Denoise(torch.nn.Module):
    """SDXL's UNet with a text of 77 tokens."""

    def __init__(self, unet):
        super().__init__()
        self.unet = unet

    def forward(self, latent):
        added = {"text_embeds": torch.zeros(1, 1280), "time_ids": torch.zeros(1, 6)}
        text = torch.zeros(1, 77, 2048)
        return self.unet(latent, torch.zeros(1), text, added_cond_kwargs=added).sample


@functools.cache
def blip(beams, words):
    """BLIP base: its vision transformer for one image, and its text decoder for all its words."""
    from transformers import BlipTextConfig, BlipVisionConfig
    from transformers.models.blip.modeling_blip import BlipVisionModel
    from transformers.models.blip.modeling_blip_text import BlipTextLMHeadModel

    class Decoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.text = BlipTextLMHeadModel(BlipTextConfig(is_decoder=True))

        def forward(self, ids):
            image = torch.zeros(1, 577, 768)
            return self.text(ids, encoder_hidden_states=image)

    def vision():
        return BlipVisionModel(BlipVisionConfig(image_size=384))

    def ids():
        return torch.zeros(1, words, dtype=torch.int64)

    return forward(vision, pixels(384)) + beams * forward(Decoder, ids)


@functools.cache
def perceptual(size):
    """VGG-16's convolutions."""
    from torchvision.models import vgg16

    def build():
        return vgg16().features

    return forward(build, pixels(size))


@functools.cache
def critic(size):
    """The discriminator of the VQGAN."""
    return forward(vqgan.PatchDiscriminator, pixels(size))
