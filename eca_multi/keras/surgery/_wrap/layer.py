"""The layer that insert_eca puts into a network."""

from collections.abc import Sequence
from typing import Any

import keras

from eca_multi.keras.layers import ECA


@keras.saving.register_keras_serializable(package="eca_multi")
class InsertedECA(ECA):
    """An ECA that records its insertion, so that it can be listed and taken out, after a reload too.

    Args:
        action: As in `ECAEntry`.
        where: The option of `insert_eca`, as the plan records it.
        site: Name of the layer at which the ECA was inserted.
        dropped: Names of the layers of the SE block that the ECA replaced.
        **kwargs: Of `ECA`.
    """

    def __init__(
        self,
        kernel_size: int | None = None,
        *,
        action: str = "after",
        where: str = "paths",
        site: str = "",
        dropped: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(kernel_size, **kwargs)
        self.action = action
        self.where = where
        self.site = site
        self.dropped = list(dropped)

    def get_config(self) -> dict[str, Any]:
        record = {"action": self.action, "where": self.where, "site": self.site, "dropped": list(self.dropped)}
        return super().get_config() | record
