"""Torch networks of packages, each with small inputs and random weights. A name is PACKAGE:NETWORK."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import torch

Network = tuple[torch.nn.Module, Any]


def image(size: int = 64, channels: int = 3, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, channels, size, size)


def _torchvision(name: str, size: int, module: str = "torchvision.models", **options: Any) -> Network:
    return getattr(import_module(module), name)(weights=None, **options), image(size)


def _raft(size: int) -> Network:
    raft = import_module("torchvision.models.optical_flow").raft_small(weights=None)
    return raft.feature_encoder, image(size)


def _video(name: str, size: int) -> Network:
    model = getattr(import_module("torchvision.models.video"), name)(weights=None, num_classes=10)
    return model, torch.randn(2, 3, 16 if name == "s3d" else 4, size, size)


def _timm(name: str, size: int = 64, **options: Any) -> Network:
    return import_module("timm").create_model(name, pretrained=False, num_classes=10, **options), image(size)


def _pytorchcv(name: str, size: int) -> Network:
    return import_module("pytorchcv.model_provider").get_model(name, pretrained=False), image(size)


def _smp(name: str, encoder: str, size: int = 64, **options: Any) -> Network:
    return getattr(import_module("segmentation_models_pytorch"), name)(
        encoder_name=encoder, encoder_weights=None, classes=2, **options
    ), image(size)


def _monai(name: str, shape: tuple[int, ...], **options: Any) -> Network:
    return getattr(import_module("monai.networks.nets"), name)(**options), torch.randn(shape)


def _transformers(name: str, inputs: Any, config: str = "", **options: Any) -> Network:
    package = import_module("transformers")
    settings = getattr(package, config or f"{name.removesuffix('Model')}Config")(**options)
    return getattr(package, name)(settings), inputs()


def _efficientnet(name: str) -> Network:
    return import_module("efficientnet_pytorch").EfficientNet.from_name(name, num_classes=10), image()


def _lightning(size: int) -> Network:
    return import_module("benchmarks.zoo.lightning_network").Classifier(), image(size)


def _ultralytics(config: str, size: int = 64) -> Network:
    task = {"-seg": "SegmentationModel", "-pose": "PoseModel", "-cls": "ClassificationModel"}
    kind = next((name for end, name in task.items() if config.endswith(end)), "DetectionModel")
    kind = "RTDETRDetectionModel" if config.startswith("rtdetr") else kind
    return getattr(import_module("ultralytics.nn.tasks"), kind)(f"{config}.yaml", verbose=False), image(size)


def pixels(size: int = 64) -> Callable[[], Any]:
    return lambda: {"pixel_values": image(size)}


def waves(length: int = 1600, channels: tuple[int, ...] = ()) -> Callable[[], Any]:
    return lambda: {"input_values": torch.randn(2, *channels, length)}


def tokens(length: int = 12) -> Callable[[], Any]:
    return lambda: {"input_ids": torch.randint(0, 50, (2, length))}


NETWORKS: dict[str, Callable[[], Network]] = {}

for _name, _size in {
    "resnet18": 64, "resnet50": 64, "resnext50_32x4d": 64, "wide_resnet50_2": 64, "regnet_y_400mf": 64,
    "regnet_x_400mf": 64, "mobilenet_v2": 64, "mobilenet_v3_small": 64, "mobilenet_v3_large": 64,
    "efficientnet_b0": 64, "efficientnet_v2_s": 64, "convnext_tiny": 64, "mnasnet0_5": 64, "maxvit_t": 224,
    "shufflenet_v2_x0_5": 64, "squeezenet1_0": 64, "densenet121": 64, "vgg11_bn": 32, "swin_t": 64,
}.items():  # fmt: skip
    NETWORKS[f"torchvision:{_name}"] = partial(_torchvision, _name, _size, num_classes=10)
NETWORKS |= {
    "torchvision:googlenet": partial(_torchvision, "googlenet", 64, num_classes=10, init_weights=False),
    "torchvision:inception_v3": partial(_torchvision, "inception_v3", 96, num_classes=10, init_weights=False,
                                        aux_logits=False),
    "torchvision:vit_b_16": partial(_torchvision, "vit_b_16", 32, num_classes=10, image_size=32),
    "torchvision:raft_small_encoder": partial(_raft, 64),
    "lightning:Classifier(resnet18)": partial(_lightning, 64),
}  # fmt: skip
for _name in ("deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large", "fcn_resnet50"):
    NETWORKS[f"torchvision:{_name}"] = partial(
        _torchvision, _name, 64, "torchvision.models.segmentation", num_classes=2, weights_backbone=None
    )
for _name in ("resnet18", "mobilenet_v2"):
    NETWORKS[f"torchvision:quantizable_{_name}"] = partial(
        _torchvision, _name, 64, "torchvision.models.quantization", num_classes=10
    )
for _name in ("r3d_18", "mc3_18", "r2plus1d_18", "s3d"):
    NETWORKS[f"torchvision:{_name}"] = partial(_video, _name, 224 if _name == "s3d" else 32)

for _name in (
    "resnet18", "resnet18d", "resnext26ts", "seresnet18", "skresnet18", "ecaresnext26t_32x4d", "resnest14d",
    "bat_resnext26ts", "res2net50_14w_8s", "gcresnext26ts", "resnetv2_50", "resnetrs50", "cspresnet50",
    "cspdarknet53", "darknet53", "dla34", "dla46_c", "dpn48b", "hrnet_w18_small", "vovnet39a",
    "ese_vovnet19b_slim_dw", "densenet121", "selecsls42", "xception41", "tresnet_m", "nfnet_l0", "nf_regnet_b0",
    "regnety_002", "regnetx_002", "regnetz_005", "gernet_s", "repvgg_a0", "mobileone_s0", "repghostnet_050",
    "ghostnet_050", "ghostnetv2_100", "efficientnet_b0", "efficientnet_lite0", "tf_efficientnetv2_b0", "mixnet_s",
    "mnasnet_small", "spnasnet_100", "fbnetc_100", "hardcorenas_a", "lcnet_050", "tinynet_e", "mobilenetv2_050",
    "mobilenetv3_small_050", "mobilenetv4_conv_small_050", "rexnet_100", "rexnetr_100", "convnext_atto",
    "convnextv2_atto", "inception_next_atto", "starnet_s1", "fasternet_t0", "hgnet_tiny", "hgnetv2_b0",
    "efficientvit_b0", "mobilevit_xxs", "mobilevitv2_050", "edgenext_xx_small", "convmixer_768_32", "poolformer_s12",
    "poolformerv2_s12", "convformer_s18", "caformer_s18", "fastvit_t8", "repvit_m0_9", "nextvit_small",
    "focalnet_tiny_srf", "inception_v4", "mambaout_femto", "davit_tiny", "efficientformer_l1", "visformer_tiny",
    "coatnet_nano_rw_224", "efficientvit_m0", "levit_conv_128s",
):  # fmt: skip
    _size = {"inception_v4": 96, "efficientformer_l1": 224, "visformer_tiny": 224, "coatnet_nano_rw_224": 224,
             "efficientvit_m0": 224, "levit_conv_128s": 224, "bat_resnext26ts": 256}.get(_name, 64)  # fmt: skip
    NETWORKS[f"timm:{_name}"] = partial(_timm, _name, _size)
NETWORKS["timm:resnet18(features_only)"] = lambda: (
    import_module("timm").create_model("resnet18", pretrained=False, features_only=True),
    image(),
)

for _name, _size in {
    "wrn16_10_cifar10": 32, "pyramidnet110_a48_cifar10": 32, "senet16": 224, "efficientnet_b0": 64, "bagnet9": 224,
    "regnetx002": 64, "resnesta18": 64, "linknet_cityscapes": 64, "sinet_cityscapes": 128, "resattnet56": 224,
    "resdropresnet20_cifar10": 32, "shakeshakeresnet20_2x16d_cifar10": 32, "resnet20_cifar10": 32, "preresnet18": 224,
    "seresnet18": 224, "mobilenetv2_w1": 224, "proxylessnas_cpu": 224, "fbnet_cb": 224, "igcv3_wd4": 224, "dla34": 224,
    "hardnet39ds": 224, "bam_resnet18": 224, "cbam_resnet18": 224, "dicenet_wd5": 64, "nin_cifar10": 32,
    "alphapose_fastseresnet101b_coco": 64, "unet_cityscapes": 64, "squeezeresnet_v1_1": 224,
}.items():  # fmt: skip
    NETWORKS[f"pytorchcv:{_name}"] = partial(_pytorchcv, _name, _size)

for _name, _encoder in (
    ("Unet", "resnet34"), ("UnetPlusPlus", "resnet18"), ("FPN", "mobilenet_v2"), ("PSPNet", "resnet18"),
    ("PAN", "resnet18"), ("DeepLabV3Plus", "resnet18"), ("DeepLabV3", "resnet18"), ("Linknet", "resnet18"),
    ("MAnet", "resnet18"), ("UPerNet", "resnet18"), ("Segformer", "mit_b0"), ("Unet", "efficientnet-b0"),
    ("Unet", "timm-regnetx_002"), ("Unet", "se_resnet50"), ("Unet", "mobileone_s0"), ("Unet", "xception"),
    ("Unet", "dpn68"), ("Unet", "tu-convnext_atto"), ("Unet", "timm-res2net50_26w_4s"),
):  # fmt: skip
    NETWORKS[f"smp:{_name}/{_encoder}"] = partial(_smp, _name, _encoder, 128 if _name == "PAN" else 64)
NETWORKS["smp:Unet+scse/resnet18"] = partial(_smp, "Unet", "resnet18", decoder_attention_type="scse")

_UNET = {"out_channels": 2, "channels": (8, 16, 32), "strides": (2, 2)}
_DYNUNET = {
    "spatial_dims": 3, "in_channels": 1, "out_channels": 2, "kernel_size": [3, 3, 3], "strides": [1, 2, 2],
    "upsample_kernel_size": [2, 2], "filters": [8, 16, 32],
}  # fmt: skip
NETWORKS |= {
    "monai:UNet3d-res": partial(
        _monai, "UNet", (2, 1, 16, 16, 16), spatial_dims=3, in_channels=1, num_res_units=2, **_UNET
    ),
    "monai:UNet2d-plain": partial(_monai, "UNet", (2, 1, 32, 32), spatial_dims=2, in_channels=1, **_UNET),
    "monai:BasicUNet": partial(_monai, "BasicUNet", (2, 1, 32, 32), spatial_dims=2, features=(8, 8, 16, 32, 32, 8)),
    "monai:AttentionUnet": partial(_monai, "AttentionUnet", (2, 1, 32, 32), spatial_dims=2, in_channels=1, **_UNET),
    "monai:SegResNet3d": partial(_monai, "SegResNet", (2, 1, 16, 16, 16), spatial_dims=3, init_filters=8),
    "monai:SegResNetVAE": partial(
        _monai, "SegResNetVAE", (2, 1, 32, 32), input_image_size=(32, 32), spatial_dims=2, init_filters=8
    ),
    "monai:DynUNet-res": partial(_monai, "DynUNet", (2, 1, 16, 16, 16), res_block=True, **_DYNUNET),
    "monai:DynUNet": partial(_monai, "DynUNet", (2, 1, 16, 16, 16), **_DYNUNET),
    "monai:SEResNet50": partial(_monai, "SEResNet50", (2, 3, 64, 64), spatial_dims=2, in_channels=3, num_classes=3),
    "monai:resnet18-3d": partial(
        _monai, "resnet18", (2, 1, 32, 32, 32), spatial_dims=3, n_input_channels=1, num_classes=3
    ),
    "monai:DenseNet121-3d": partial(
        _monai, "DenseNet121", (2, 1, 32, 32, 32), spatial_dims=3, in_channels=1, out_channels=3
    ),
    "monai:EfficientNetBN-b0": partial(
        _monai, "EfficientNetBN", (2, 3, 64, 64), model_name="efficientnet-b0", pretrained=False
    ),
    "monai:UNETR": partial(
        _monai, "UNETR", (2, 1, 32, 32, 32), in_channels=1, out_channels=2, img_size=(32, 32, 32), feature_size=8,
        hidden_size=48, mlp_dim=96, num_heads=4,
    ),
    "monai:VNet": partial(_monai, "VNet", (2, 1, 32, 32, 32), spatial_dims=3, in_channels=1, out_channels=2),
    "monai:HighResNet": partial(_monai, "HighResNet", (2, 1, 16, 16, 16), spatial_dims=3, in_channels=1),
    "monai:AutoEncoder": partial(
        _monai, "AutoEncoder", (2, 1, 32, 32), spatial_dims=2, in_channels=1, out_channels=2, channels=(8, 16),
        strides=(2, 2), num_res_units=2,
    ),
}  # fmt: skip

_HIDDEN = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
_CONVS = {"conv_dim": (16, 16), "conv_stride": (5, 2), "conv_kernel": (10, 3), "num_conv_pos_embeddings": 16,
          "num_conv_pos_embedding_groups": 2}  # fmt: skip
NETWORKS |= {
    "transformers:ResNet": partial(
        _transformers, "ResNetModel", pixels(), embedding_size=16, hidden_sizes=[16, 32, 32, 64], depths=[2, 2, 2, 2],
        layer_type="basic",
    ),
    "transformers:ResNet-bottleneck": partial(
        _transformers, "ResNetModel", pixels(), embedding_size=16, hidden_sizes=[16, 32, 32, 64], depths=[2, 2, 2, 2]
    ),
    "transformers:ConvNext": partial(
        _transformers, "ConvNextModel", pixels(), hidden_sizes=[16, 32, 32, 64], depths=[1, 1, 2, 1]
    ),
    "transformers:ConvNextV2": partial(
        _transformers, "ConvNextV2Model", pixels(), hidden_sizes=[16, 32, 32, 64], depths=[1, 1, 2, 1]
    ),
    "transformers:RegNet-y": partial(
        _transformers, "RegNetModel", pixels(), embedding_size=16, hidden_sizes=[16, 32, 32, 64], depths=[1, 2, 2, 1],
        groups_width=8,
    ),
    "transformers:MobileNetV1": partial(_transformers, "MobileNetV1Model", pixels(), depth_multiplier=0.25),
    "transformers:MobileNetV2": partial(_transformers, "MobileNetV2Model", pixels(), depth_multiplier=0.35),
    "transformers:MobileViT": partial(
        _transformers, "MobileViTModel", pixels(), hidden_sizes=[24, 32, 40],
        neck_hidden_sizes=[8, 16, 24, 32, 40, 48, 64], initializer_range=0.2,  # 0.02 leaves numbers that float32 loses
    ),
    "transformers:MobileViTV2": partial(_transformers, "MobileViTV2Model", pixels(), width_multiplier=0.5),
    "transformers:EfficientNet": partial(_transformers, "EfficientNetModel", pixels(), hidden_dim=2560),
    "transformers:Segformer": partial(
        _transformers, "SegformerModel", pixels(), hidden_sizes=[16, 32, 40, 64], depths=[1, 1, 1, 1]
    ),
    "transformers:PoolFormer": partial(
        _transformers, "PoolFormerModel", pixels(), hidden_sizes=[16, 32, 40, 64], depths=[1, 1, 1, 1]
    ),
    "transformers:BiT": partial(
        _transformers, "BitModel", pixels(), embedding_size=64, hidden_sizes=[128, 128, 256, 256], depths=[1, 1, 1, 1]
    ),
    "transformers:HGNetV2": partial(_transformers, "HGNetV2Backbone", pixels(), config="HGNetV2Config"),
    "transformers:Swin": partial(
        _transformers, "SwinModel", pixels(), image_size=64, embed_dim=16, depths=[1, 1], num_heads=[2, 2],
        window_size=4,
    ),
    "transformers:ViT": partial(_transformers, "ViTModel", pixels(), image_size=64, **_HIDDEN),
    "transformers:PVTv2": partial(
        _transformers, "PvtV2Model", pixels(), hidden_sizes=[16, 32, 40, 64], depths=[1, 1, 1, 1]
    ),
    "transformers:CvT": partial(_transformers, "CvtModel", pixels(), depth=[1, 2, 3]),
    "transformers:FocalNet": partial(_transformers, "FocalNetModel", pixels(), image_size=64, embed_dim=16,
                                     depths=[1, 1, 1, 1]),
    "transformers:Wav2Vec2": partial(_transformers, "Wav2Vec2Model", waves(), **_HIDDEN, **_CONVS),
    "transformers:HuBERT": partial(_transformers, "HubertModel", waves(), **_HIDDEN, **_CONVS),
    "transformers:Whisper-encoder": lambda: (
        _transformers("WhisperModel", tokens(), d_model=32, encoder_layers=2, decoder_layers=1,
                      encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64,
                      max_source_positions=50)[0].encoder,
        torch.randn(2, 80, 100),
    ),
    "transformers:BERT": partial(_transformers, "BertModel", tokens(), vocab_size=60, **_HIDDEN),
    "transformers:EnCodec": partial(
        _transformers, "EncodecModel", waves(1600, (1,)), num_filters=8, hidden_size=16, codebook_size=16,
        codebook_dim=16,
    ),
    "transformers:UniSpeech": partial(_transformers, "UniSpeechModel", waves(), **_HIDDEN, **_CONVS),
    "transformers:Dac-encoder": lambda: (
        _transformers("DacModel", waves(), encoder_hidden_size=8, decoder_hidden_size=64, codebook_size=16)[0].encoder,
        torch.randn(2, 1, 1280),
    ),
    "efficientnet_pytorch:b0": partial(_efficientnet, "efficientnet-b0"),
}  # fmt: skip

for _name in (
    "yolov5n", "yolov8n", "yolov9t", "yolov10n", "yolo11n", "yolo12n", "yolo26n", "yolov8n-seg", "yolo11n-cls",
    "yolo11n-pose",
):  # fmt: skip
    NETWORKS[f"ultralytics:{_name}"] = partial(_ultralytics, _name)
