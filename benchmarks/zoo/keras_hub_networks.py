"""The image backbones and tasks of keras-hub in small configurations. A name is keras-hub:NETWORK."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

Network = tuple[Any, Any]


def image(size: int, batch: int = 2) -> np.ndarray:
    return np.random.default_rng(7).standard_normal((batch, size, size, 3)).astype("float32")


def _hub(name: str, size: int = 64, **options: Any) -> Network:
    model = getattr(import_module("keras_hub").models, name)(image_shape=(size, size, 3), **options)
    return model, image(size)


def _resnet(size: int = 64, **options: Any) -> dict[str, Any]:
    settings = {
        "input_conv_filters": [64], "input_conv_kernel_sizes": [7], "stackwise_num_filters": [64, 64, 64, 64],
        "stackwise_num_blocks": [1, 2, 1, 1], "stackwise_num_strides": [1, 2, 2, 2], "block_type": "basic_block",
    }  # fmt: skip
    return settings | options


def _retinanet() -> Network:
    models = import_module("keras_hub").models
    encoder = models.ResNetBackbone(image_shape=(128, 128, 3), **_resnet(block_type="bottleneck_block"))
    model = models.RetinaNetBackbone(
        image_encoder=encoder, min_level=3, max_level=5, use_p5=False, image_shape=(128, 128, 3)
    )
    return model, image(128)


def _basnet() -> Network:
    """Its encoder must not say the image's shape."""
    models = import_module("keras_hub").models
    encoder = models.ResNetBackbone(**_resnet())
    return models.BASNetBackbone(encoder, num_classes=1, image_shape=(64, 64, 3)), image(64)


def _task(name: str, of: str, **options: Any) -> Network:
    """A task of keras-hub on one of the backbones below."""
    backbone, inputs = NETWORKS[f"keras-hub:{of}"]()
    return getattr(import_module("keras_hub").models, name)(backbone=backbone, **options), inputs


def _of_encoder(name: str, of: str, argument: str = "image_encoder", **options: Any) -> Network:
    """A backbone of keras-hub around another one."""
    encoder, inputs = NETWORKS[f"keras-hub:{of}"]()
    return getattr(import_module("keras_hub").models, name)(**{argument: encoder}, **options), inputs


def _sam(task: bool = False) -> Network:
    hub = import_module("keras_hub")
    encoder, images = NETWORKS["keras-hub:ViTDet"]()
    prompts = hub.layers.SAMPromptEncoder(
        hidden_size=8, image_embedding_size=(8, 8), input_image_size=(128, 128), mask_in_channels=16
    )
    masks = hub.layers.SAMMaskDecoder(
        num_layers=2, hidden_size=8, intermediate_dim=32, num_heads=2, embedding_dim=8, num_multimask_outputs=3,
        iou_head_depth=3, iou_head_hidden_dim=8,
    )  # fmt: skip
    model = hub.models.SAMBackbone(image_encoder=encoder, prompt_encoder=prompts, mask_decoder=masks)
    ones = partial(np.ones, dtype="float32")
    inputs = {
        "images": images, "points": ones((2, 1, 2)), "labels": ones((2, 1)), "boxes": ones((2, 1, 2, 2)),
        "masks": np.zeros((2, 0, 128, 128, 1), "float32"),
    }  # fmt: skip
    return (hub.models.SAMImageSegmenter(backbone=model) if task else model), inputs


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

_MOBILE = {
    "stackwise_expansion": [[40, 56], [64, 144]], "stackwise_num_blocks": [2, 2],
    "stackwise_num_filters": [[16, 16], [24, 24]], "stackwise_kernel_size": [[3, 3], [5, 5]],
    "stackwise_num_strides": [[2, 1], [2, 1]], "stackwise_se_ratio": [[None, None], [0.25, 0.25]],
    "stackwise_activation": [["relu", "relu"], ["hard_swish", "hard_swish"]], "stackwise_padding": [[1, 1], [2, 2]],
    "output_num_filters": 32, "input_num_filters": 16, "depthwise_filters": 16, "depthwise_stride": 1,
    "depthwise_residual": True, "last_layer_filter": 32, "squeeze_and_excite": 0.5,
}  # fmt: skip
_MOBILE5 = {
    "stackwise_block_types": [["er", "er"], ["uir", "uir"]], "stackwise_num_blocks": [2, 2],
    "stackwise_num_filters": [[16, 16], [24, 24]], "stackwise_strides": [[2, 1], [2, 1]],
    "stackwise_act_layers": [["relu", "relu"], ["relu", "relu"]], "stackwise_exp_ratios": [[4.0, 4.0], [4.0, 4.0]],
    "stackwise_se_ratios": [[0.0, 0.0], [0.0, 0.0]], "stackwise_dw_kernel_sizes": [[0, 0], [5, 5]],
    "stackwise_dw_start_kernel_sizes": [[0, 0], [0, 3]], "stackwise_dw_end_kernel_sizes": [[0, 0], [0, 0]],
    "stackwise_exp_kernel_sizes": [[3, 3], [0, 0]], "stackwise_pw_kernel_sizes": [[1, 1], [0, 0]],
    "stackwise_num_heads": [[0, 0], [0, 0]], "stackwise_key_dims": [[0, 0], [0, 0]],
    "stackwise_value_dims": [[0, 0], [0, 0]], "stackwise_kv_strides": [[0, 0], [0, 0]],
    "stackwise_use_cpe": [[False, False], [False, False]], "use_msfa": False,
}  # fmt: skip
_VIT = {"patch_size": 16, "num_layers": 2, "num_heads": 2, "hidden_dim": 16}
_DFINE = {
    "decoder_in_channels": [16, 16], "encoder_hidden_dim": 16, "num_denoising": 0, "num_labels": 3, "hidden_dim": 16,
    "learn_initial_query": False, "num_queries": 10, "anchor_image_size": (64, 64), "feat_strides": [16, 32],
    "num_feature_levels": 2, "encoder_in_channels": [32, 32], "encode_proj_layers": [1], "num_attention_heads": 2,
    "encoder_ffn_dim": 32, "num_encoder_layers": 1, "hidden_expansion": 0.5, "depth_multiplier": 0.5, "eval_idx": -1,
    "num_decoder_layers": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": 32, "decoder_n_points": [2, 2],
    "lqe_hidden_dim": 8, "num_lqe_layers": 2, "out_features": ["stage3", "stage4"], "image_shape": (64, 64, 3),
    "seed": 0,
}  # fmt: skip

