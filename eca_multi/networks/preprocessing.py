"""How images are prepared for the released weights: data, which every framework attaches as `model.preprocessing`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Preprocessing:
    """Resize the shorter side to `size / crop`, take the centre, scale to 0..1, subtract `mean`, divide by `std`.

    Args:
        size: Height and width that the network sees in testing.
        crop: Share of the resized image that is kept.
        interpolation: Of the resizing.
        mean, std: Per RGB channel, of values in 0..1.
    """

    size: int = 224
    crop: float = 0.875
    interpolation: str = "bilinear"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


# timm's tags of released weights: the input in testing that timm reports its accuracies at.
RELEASED: dict[str, Preprocessing] = {
    "ecaresnet26t.ra2_in1k": Preprocessing(320, 0.95, "bicubic"),
    "ecaresnetlight.miil_in1k": Preprocessing(288, 0.95, "bicubic"),
    "ecaresnet50d.miil_in1k": Preprocessing(288, 0.95, "bicubic"),
    "ecaresnet50d_pruned.miil_in1k": Preprocessing(288, 0.95, "bicubic"),
    "ecaresnet50t.ra2_in1k": Preprocessing(320, 0.95, "bicubic"),
    "ecaresnet50t.a1_in1k": Preprocessing(288, 1.0, "bicubic"),
    "ecaresnet50t.a2_in1k": Preprocessing(288, 1.0, "bicubic"),
    "ecaresnet50t.a3_in1k": Preprocessing(224, 0.95, "bicubic"),
    "ecaresnet101d.miil_in1k": Preprocessing(288, 0.95, "bicubic"),
    "ecaresnet101d_pruned.miil_in1k": Preprocessing(288, 0.95, "bicubic"),
    "ecaresnet269d.ra2_in1k": Preprocessing(352, 1.0, "bicubic"),
}


def preprocessing_of(name: str) -> Preprocessing:
    """Return what a network or released weights ("network.tag") expect; without a tag, those of the first one."""
    if name in RELEASED:
        return RELEASED[name]
    network = name.split(".")[0]
    return next((released for tag, released in RELEASED.items() if tag.split(".")[0] == network), Preprocessing())
