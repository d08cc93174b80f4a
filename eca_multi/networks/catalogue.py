"""The networks by name, as data."""

from difflib import get_close_matches

from .mobilenet import MobileNetV2
from .resnet import ResNet

Network = ResNet | MobileNetV2

# The original ECANet's, with the kernel sizes of its released weights; none of them follows the paper's rule.
_PAPER = (
    ResNet("eca_resnet18", (2, 2, 2, 2), "basic", kernels=(3, 5, 7, 7)),
    ResNet("eca_resnet34", (3, 4, 6, 3), "basic", kernels=(3, 3, 5, 7)),
    ResNet("eca_resnet50", (3, 4, 6, 3), kernels=(3, 5, 5, 7)),
    ResNet("eca_resnet101", (3, 4, 23, 3), kernels=(3, 3, 5, 7)),
    ResNet("eca_resnet152", (3, 8, 36, 3), kernels=(3, 3, 5, 7)),
    MobileNetV2("eca_mobilenet_v2", kernels=(1, 1, 1, 1, 3, 3, 3)),
)


def _deep(name: str, *depths: int, tiered: bool = False, groups: int = 1, base_width: int = 64) -> ResNet:
    stem = "deep_tiered" if tiered else "deep"
    return ResNet(name, depths, stem=stem, stem_width=32, average_down=True, groups=groups, base_width=base_width)


Stages = tuple[tuple[int, tuple[tuple[int, int], ...]], ...]

# The widths that pruning left in timm's networks: of each stage its output channels, and the widths of each block's
# 1x1 and 3x3 convolution.
# fmt: off
_STAGES_50D: Stages = (
    (19, ((47, 18), (52, 22), (64, 35))),
    (171, ((85, 37), (107, 80), (120, 85), (125, 87))),
    (818, ((198, 126), (255, 232), (256, 233), (253, 235), (256, 225), (256, 239))),
    (2022, ((492, 237), (512, 500), (512, 490))),
)
_STAGES_101D: Stages = (
    (26, ((45, 25), (53, 20), (60, 27))),
    (142, ((81, 24), (93, 49), (102, 54), (122, 78))),
    (278, (
        (101, 25), (239, 160), (234, 156), (250, 176), (253, 191), (251, 175), (230, 128), (244, 154),
        (244, 159), (238, 97), (244, 149), (253, 181), (245, 119), (255, 216), (256, 201), (253, 149),
        (254, 141), (256, 190), (256, 217), (255, 156), (256, 155), (256, 232), (256, 214),
    )),
    (2042, ((499, 289), (512, 512), (512, 502))),
)
# fmt: on


def _pruned(name: str, stages: Stages) -> ResNet:
    widths = tuple((*hidden, outputs) for outputs, blocks in stages for hidden in blocks)
    # The rule gave these kernels before pruning; for the pruned widths the rule would give others.
    return ResNet(
        name,
        tuple(len(blocks) for _, blocks in stages),
        stem="deep",
        stem_width=32,
        average_down=True,
        kernels=(5, 5, 5, 7),
        widths=widths,
    )


# timm's, whose kernel sizes follow the rule on the gated width, at least 3.
_TIMM = (
    _deep("ecaresnet26t", 2, 2, 2, 2, tiered=True),
    _deep("ecaresnet50t", 3, 4, 6, 3, tiered=True),
    _deep("ecaresnet50d", 3, 4, 6, 3),
    _deep("ecaresnet101d", 3, 4, 23, 3),
    _deep("ecaresnet200d", 3, 24, 36, 3),
    _deep("ecaresnet269d", 3, 30, 48, 8),
    ResNet("ecaresnetlight", (1, 1, 11, 3), average_down=True),
    _deep("ecaresnext26t_32x4d", 2, 2, 2, 2, tiered=True, groups=32, base_width=4),
    _deep("ecaresnext50t_32x4d", 3, 4, 6, 3, tiered=True, groups=32, base_width=4),
    _pruned("ecaresnet50d_pruned", _STAGES_50D),
    _pruned("ecaresnet101d_pruned", _STAGES_101D),
)

NETWORKS: dict[str, Network] = {network.name: network for network in (*_PAPER, *_TIMM)}


def find(name: str) -> Network:
    """Return a network by its name.

    Raises:
        TypeError: If `name` is no string. ValueError: If there is no such network; the nearest ones are named.
    """
    if not isinstance(name, str):
        raise TypeError(f"arch must be the name of a network. Received: {name!r}. One is 'eca_resnet50'.")
    if name in NETWORKS:
        return NETWORKS[name]
    near = get_close_matches(name, NETWORKS, n=3, cutoff=0.4) or sorted(NETWORKS)
    raise ValueError(f"arch must be the name of a network. Received: {name!r}. Did you mean {' or '.join(near)}?")