NETWORKS: dict[str, Callable[[], Network]] = {
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
    "keras-hub:ImageClassifier(ResNet)": partial(_task, "ImageClassifier", "ResNet-bottleneck", num_classes=3),
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
    "keras-hub:ViT": partial(_hub, "ViTBackbone", mlp_dim=32, **_VIT),
    "keras-hub:DeiT": partial(_hub, "DeiTBackbone", intermediate_dim=32, **_VIT),
    "keras-hub:DINOv2": partial(
        _hub, "DINOV2Backbone", intermediate_dim=32, position_embedding_shape=(64, 64),
        **_VIT | {"num_layers": 4, "patch_size": 8},
    ),
    "keras-hub:DINOv3": partial(_hub, "DINOV3Backbone", intermediate_dim=32, **_VIT),
    "keras-hub:CLIPVisionEncoder": partial(_hub, "CLIPVisionEncoder", intermediate_dim=32, **_VIT),
    "keras-hub:SigLIPVisionEncoder": partial(_hub, "SigLIPVisionEncoder", intermediate_dim=32, **_VIT),
    "keras-hub:ViTDet": partial(
        _hub, "ViTDetBackbone", size=128, hidden_size=16, num_layers=2, intermediate_dim=32, num_heads=2,
        global_attention_layer_indices=[1], num_output_channels=8, window_size=2,
    ),
    "keras-hub:Swin": partial(
        _hub, "SwinTransformerBackbone", embed_dim=8, depths=(2, 2), num_heads=(1, 2), window_size=4
    ),
    "keras-hub:MobileNet": partial(_hub, "MobileNetBackbone", **_MOBILE),
    "keras-hub:MobileNetV5": partial(_hub, "MobileNetV5Backbone", **_MOBILE5),
    "keras-hub:HGNetV2-stages": partial(_hub, "HGNetV2Backbone", out_features=["stage3", "stage4"], **_HGNET),
    "keras-hub:DFine(HGNetV2)": partial(_of_encoder, "DFineBackbone", "HGNetV2-stages", "backbone", **_DFINE),
    "keras-hub:BASNet(ResNet)": _basnet,
    "keras-hub:DepthAnything(DINOv2)": partial(
        _of_encoder, "DepthAnythingBackbone", "DINOv2", reassemble_factors=[4, 2, 1, 0.5],
        neck_hidden_dims=[8, 8, 16, 16], fusion_hidden_dim=16, head_hidden_dim=8, head_in_index=-1,
        feature_keys=["stage1", "stage2", "stage3", "stage4"],
    ),
    "keras-hub:SAM(ViTDet)": _sam,
    "keras-hub:SegFormer(MiT)": partial(_of_encoder, "SegFormerBackbone", "MiT", projection_filters=16),
    "keras-hub:DeepLabV3(ResNet)": partial(_of_encoder, "DeepLabV3Backbone", "ResNet-bottleneck", **_DEEPLAB),
    "keras-hub:RetinaNet(ResNet)": _retinanet,
    "keras-hub:DeepLabV3ImageSegmenter": partial(_task, "DeepLabV3ImageSegmenter", "DeepLabV3(ResNet)", num_classes=2),
    "keras-hub:SegFormerImageSegmenter": partial(_task, "SegFormerImageSegmenter", "SegFormer(MiT)", num_classes=2),
    "keras-hub:BASNetImageSegmenter": partial(_task, "BASNetImageSegmenter", "BASNet(ResNet)"),
    "keras-hub:SAMImageSegmenter": partial(_sam, task=True),
    "keras-hub:DepthAnythingDepthEstimator": partial(
        _task, "DepthAnythingDepthEstimator", "DepthAnything(DINOv2)", depth_estimation_type="relative"
    ),
    "keras-hub:RetinaNetObjectDetector": partial(_task, "RetinaNetObjectDetector", "RetinaNet(ResNet)", num_classes=3),
    "keras-hub:DFineObjectDetector": partial(_task, "DFineObjectDetector", "DFine(HGNetV2)", num_classes=3),
}  # fmt: skip
for _name in ("ResNet-v2-basic", "CSP-dark", "Xception", "EfficientNet", "DenseNet", "VGG"):
    NETWORKS[f"keras-hub:ImageClassifier({_name})"] = partial(_task, "ImageClassifier", _name, num_classes=3)
for _name, _of in {
    "MiTImageClassifier": "MiT", "ViTImageClassifier": "ViT", "DeiTImageClassifier": "DeiT",
    "SwinTransformerImageClassifier": "Swin", "MobileNetImageClassifier": "MobileNet",
    "MobileNetV5ImageClassifier": "MobileNetV5",
}.items():  # fmt: skip
    NETWORKS[f"keras-hub:{_name}"] = partial(_task, _name, _of, num_classes=3)
NETWORKS["keras-hub:HGNetV2ImageClassifier"] = partial(
    _task, "HGNetV2ImageClassifier", "HGNetV2", preprocessor=None, num_classes=3
)
