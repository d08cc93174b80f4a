"""Keras networks of packages, small and with random weights. A name is PACKAGE:NETWORK."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

from benchmarks.zoo import keras_hub_networks
from benchmarks.zoo.keras_hub_networks import Network, image


def _application(name: str, size: int, **more: Any) -> Network:
    options = {"include_top": False, "pooling": "avg"} if name == "NASNetMobile" else {"classes": 10}
    return getattr(import_module("keras").applications, name)(
        weights=None, input_shape=(size, size, 3), **options, **more
    ), image(size)


def _kecam(name: str) -> Network:
    model = getattr(import_module("kecam").models, name)(input_shape=(64, 64, 3), num_classes=10, pretrained=None)
    return model, image(64)


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
}  # fmt: skip
NETWORKS |= keras_hub_networks.NETWORKS
for _name in ("ResNet50D", "ResNeXt50", "ConvNeXtTiny"):
    NETWORKS[f"kecam:{_name}"] = partial(_kecam, _name)
