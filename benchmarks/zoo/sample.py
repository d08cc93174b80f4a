"""The 30 networks of CI: fast ones, spread over the packages."""

SAMPLE = frozenset("""
    torchvision:resnet18 torchvision:mobilenet_v3_small torchvision:r3d_18 torchvision:regnet_y_400mf
    timm:resnet18 timm:regnety_002 timm:ghostnet_050 timm:convnext_atto timm:mobilenetv3_small_050 timm:poolformer_s12
    timm:rexnet_100 timm:repvgg_a0
    transformers:ResNet transformers:RegNet-y transformers:Segformer transformers:EnCodec transformers:ViT
    monai:UNet3d-res monai:DynUNet-res smp:Linknet/resnet18
    pytorchcv:resnet20_cifar10 pytorchcv:wrn16_10_cifar10
    keras-hub:ResNet-basic keras-hub:CSP-dark keras-hub:EfficientNet keras-hub:DeepLabV3(ResNet)
    flaxmodels:ResNet18 jax_resnet:ResNet18 flaim:convnext_xxxnano diffusers:UNet2DCondition
""".split())  # fmt: skip  # noqa: SIM905  # a list of names, one line for each package
