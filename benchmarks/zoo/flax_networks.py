"""Linen networks of packages, small and with random weights. A name is PACKAGE:NETWORK."""

import inspect
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from benchmarks.zoo.flax_run import Call

Network = tuple[nn.Module, Call]
# Names that packages give to the flag of training, and its value in evaluation.
FLAGS = {"training": False, "train": False, "deterministic": True}


def normal(*shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(7), shape)


def called(module: nn.Module, **arrays: jax.Array) -> Network:
    """The network with its inputs, the first under the name that its `__call__` gives to it, and its flags."""
    names = list(inspect.signature(type(module).__call__).parameters)
    flags = {name: FLAGS[name] for name in names if name in FLAGS}
    if "image" in arrays:
        arrays = {names[1]: arrays.pop("image"), **arrays}
    return module, Call(arrays, flags, {name: not value for name, value in flags.items()})


def _flaxmodels(name: str) -> Network:
    options = {"pretrained": None, "normalize": False, "output": "logits", "num_classes": 10}
    if name.startswith("VGG"):
        options["include_head"] = False
    return called(getattr(import_module("flaxmodels"), name)(**options), image=normal(2, 32, 32, 3))


def _jax_resnet(name: str) -> Network:
    sizes = [1, 1, 1, 1]
    hidden = (16, 32, 48, 64)
    if name.startswith("WideResNet"):
        hidden = (32, 64, 96, 128)
    model = getattr(import_module("jax_resnet"), name)(n_classes=10, stage_sizes=sizes, hidden_sizes=hidden)
    return called(model, image=normal(2, 64, 64, 3))


def _flaim(name: str, size: int = 64, **changes: Any) -> Network:
    config = dict(import_module("flaim.models.factory").CONFIGS[name])
    config.pop("norm_stats", None)
    model = config.pop("model_cls")
    if "depths" in config:
        config["depths"] = tuple(1 for _ in config["depths"])
    return called(model(**{**config, "n_classes": 10, **changes}), image=normal(2, size, size, 3))


def _jax_models(module: str, name: str, size: int = 64, **options: Any) -> Network:
    model = getattr(import_module(f"jax_models.models.{module}"), name)(**options)
    return called(model, image=normal(2, size, size, 3))


def _unet2d(kind: str) -> Network:
    attention = "CrossAttn" if kind == "attention" else ""
    model = import_module("diffusers.models.unets.unet_2d_condition_flax").FlaxUNet2DConditionModel(
        sample_size=16, block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=16, attention_head_dim=4,
        down_block_types=(f"{attention}DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", f"{attention}UpBlock2D"),
    )  # fmt: skip
    return called(
        model, sample=normal(2, 4, 16, 16), timesteps=jnp.array([3, 500]), encoder_hidden_states=normal(2, 5, 16)
    )


def _vae(blocks: int) -> Network:
    model = import_module("diffusers.models.vae_flax").FlaxAutoencoderKL(
        block_out_channels=(32, 64)[:blocks], down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks, latent_channels=4, sample_size=16,
    )  # fmt: skip
    return called(model, sample=normal(2, 3, 16, 16))


def _controlnet() -> Network:
    model = import_module("diffusers.models.controlnets.controlnet_flax").FlaxControlNetModel(
        sample_size=16, block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=16, attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), conditioning_embedding_out_channels=(16, 32),
    )  # fmt: skip
    return called(
        model, sample=normal(2, 4, 16, 16), timesteps=jnp.array([3, 500]), encoder_hidden_states=normal(2, 5, 16),
        controlnet_cond=normal(2, 3, 32, 32),
    )  # fmt: skip


def _flaxdiff(heads: bool) -> Network:
    attention = ({"heads": 2}, {"heads": 2}) if heads else (None, None)
    model = import_module("flaxdiff.models.simple_unet").Unet(
        emb_features=32, feature_depths=(16, 32), attention_configs=attention, num_res_blocks=1
    )
    return called(model, x=normal(2, 16, 16, 3), temb=jnp.array([0.1, 0.7]), textcontext=normal(2, 5, 16))


NETWORKS: dict[str, Callable[[], Network]] = {}
for _name in ("ResNet18", "ResNet34", "ResNet50", "VGG16", "VGG19"):
    NETWORKS[f"flaxmodels:{_name}"] = partial(_flaxmodels, _name)
for _name in ("ResNet18", "ResNet50", "WideResNet50", "ResNeXt50", "ResNetD18", "ResNetD50", "ResNeSt50",
              "ResNeSt50Fast"):  # fmt: skip
    NETWORKS[f"jax_resnet:{_name}"] = partial(_jax_resnet, _name)
for _name, _changes in {
    "resnet18": {}, "resnet50d": {}, "seresnet50": {}, "resnext50_32x4d": {}, "regnetx_200mf": {}, "regnety_200mf": {},
    "convnext_xxxnano": {}, "convnextv2_atto_fcmae": {}, "convmixer20_1024d_patch14_kernel9": {"depth": 2, "dim": 64},
    "van_b0": {}, "hornet_tiny": {}, "efficientnetv2_small": {}, "vgg11_bn": {}, "pvtv2_b0": {},
}.items():  # fmt: skip
    NETWORKS[f"flaim:{_name}"] = partial(_flaim, _name, **_changes)
NETWORKS |= {
    "jax_models:ConvMixer": partial(_jax_models, "conv_mixer", "ConvMixer", features=32, num_mixer_layers=2),
    "jax_models:PoolFormer": partial(_jax_models, "poolformer", "S12", attach_head=True, num_classes=10),
    "diffusers:UNet2DCondition": partial(_unet2d, "plain"),
    "diffusers:UNet2DCondition-attention": partial(_unet2d, "attention"),
    "diffusers:AutoencoderKL": partial(_vae, 2),
    "diffusers:AutoencoderKL-1": partial(_vae, 1),
    "diffusers:ControlNet": _controlnet,
    "flaxdiff:Unet": partial(_flaxdiff, True),
    "flaxdiff:Unet-plain": partial(_flaxdiff, False),
}
