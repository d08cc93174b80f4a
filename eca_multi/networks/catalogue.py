"""The networks by name."""

from difflib import get_close_matches

from .pruned import ECARESNET50D_PRUNED, ECARESNET101D_PRUNED
from .tables import MobileNetV2, Network, ResNet

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
    ECARESNET50D_PRUNED,
    ECARESNET101D_PRUNED,
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
