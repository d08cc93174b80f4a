"""How much of a sample one program of a Triton kernel takes. Triton itself is not imported here."""

from typing import NamedTuple

WIDEST = 65  # taps of a kernel: the band of a tile's channels is then as large as a tile
ELEMENTS = 1 << 14  # of a tile at most: 32 for each thread of the 16 warps that it then has
CHANNELS = 64  # of a tile, but for kernels of more than 33 taps: where they are innermost in memory, 128 bytes or more


class Tile(NamedTuple):
    """`channels` by `positions` of a sample, both powers of two; the program writes `own` channels of them."""

    channels: int
    positions: int
    halo: int
    own: int
    blocks: int

    @classmethod
    def of(cls, channels: int, positions: int, k: int, padding: str, columns: bool) -> "Tile":
        """Choose the tile. `columns`: the channels are innermost in memory."""
        if padding == "zeros" and channels <= CHANNELS:
            wide, halo = _power_of_two(channels), 0  # all channels: beyond them are zeros
            least = wide
        else:
            halo = k // 2 if padding == "circular" else min(k // 2, channels - 1)
            if halo > WIDEST // 2:
                raise ValueError(
                    f"weight must have at most {WIDEST} taps for the Triton kernels. Received: {k}. "
                    "Ask available(x, weight) first."
                )
            wide = max(CHANNELS, _power_of_two(4 * halo))  # the program writes half of the channels, at least
            wide = min(wide, _power_of_two(channels + 2 * halo))
            least = wide if columns else min(wide, _power_of_two(max(1, 8 * halo)))  # three quarters
        span = _power_of_two(positions)
        # As many channels as leave room for all positions; where even `least` does not, positions in several steps.
        while wide > least and wide * span > ELEMENTS:
            wide //= 2
        span = min(span, max(1, ELEMENTS // wide))
        own = wide - 2 * halo
        return cls(wide, span, halo, own, -(-channels // own))

    @property
    def warps(self) -> int:
        return min(16, max(4, self.channels * self.positions // 512))


def _power_of_two(n: int) -> int:
    """The least power of two that is not below n."""
    return 1 << (n - 1).bit_length()
