"""Keras networks of packages, small and with random weights. A name is PACKAGE:NETWORK."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

Network = tuple[Any, Any]


def image(size: int, batch: int = 2) -> np.ndarray:
    return np.random.default_rng(7).standard_normal((batch, size, size, 3)).astype("float32")


def _application(name: str, size: int, **more: Any) -> Network:
    options = {"include_top": False, "pooling": "avg"} if name == "NASNetMobile" else {"classes": 10}
    return getattr(import_module("keras").applications, name)(
        weights=None, input_shape=(size, size, 3), **options, **more
    ), image(size)


def _hub(name: str, size: int = 64, **options: Any) -> Network:
    model = getattr(import_module("keras_hub").models, name)(image_shape=(size, size, 3), **options)
    return model, image(size)


def _resnet(size: int = 64, **options: Any) -> dict[str, Any]:
    settings = {
        "input_conv_filters": [64], "input_conv_kernel_sizes": [7], "stackwise_num_filters": [64, 64, 64, 64],
        "stackwise_num_blocks": [1, 2, 1, 1], "stackwise_num_strides": [1, 2, 2, 2], "block_type": "basic_block",
    }  # fmt: skip
    return settings | options


def _on_resnet(name: str, size: int, task: bool = False, **options: Any) -> Network:
    models = import_module("keras_hub").models
    encoder = models.ResNetBackbone(image_shape=(size, size, 3), **_resnet(block_type="bottleneck_block"))
    if task:
        return getattr(models, name)(backbone=encoder, preprocessor=None, **options), image(size)
    return getattr(models, name)(image_encoder=encoder, **options), image(size)


def _classifier(name: str) -> Network:
    backbone, inputs = NETWORKS[name]()
    options = {"pooling": "avg"} if name == "keras-hub:HGNetV2" else {}
    return import_module("keras_hub").models.ImageClassifier(backbone=backbone, num_classes=3, **options), inputs


def _deeplab_segmenter() -> Network:
    backbone, inputs = _on_resnet("DeepLabV3Backbone", 64, **_DEEPLAB)
    model = import_module("keras_hub").models.DeepLabV3ImageSegmenter(backbone=backbone, num_classes=2)
    return model, inputs


def _segformer() -> Network:
    models = import_module("keras_hub").models
    encoder = models.MiTBackbone(image_shape=(64, 64, 3), **_MIT)
    return models.SegFormerBackbone(image_encoder=encoder, projection_filters=16), image(64)


def _kecam(name: str) -> Network:
    model = getattr(import_module("kecam").models, name)(input_shape=(64, 64, 3), num_classes=10, pretrained=None)
    return model, image(64)


_DEEPLAB = {
    "low_level_feature_key": "P2", "spatial_pyramid_pooling_key": "P4", "dilation_rates": [2, 3, 4],
    "upsampling_size": 4, "projection_filters": 8,
}  # fmt: skip
_MIT = {
    "num_layers": 4, "hidden_dims": [8, 16, 24, 32], "layerwise_depths": [1, 1, 1, 1],
    "layerwise_num_heads": [1, 1, 2, 2], "layerwise_sr_ratios": [8, 4, 2, 1], "layerwise_patch_sizes": [7, 3, 3, 3],
    "layerwise_strides": [4, 2, 2, 2], "max_drop_path_rate": 0.0,
}  # fmt: skip
_VD = {"input_conv_filters": [8, 8, 64], "input_conv_kernel_sizes": [3, 3, 3]}
_EFFICIENT = {
    "stackwise_kernel_sizes": [3, 3, 5], "stackwise_num_repeats": [1, 2, 2], "stackwise_input_filters": [8, 8, 16],
    "stackwise_output_filters": [8, 16, 24], "stackwise_expansion_ratios": [1, 4, 4], "stackwise_strides": [1, 2, 2],
    "stackwise_squeeze_and_excite_ratios": [0.25, 0.25, 0.25], "width_coefficient": 1.0, "depth_coefficient": 1.0,
    "stackwise_nores_option": [False, False, False], "dropout": 0.0,
}  # fmt: skip
_CSP = {
    "stem_filters": 16, "stem_kernel_size": 3, "stem_strides": 2, "stackwise_depth": [1, 2, 2],
    "stackwise_strides": [2, 2, 2], "stackwise_num_filters": [16, 32, 64],
}  # fmt: skip
_SPLIT = {"expand_ratio": [2.0], "bottle_ratio": [0.5]}
_HGNET = {
    "depths": [1, 2, 1, 1], "embedding_size": 8, "hidden_sizes": [16, 16, 32, 32], "stem_channels": [3, 8, 8],
    "hidden_act": "relu", "use_learnable_affine_block": False, "apply_downsample": [False, True, True, True],
    "use_lightweight_conv_block": [False, False, True, True],
    "stackwise_stage_filters": [[8, 8, 16, 1, 1, 3], [16, 8, 16, 2, 3, 3], [16, 8, 32, 1, 3, 5], [32, 8, 32, 1, 3, 5]],
}  # fmt: skip

NETWORKS: dict[str, Callable[[], Network]] = {}
for _name, _size in {
    "Xception": 75, "VGG16": 32, "VGG19": 32, "ResNet50": 64, "ResNet50V2": 64, "ResNet101": 64, "ResNet101V2": 64,
    "InceptionV3": 75, "InceptionResNetV2": 75, "MobileNet": 64, "MobileNetV2": 64, "MobileNetV3Small": 64,
    "MobileNetV3Large": 64, "DenseNet121": 64, "DenseNet169": 64, "NASNetMobile": 64, "EfficientNetB0": 64,
    "EfficientNetB1": 64, "EfficientNetB2": 64, "EfficientNetB3": 64, "EfficientNetV2B2": 64, "EfficientNetV2B3": 64,
    "DenseNet201": 64, "EfficientNetV2B0": 64, "EfficientNetV2B1": 64, "EfficientNetV2S": 64, "ConvNeXtTiny": 64,
}.items():  # fmt: skip
    NETWORKS[f"keras.applications:{_name}"] = partial(_application, _name, _size)
NETWORKS |= {
    "keras.applications:MobileNet(0.25)": partial(_application, "MobileNet", 64, alpha=0.25),
    "keras.applications:MobileNetV2(0.35)": partial(_application, "MobileNetV2", 64, alpha=0.35),
    "keras.applications:MobileNetV3Small(minimalistic)": partial(
        _application, "MobileNetV3Small", 64, minimalistic=True
    ),
    "keras.applications:MobileNetV3Large(minimalistic)": partial(
        _application, "MobileNetV3Large", 64, minimalistic=True
    ),
    "keras-hub:ResNet-basic": partial(_hub, "ResNetBackbone", **_resnet()),
    "keras-hub:ResNet-bottleneck": partial(_hub, "ResNetBackbone", **_resnet(block_type="bottleneck_block")),
    "keras-hub:ResNet-v2-basic": partial(_hub, "ResNetBackbone", **_resnet(use_pre_activation=True)),
    "keras-hub:ResNet-v2-bottleneck": partial(
        _hub, "ResNetBackbone", **_resnet(use_pre_activation=True, block_type="bottleneck_block")
    ),
    "keras-hub:ResNet-vd": partial(_hub, "ResNetBackbone", **_resnet(block_type="basic_block_vd", **_VD)),
    "keras-hub:ResNet-vd-bottleneck": partial(
        _hub, "ResNetBackbone", **_resnet(block_type="bottleneck_block_vd", **_VD)
    ),
    "keras-hub:ResNet-bfloat16": partial(_hub, "ResNetBackbone", **_resnet(dtype="bfloat16")),
    "keras-hub:ImageClassifier(ResNet)": partial(_on_resnet, "ImageClassifier", 64, task=True, num_classes=3),
    "keras-hub:CSP-dark": partial(_hub, "CSPNetBackbone", block_type="dark_block", stage_type="dark", **_CSP),
    "keras-hub:CSP-csp": partial(
        _hub, "CSPNetBackbone", block_type="bottleneck_block", stage_type="csp", **_CSP, **_SPLIT
    ),
    "keras-hub:CSP-edge": partial(_hub, "CSPNetBackbone", block_type="edge_block", stage_type="cs3", **_CSP, **_SPLIT),
    "keras-hub:Xception": partial(
        _hub, "XceptionBackbone", stackwise_conv_filters=[[8, 16], [16, 32], [32, 32]],
        stackwise_pooling=[True, True, False],
    ),
    "keras-hub:EfficientNet": partial(
        _hub, "EfficientNetBackbone", stackwise_block_types=["v1", "v1", "v1"], **_EFFICIENT
    ),
    "keras-hub:EfficientNet-fused": partial(
        _hub, "EfficientNetBackbone", stackwise_block_types=["fused", "unfused", "unfused"], **_EFFICIENT
    ),
    "keras-hub:DenseNet": partial(_hub, "DenseNetBackbone", stackwise_num_repeats=[2, 2, 2], growth_rate=8),
    "keras-hub:VGG": partial(
        _hub, "VGGBackbone", stackwise_num_repeats=[1, 1, 2], stackwise_num_filters=[8, 16, 32]
    ),
    "keras-hub:HGNetV2": partial(_hub, "HGNetV2Backbone", **_HGNET),
    "keras-hub:MiT": partial(_hub, "MiTBackbone", **_MIT),
    "keras-hub:SegFormer(MiT)": _segformer,
    "keras-hub:ViT": partial(
        _hub, "ViTBackbone", patch_size=16, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32
    ),
    "keras-hub:DeepLabV3(ResNet)": partial(_on_resnet, "DeepLabV3Backbone", 64, **_DEEPLAB),
    "keras-hub:DeepLabV3ImageSegmenter": _deeplab_segmenter,
    "keras-hub:RetinaNet(ResNet)": partial(
        _on_resnet, "RetinaNetBackbone", 128, min_level=3, max_level=5, use_p5=False, image_shape=(128, 128, 3)
    ),
}  # fmt: skip
for _name in ("ResNet-v2-basic", "CSP-dark", "Xception", "EfficientNet", "DenseNet", "VGG", "HGNetV2"):
    NETWORKS[f"keras-hub:ImageClassifier({_name})"] = partial(_classifier, f"keras-hub:{_name}")
for _name in ("ResNet50D", "ResNeXt50", "ConvNeXtTiny"):
    NETWORKS[f"kecam:{_name}"] = partial(_kecam, _name)
