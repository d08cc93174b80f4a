"""The layer that insert_eca puts into a network."""

from typing import Any

import keras

from ..layers import ECA


@keras.saving.register_keras_serializable(package="eca_multi")
class InsertedECA(ECA):
    """An ECA that knows how it came into its network, so that it can be listed and taken out, after a reload too.

    Args:
        action: As in `ECAEntry`.
        where: What was asked for when it was inserted.
        site: Name of the layer that it was inserted at.
        **kwargs: Of `ECA`.
    """

    def __init__(self, *args: Any, action: str = "after", where: str = "paths", site: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.action = action
        self.where = where
        self.site = site

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "action": self.action, "where": self.where, "site": self.site}
