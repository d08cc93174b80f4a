"""A module's children where some have an ECA behind them: a gate stays in its place when a child is exchanged."""

from torch import nn
from torch.jit import ScriptModule

from eca_multi.surgery.errors import UnsupportedModelError
from eca_multi.torch._private import forward_hooks

from .gate import attach, detach, gate_of, gate_output

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class Children(dict[str, nn.Module | None]):
    """The table of a module's children (`_modules`), which all tools write that convert, fuse or quantise a network.

    Each such tool knows a batch norm, say, and puts another norm in its place, or folds the norm into the convolution
    before it and deletes the norm. The gate then goes on to what stands there now.
    """

    def __setitem__(self, name: str, new: nn.Module | None) -> None:
        old = self.get(name)
        if new is not None and self._left_gate(name, new):
            detach(new)
        if old is not None and not self._moves(name, old):
            if new is None or type(new) is nn.Identity:
                self._check_fold(name, old)
            if new is None:
                self._leave(name, old)
            else:
                _pass_on(old, new)
        super().__setitem__(name, new)

    def __delitem__(self, name: str) -> None:
        old = self[name]
        if old is not None:
            self._check_fold(name, old)
            self._leave(name, old)
        super().__delitem__(name)

    def _moves(self, name: str, old: nn.Module) -> bool:
        """Whether a child has another name already, as while a list of modules inserts one."""
        return any(child is old for other, child in self.items() if other != name)

    def _left_gate(self, name: str, new: nn.Module) -> bool:
        """Whether a child comes back at another name, as when two change places: its gate stayed where it was."""
        layer = gate_of(new)
        others = [child for other, child in self.items() if other != name and child is not new]
        return layer is not None and new is not self.get(name) and any(gate_of(child) is layer for child in others)

    def _before(self, name: str) -> nn.Module | None:
        names = list(self)
        return self[names[names.index(name) - 1]] if names.index(name) else None

    def _check_fold(self, name: str, norm: nn.Module) -> None:
        """Refuse to fold a norm into a convolution with a gate: the norm of a gated tensor is not its gated norm."""
        before = self._before(name)
        if hasattr(norm, "running_mean") and isinstance(before, CONVS) and gate_of(before) is not None:
            raise UnsupportedModelError(
                f"A norm that is folded must follow a convolution without ECA. Received: {name}, a "
                f"{type(norm).__name__} behind a convolution with ECA. Call remove_eca first, or insert after folding."
            )

    def _leave(self, name: str, old: nn.Module) -> None:
        """Let a child go: a norm's gate goes to the convolution before the norm; other children take theirs along."""
        layer = gate_of(old)
        if layer is None or not hasattr(old, "running_mean"):
            return
        before = self._before(name)
        if not isinstance(before, CONVS) or before.out_channels != layer.channels:
            raise UnsupportedModelError(
                f"A norm that is deleted must leave its ECA to the convolution before it. Received: {name}, a "
                f"{type(old).__name__} without such a convolution. Call remove_eca first, or fuse before insert_eca."
            )
        attach(before, layer)


def _pass_on(old: nn.Module, new: nn.Module) -> None:
    """Give the gate of a child to the one in its place, unless that one has a gate or holds the old child."""
    layer = gate_of(old)
    has_gate = gate_of(new) is not None and gate_output in forward_hooks(new).values()
    is_around = isinstance(new, ScriptModule) or any(inner is old for inner in new.modules())
    if layer is not None and not has_gate and not is_around:
        attach(new, layer)
