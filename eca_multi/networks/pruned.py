"""timm's pruned networks: the widths that pruning left, by block. Facts of the released weights."""

from .tables import ResNet

Stages = tuple[tuple[int, tuple[tuple[int, int], ...]], ...]

# Of each stage: its output channels, and the widths of each block's 1x1 and 3x3 convolution.
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
    # The kernels are those of the widths before pruning; the rule on what is left would give others.
    return ResNet(
        name,
        tuple(len(blocks) for _, blocks in stages),
        stem="deep",
        stem_width=32,
        average_down=True,
        kernels=(5, 5, 5, 7),
        widths=widths,
    )


ECARESNET50D_PRUNED = _pruned("ecaresnet50d_pruned", _STAGES_50D)
ECARESNET101D_PRUNED = _pruned("ecaresnet101d_pruned", _STAGES_101D)
