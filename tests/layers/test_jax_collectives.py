"""What ECA sends between eight devices, counted in the programs that XLA compiles: no wrong number shows a regression.

With x of shape (N, H, W, C), k taps and one axis of x spread:

- Batch: the value needs nothing; dw is summed over the samples of all devices, one all-reduce of k numbers.
- Spatial: the means are one all-reduce of N C numbers. The gradient of the gate is a sum over positions too, another
  N C; here, where y's cotangent is known from the start, XLA puts both into one all-reduce. dw needs nothing more.
- Channel: k // 2 means come from either side, and their gradients go back; k numbers for dw. GSPMD sends a permutation
  for each tap but the middle one, shard_map one to either side.
"""

import importlib.util
from collections import Counter
from pathlib import Path

import jax
import pytest
from jax import lax

from eca_multi.jax import eca
from tests.layers.test_jax_sharding import eca_by_convolution

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "communication.py"
N, H, W, C = SHAPE = (8, 8, 16, 64)  # eight channels on a device
FLOAT = 4
FORWARD = {
    "batch": lambda engine, k: {},
    "spatial": lambda engine, k: {"all-reduce": 1},
    "channel": lambda engine, k: {"collective-permute": k - 1 if engine == "gspmd" else 2},
}
BOTH = {
    "batch": lambda engine, k: {"all-reduce": 1},
    "spatial": lambda engine, k: {"all-reduce": 1},
    "channel": lambda engine, k: {"collective-permute": 2 * (k - 1 if engine == "gspmd" else 2), "all-reduce": 1},
}
# In numbers, not bytes, for k = 3.
PAYLOAD = {
    "batch": ({}, {"all-reduce": 3}),
    "spatial": ({"all-reduce": N * C}, {"all-reduce": 2 * N * C}),
    "channel": ({"collective-permute": 2 * N}, {"collective-permute": 4 * N, "all-reduce": 3}),
}


@pytest.fixture(scope="module")
def communication():
    """The benchmark, whose counting is what docs/devices.md shows."""
    spec = importlib.util.spec_from_file_location("communication", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "k"), [("batch", 3), ("spatial", 3), ("channel", 3), ("channel", 9)])
@pytest.mark.parametrize("engine", ["gspmd", "shard_map"])
def test_collectives(engine, layout, k, communication):
    forward, both = getattr(communication, engine)(SHAPE, layout, 8, k)
    assert forward.counts == FORWARD[layout](engine, k)
    assert both.counts == BOTH[layout](engine, k)


@pytest.mark.slow
@pytest.mark.parametrize("layout", PAYLOAD)
def test_what_they_carry(layout, communication):
    """None grows with H or W: a feature map that is gathered would be seen here by its size."""
    found = communication.gspmd(SHAPE, layout, 8, 3)
    assert [traffic.payload for traffic in found] == [
        Counter({k: FLOAT * v for k, v in p.items()}) for p in PAYLOAD[layout]
    ]


# --- controls --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("layout", FORWARD)
def test_a_gathered_feature_map_is_seen(layout, communication):
    mesh, spec = communication.mesh_and_spec(layout, 8)
    axis = communication.LAYOUTS[layout]

    def gathering(x, w):
        y = eca(lax.all_gather(x, "d", axis=axis, tiled=True), w)
        return lax.dynamic_slice_in_dim(y, lax.axis_index("d") * x.shape[axis], x.shape[axis], axis)

    mapped = jax.shard_map(gathering, mesh=mesh, in_specs=(spec, jax.P()), out_specs=spec)
    forward, _ = communication.compiled(mapped, SHAPE, layout, 8, 3)
    assert forward.payload["all-gather"] == FLOAT * N * H * W * C


@pytest.mark.slow
def test_a_convolution_over_the_channels_is_seen(communication):
    _, both = communication.compiled(lambda x, w: eca_by_convolution(x, w, None), SHAPE, "channel", 8, 3)
    assert both.counts != BOTH["channel"]("gspmd", 3)


def test_the_text_of_a_program_is_read(communication):
    """One collective may carry several arrays, and what names one need not be one."""
    text = """
      %a = f32[8,64]{1,0} all-reduce(%x), channel_id=1
      %b = (f32[], f32[3,1]{1,0}) all-reduce(%y, %z), to_apply=%all-reduce-sum
      %c = f32[4]{0} collective-permute(%x), source_target_pairs={{0,1}}
      %d = f32[4]{0} fusion(%all-reduce.3), kind=kLoop
    """
    found = communication.collectives(text)
    assert found.counts == {"all-reduce": 2, "collective-permute": 1}
    assert found.payload == {"all-reduce": FLOAT * (8 * 64 + 1 + 3), "collective-permute": FLOAT * 4}
    with pytest.raises(RuntimeError, match="all-gather-start"):
        communication.collectives("%a = (f32[2], f32[4]) all-gather-start(%x)")
    with pytest.raises(RuntimeError, match="bf16"):
        communication.collectives("%a = bf16[2] all-gather(%x)")
