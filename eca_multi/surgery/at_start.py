"""What the weights of a site say of the gradient that its kernel gets at the start: the notes, each once.

A framework looks at the weights that the model has, and asks here what to note.
"""

SILENT = "its weights are 0, and so is its output: the kernel gets no gradient until they move"
SCALED_TO_ZERO = "the layer scale behind it is 0: the kernel gets no gradient until the scale moves"
NO_MEAN = (
    "behind an instance norm without bias the mean of each channel is 0, so the gate stays 1 (with the identity start) "
    "whatever the kernel"
)
NO_MEAN_YET = (
    "behind an instance norm whose bias is 0 the mean of each channel is 0: the kernel gets no gradient until the bias "
    "moves"
)

UNUSED = "no output of the model depends on it, so a gate here changes nothing and its kernel gets no gradient"


def start_notes(scale: bool | None, bias: bool | None, *, is_instance_norm: bool = False) -> tuple[str, ...]:
    """Return what a plan notes of an ECA behind a norm, a convolution or a layer scale.

    Args:
        scale, bias: Whether all of these weights are 0, False also where they hold no values yet; None if the layer
            has no such weights.
        is_instance_norm: Whether the layer takes out the mean of each channel.

    Example:
        >>> from eca_multi.surgery.at_start import start_notes
        >>> start_notes(scale=True, bias=True)
        ('its weights are 0, and so is its output: the kernel gets no gradient until they move',)
        >>> start_notes(scale=False, bias=True)
        ()
    """
    if scale and bias is not False:
        return (SILENT,)
    if is_instance_norm and bias is not False:
        return (NO_MEAN if bias is None else NO_MEAN_YET,)
    return ()
