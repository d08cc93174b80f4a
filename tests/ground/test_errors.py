"""Bad input: one table, one body, the same exception and the same text in every framework."""

import ast
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import keras
import numpy as np
import pytest
import torch

from tests.support.frameworks import FRAMEWORKS

X = np.ones((2, 6, 5, 4), np.float32)
W = np.array([0.5, 1.0, -0.5], np.float32)


@dataclass(frozen=True, eq=False)
class Bad:
    """A call that raises `error` with `text` in its message.

    It is put to a layer with `kernel_size` and `options`, and to a function with `weight` and `options`, where `doors`
    names them: layer, function, "axis" for all layers but Keras's, "channels" for those that know C beforehand.
    """

    error: type[Exception]
    text: str
    x: Any = field(default_factory=lambda: X)
    mask: Any = None
    residual: Any = None
    options: dict[str, Any] = field(default_factory=dict)
    channels: Any = 6
    kernel_size: Any = 3
    weight: Any = field(default_factory=lambda: W)
    doors: tuple[str, ...] = ("layer", "function")


WEIGHT = "weight must be one kernel of k taps or one per channel, in the layout of its framework. Received: "
SIZE = "kernel_size must be an odd positive integer. Received: kernel_size="
FLOATING = "x must be a real floating-point tensor. Received: "
PADDING = "padding must be 'zeros' or 'circular'. Received: padding="
GATE = "gate must be 'sigmoid' or 'hard_sigmoid' or '2sigmoid' or a callable. Received: gate="
LINEN_TOO = " or an initializer function"
INIT = "init must be 'uniform' or 'identity'. Received: init="
IDENTITY = "gate must be '2sigmoid' when init='identity'. Received: gate="
POOL = "pool_axes must be "
CAUSAL = "causal_axis must be "
RESIDUAL = "residual must be of x's "
MASK = "mask must be broadcastable to (2, 5, 4). Received: shape "
layer, function, axes = ("layer",), ("function",), ("axis", "function")

TABLE = {
    # the input
    "rank-2": Bad(ValueError, "x must be of rank 3 or more. Received: rank 2, shape (2, 6).", X[:, :, 0, 0]),
    "rank-1": Bad(ValueError, "x must be of rank 3 or more. Received: rank 1, shape (4,).", X[0, 0, 0]),
    "empty-extent": Bad(
        ValueError,
        "x must be non-empty in every spatial axis that is pooled. Received: shape (2, 6, 0, 4).",
        X[:, :, :0],
    ),
    "no-channel": Bad(ValueError, "x must be of one channel or more. Received: shape (2, 0, 5, 4).", X[:, :0]),
    "int": Bad(TypeError, f"{FLOATING}dtype int32.", X.astype(np.int32)),
    "bool": Bad(TypeError, f"{FLOATING}dtype bool.", X > 0),
    "complex": Bad(TypeError, f"{FLOATING}dtype complex64.", X.astype(np.complex64)),
    "string": Bad(TypeError, f"{FLOATING}str.", "photo.jpg"),
    "none": Bad(TypeError, f"{FLOATING}NoneType.", None, doors=function),  # a Keras layer may be given lists of tensors
    "list": Bad(TypeError, f"{FLOATING}list.", X.tolist(), doors=function),
    "channel-count": Bad(
        ValueError,
        "x must be of 6 channels. Received: 5 channels at axis 1 of shape (2, 5, 5, 4).",
        X[:, :5],
        doors=("channels",),
    ),
    # the channel axis
    **{
        f"axis-{bad}": Bad(
            ValueError,
            f"channel_axis must be in [-3, 3) for rank 3. Received: channel_axis={bad}.",
            X[..., 0],
            options={"channel_axis": bad},
            doors=axes,
        )
        for bad in (3, -4)
    },
    **{
        f"axis-{bad}": Bad(
            ValueError,
            f"channel_axis must be another axis than the batch axis 0. Received: channel_axis={bad} for rank 3.",
            X[..., 0],
            options={"channel_axis": bad},
            doors=axes,
        )
        for bad in (0, -3)
    },
    **{
        f"axis-{bad!r}": Bad(
            TypeError,
            f"channel_axis must be an integer. Received: channel_axis={bad!r}.",
            options={"channel_axis": bad},
            doors=axes,
        )
        for bad in (1.0, True, "1")
    },
    # the mask
    "mask-swapped": Bad(ValueError, f"{MASK}(2, 4, 5).", mask=np.ones((2, 4, 5), bool)),
    "mask-with-channels": Bad(ValueError, f"{MASK}(2, 1, 5, 4).", mask=np.ones((2, 1, 5, 4), bool)),
    "mask-other-batch": Bad(ValueError, f"{MASK}(3, 5, 4).", mask=np.ones((3, 5, 4), bool)),
    "mask-float": Bad(
        TypeError, "mask must be a boolean tensor. Received: dtype float32.", mask=np.ones((2, 5, 4), np.float32)
    ),
    "mask-int": Bad(
        TypeError, "mask must be a boolean tensor. Received: dtype int32.", mask=np.ones((2, 5, 4), np.int32)
    ),
    "mask-list": Bad(TypeError, "mask must be a boolean tensor. Received: list.", mask=[True]),
    "mask-flag": Bad(TypeError, "mask must be a boolean tensor. Received: bool.", mask=True),
    "mask-of-the-kept-axes": Bad(
        ValueError, f"{MASK}(2, 3).", mask=np.ones((2, 3), bool), options={"pool_axes": 2}, doors=function
    ),
    # the axes to average over
    **{
        f"pool-{bad}": Bad(
            ValueError,
            f"{POOL}{must}. Received: pool_axes={bad} for rank 4.",
            options={"pool_axes": bad},
        )
        for bad, must in (
            ((4,), "in [-4, 4) for rank 4"),
            ((2, -5), "in [-4, 4) for rank 4"),
            ((0, 2), "other axes than the batch axis 0"),
            ((2, -4), "other axes than the batch axis 0"),
            ((1,), "other axes than the channel axis 1"),
            ((3, -3), "other axes than the channel axis 1"),
            ((2, 2), "different axes"),
            ((3, 2, -1), "different axes"),
        )
    },
    "pool-none": Bad(ValueError, f"{POOL}one axis or more. Received: pool_axes=().", options={"pool_axes": ()}),
    **{
        f"pool-{bad!r}": Bad(
            TypeError,
            f"{POOL}an integer, several integers or None. Received: pool_axes={bad!r}.",
            options={"pool_axes": bad},
        )
        for bad in ("2", 2.0, True, {2: 3})
    },
    "pool-of-text": Bad(
        TypeError, f"{POOL}a sequence of integers. Received: pool_axes='3'.", options={"pool_axes": (2, "3")}
    ),
    # the axis of time
    **{
        f"causal-{bad}": Bad(
            ValueError, f"{CAUSAL}{must}. Received: causal_axis={bad} for rank 4.", options={"causal_axis": bad}
        )
        for bad, must in (
            (4, "in [-4, 4) for rank 4"),
            (-5, "in [-4, 4) for rank 4"),
            (0, "another axis than the batch axis 0"),
            (-4, "another axis than the batch axis 0"),
            (1, "another axis than the channel axis 1"),
            (-3, "another axis than the channel axis 1"),
        )
    },
    **{
        f"causal-{bad!r}": Bad(
            TypeError, f"{CAUSAL}an integer or None. Received: causal_axis={bad!r}.", options={"causal_axis": bad}
        )
        for bad in (2.0, True, "2", (2,))
    },
    "causal-not-pooled": Bad(
        ValueError,
        f"{CAUSAL}one of the pooled axes. Received: causal_axis=-1 with pool_axes=(2,) for rank 4.",
        options={"pool_axes": (2,), "causal_axis": -1},
    ),
    "empty-causal-axis": Bad(
        ValueError,
        "x must be non-empty in every spatial axis that is pooled. Received: shape (2, 6, 0, 4).",
        X[:, :, :0],
        options={"pool_axes": (2,), "causal_axis": 2},
    ),
    # the residual
    "residual-shape": Bad(
        ValueError,
        f"{RESIDUAL}shape (2, 6, 5, 4). Received: shape (2, 6, 5, 1).",
        residual=X[..., :1],
    ),
    "residual-rank": Bad(ValueError, f"{RESIDUAL}shape (2, 6, 5, 4). Received: shape (6, 5, 4).", residual=X[0]),
    "residual-dtype": Bad(
        TypeError,
        f"{RESIDUAL}dtype float32. Received: dtype float16.",
        residual=X.astype(np.float16),
        doors=axes,  # Keras casts all that a layer gets
    ),
    "residual-int": Bad(
        TypeError,
        "residual must be a real floating-point tensor. Received: dtype int32.",
        residual=X.astype(np.int32),
    ),
    "residual-list": Bad(
        TypeError, "residual must be a real floating-point tensor. Received: list.", residual=[1.0], doors=function
    ),
    # the kernel
    **{f"kernel-{bad!r}": Bad(ValueError, f"{SIZE}{bad!r}.", kernel_size=bad, doors=layer) for bad in (4, 0, -3)},
    **{
        f"kernel-{bad!r}": Bad(TypeError, f"{SIZE}{bad!r}.", kernel_size=bad, doors=layer)
        for bad in (3.0, True, "3", (3,))
    },
    "weight-even": Bad(ValueError, f"{SIZE}2.", weight=W[:2], doors=function),
    "weight-empty": Bad(ValueError, f"{SIZE}0.", weight=W[:0], doors=function),
    "weight-int": Bad(
        TypeError,
        "weight must be a real floating-point tensor. Received: dtype int32.",
        weight=W.astype(np.int32),
        doors=function,
    ),
    "weight-rank-2": Bad(
        ValueError,
        f"{WEIGHT}shape (6, 3).",
        weight=np.ones((6, 3), np.float32),
        doors=function,
    ),
    "weight-of-5-channels": Bad(
        ValueError,
        f"{WEIGHT}5 kernels (shape (5, 1, 5)) for 6 channels.",
        weight=np.ones((5, 1, 5), np.float32),
        doors=function,
    ),
    "circular": Bad(
        ValueError,
        "kernel_size must be at most 2*channels + 1 with padding='circular'. Received: kernel_size=15 for 6 channels.",
        options={"padding": "circular"},
        kernel_size=15,
        weight=np.ones(15, np.float32),
    ),
    # the options
    "padding-same": Bad(ValueError, f"{PADDING}'same'.", options={"padding": "same"}),
    "padding-type": Bad(TypeError, f"{PADDING}3.", options={"padding": 3}),
    "gate-relu": Bad(ValueError, f"{GATE}'relu'.", options={"gate": "relu"}),
    "gate-3": Bad(TypeError, f"{GATE}3.", options={"gate": 3}),
    "gate-none": Bad(TypeError, f"{GATE}None.", options={"gate": None}),
    "gate-list": Bad(TypeError, f"{GATE}['sigmoid'].", options={"gate": ["sigmoid"]}),
    "init-he": Bad(ValueError, f"{INIT}'he'.", options={"init": "he"}, doors=layer),
    "init-type": Bad(TypeError, f"{INIT}0.", options={"init": 0}, doors=layer),
    "identity": Bad(ValueError, f"{IDENTITY}'sigmoid'.", options={"init": "identity"}, doors=layer),
    "identity-hard": Bad(
        ValueError,
        f"{IDENTITY}'hard_sigmoid'.",
        options={"init": "identity", "gate": "hard_sigmoid"},
        doors=layer,
    ),
    "identity-callable": Bad(
        ValueError, f"{IDENTITY}<built-in function abs>.", options={"init": "identity", "gate": abs}, doors=layer
    ),
    # the constants of the rule
    "gamma-0": Bad(
        ValueError,
        "gamma must be a finite number > 0. Received: gamma=0.",
        options={"gamma": 0},
        kernel_size=None,
        doors=layer,
    ),
    "gamma-unused": Bad(
        ValueError, "gamma must be a finite number > 0. Received: gamma=0.", options={"gamma": 0}, doors=layer
    ),
    "beta-string": Bad(
        TypeError,
        "beta must be a finite number >= 0. Received: beta='1'.",
        options={"beta": "1"},
        kernel_size=None,
        doors=layer,
    ),
    # the number of channels
    "channels-0": Bad(
        ValueError, "channels must be a positive integer. Received: channels=0.", channels=0, doors=("count",)
    ),
    "channels-6.0": Bad(
        TypeError, "channels must be a positive integer. Received: channels=6.0.", channels=6.0, doors=("count",)
    ),
    "channels-true": Bad(
        TypeError, "channels must be a positive integer. Received: channels=True.", channels=True, doors=("count",)
    ),
}


def rows(*doors):
    chosen = {name: bad for name, bad in TABLE.items() if set(doors) & set(bad.doors)}
    return pytest.mark.parametrize("bad", chosen.values(), ids=chosen)


def tensors(framework, bad):
    """The call's arguments; what is no array is passed as it is."""
    given = (bad.x, bad.mask, *(() if bad.residual is None else (bad.residual,)))
    return [framework.tensor(a) if isinstance(a, np.ndarray) else a for a in given]


def call_layer(framework, bad, transform=lambda call: call):
    options = {"channel_axis": 1, **bad.options}
    built = framework.build(bad.channels, bad.kernel_size, rank=max(3, np.ndim(bad.x)), **options)
    return transform(lambda *given: built(*given))(*tensors(framework, bad))


def call_function(framework, bad, transform=lambda call: call):
    options = {"channel_axis": 1, **bad.options}
    weight = framework.tensor(bad.weight)

    def call(x, mask, *residual):
        more = {"residual": residual[0]} if residual else {}
        return framework.package.eca(x, weight, mask=mask, **more, **options)

    return transform(call)(*tensors(framework, bad))


def expected(framework, bad):
    """The text as a pattern; linen's word for `init` is kernel_init, which takes a function too."""
    if framework.kind != "linen":
        return re.escape(bad.text)
    text = re.sub(r"\binit\b", "kernel_init", bad.text)
    return re.escape(text.replace("'uniform' or 'identity'", f"'uniform' or 'identity'{LINEN_TOO}"))


@pytest.mark.only("torch", "keras", "linen", "nnx")
@rows("layer")
def test_layers(framework, bad):
    with pytest.raises(bad.error, match=expected(framework, bad)):
        call_layer(framework, bad)


@pytest.mark.only("torch", "linen", "nnx")
@rows("axis")
def test_layers_with_a_channel_axis(framework, bad):
    with pytest.raises(bad.error, match=expected(framework, bad)):
        call_layer(framework, bad)


@pytest.mark.only("torch", "keras", "nnx")
@rows("channels")
def test_layers_that_know_their_channels(framework, bad):
    with pytest.raises(bad.error, match=expected(framework, bad)):
        call_layer(framework, bad)


@pytest.mark.only("torch", "nnx")
@rows("count")
def test_layers_that_are_told_their_channels(framework, bad):
    with pytest.raises(bad.error, match=expected(framework, bad)):
        call_layer(framework, bad)


@pytest.mark.only("torch", "keras", "jax")
@rows("function")
def test_functions(framework, bad):
    with pytest.raises(bad.error, match=expected(framework, bad)):
        call_function(framework, bad)


@pytest.mark.only("torch", "keras", "linen", "nnx", "jax")
def test_the_good_call_beside_them(framework):
    """The control: what the table changes one thing of is valid."""
    good = Bad(Exception, "", mask=np.ones((2, 5, 4), bool))
    if framework.kind != "jax":
        call_layer(framework, good)
    if framework.kind in ("torch", "keras", "jax"):
        call_function(framework, good)


@pytest.mark.keras
@rows("layer", "channels", "function")
def test_the_whole_text_is_the_same_everywhere(bad):
    calls = {
        "layer": (call_layer, ("torch", "keras", "linen", "nnx")),
        "channels": (call_layer, ("torch", "keras", "nnx")),
        "function": (call_function, ("torch", "keras", "jax")),
    }
    said = {}
    for door, (call, kinds) in calls.items():
        for framework in FRAMEWORKS:
            if door in bad.doors and framework.kind in kinds:
                with pytest.raises(bad.error, match=expected(framework, bad)) as caught:
                    call(framework, bad)
                said[door, framework.name] = message(caught.value)
    assert len(set(said.values())) == 1, said


def message(error):
    """The line with our text: Keras adds, around what a layer's call raises, the arguments."""
    line = next(line for line in str(error).splitlines() if " must be " in line)
    return re.sub("\x1b\\[\\dm", "", line).replace("kernel_init", "init").replace(LINEN_TOO, "")


# --- under transformations, where shapes and dtypes are known before the values ---------------------------------------

# The rest of the table is decided when the layer is made, or by arguments that no tracer stands for.
AT_CALL = (
    "rank-2", "empty-extent", "int", "complex", "mask-swapped", "mask-float", "circular",
    "pool-(2, 2)", "causal-4", "causal-not-pooled", "residual-shape",
)  # fmt: skip
OF_FUNCTIONS = ("axis-3", "axis-0", "weight-even", "weight-of-5-channels", "padding-same", "gate-3")


@pytest.mark.only("linen", "nnx")
@pytest.mark.parametrize("name", AT_CALL)
def test_layers_under_jit(framework, name):
    with pytest.raises(TABLE[name].error, match=expected(framework, TABLE[name])):
        call_layer(framework, TABLE[name], jax.jit)


@pytest.mark.only("nnx")
def test_channel_count_under_jit(framework):
    with pytest.raises(ValueError, match=expected(framework, TABLE["channel-count"])):
        call_layer(framework, TABLE["channel-count"], jax.jit)


@pytest.mark.only("jax")
@pytest.mark.parametrize("name", AT_CALL + OF_FUNCTIONS)
def test_functions_under_jit(framework, name):
    with pytest.raises(TABLE[name].error, match=expected(framework, TABLE[name])):
        call_function(framework, TABLE[name], jax.jit)


@pytest.fixture
def compiled():
    torch.compiler.reset()
    frames = torch._dynamo.utils.counters["frames"]
    before = frames["total"]
    yield lambda call: torch.compile(call, backend="aot_eager")
    assert frames["total"] > before, "nothing was traced"
    torch.compiler.reset()


@pytest.mark.only("torch")
@pytest.mark.parametrize("name", [*AT_CALL, "channel-count"])
def test_layers_under_compile(framework, name, compiled):
    with pytest.raises(TABLE[name].error, match=expected(framework, TABLE[name])):
        call_layer(framework, TABLE[name], compiled)


@pytest.mark.only("torch")
@pytest.mark.parametrize("name", OF_FUNCTIONS)
def test_functions_under_compile(framework, name, compiled):
    with pytest.raises(TABLE[name].error, match=expected(framework, TABLE[name])):
        call_function(framework, TABLE[name], compiled)


@pytest.mark.only("keras")
@pytest.mark.parametrize("name", [*AT_CALL, "channel-count"])
def test_keras_layers_on_symbolic_input(framework, name):
    def symbolic(call):
        def traced(*tensors):
            return call(*(t if t is None else keras.KerasTensor(t.shape, framework.dtype_of(t)) for t in tensors))

        return traced

    with pytest.raises(TABLE[name].error, match=expected(framework, TABLE[name])):
        call_layer(framework, TABLE[name], symbolic)


# --- one framework's own --------------------------------------------------------------------------------------------


@pytest.mark.keras
@pytest.mark.parametrize("bad", ["NCHW", 1, "first"])
def test_keras_data_format(bad):
    from eca_multi.keras import ECA

    text = f"data_format must be 'channels_first' or 'channels_last'. Received: data_format={bad!r}."
    with pytest.raises(ValueError, match=re.escape(text)):
        ECA(data_format=bad)


@pytest.mark.keras
def test_keras_identity_with_an_initializer():
    from eca_multi.keras import ECA

    with pytest.raises(ValueError, match="kernel_initializer must be None when init='identity'"):
        ECA(init="identity", gate="2sigmoid", kernel_initializer="ones")


@pytest.mark.keras
def test_keras_needs_the_number_of_channels():
    from eca_multi.keras import ECA

    with pytest.raises(ValueError, match="the number of channels must be known when the layer is built"):
        ECA(data_format="channels_last")(keras.Input((5, 4, None)))


@pytest.mark.only("torch")
@pytest.mark.parametrize("door", [call_layer, call_function], ids=["layer", "function"])
@pytest.mark.parametrize("argument", ["x", "mask"])
def test_torch_names_what_it_got_instead_of_a_tensor(framework, door, argument):
    """A NumPy array has the right dtype: the message must not say that the dtype is wrong."""

    class AsIs(type(framework)):
        def tensor(self, array, dtype=None):
            is_wanted = array.ndim == 4 if argument == "x" else array.dtype == bool
            return array if is_wanted else super().tensor(array, dtype)

    good = Bad(Exception, "", mask=np.ones((2, 5, 4), bool))
    kind = "a real floating-point" if argument == "x" else "a boolean"
    with pytest.raises(TypeError, match=rf"{argument} must be {kind} tensor\. Received: .*ndarray"):
        door(AsIs(**vars(framework)), good)


@pytest.mark.only("torch")
@rows("layer")
def test_lazy_torch_layers(framework, bad):
    with pytest.raises(bad.error, match=expected(framework, bad)):
        framework.package.LazyECA(bad.kernel_size, **bad.options)(*tensors(framework, bad))


# --- the tests themselves ---------------------------------------------------------------------------------------------


def bare_raises(source):
    """The lines of `pytest.raises(...)` without a match=."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [
        call.lineno
        for call in calls
        if getattr(call.func, "attr", getattr(call.func, "id", None)) == "raises"
        and not any(keyword.arg == "match" for keyword in call.keywords)
    ]


@pytest.mark.parametrize("path", sorted(Path(__file__).parents[1].glob("**/*.py")), ids=lambda path: path.name)
def test_every_raises_has_a_match(path):
    assert bare_raises(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "with pytest.raises(ValueError):\n    f()",
        "pytest.raises(ValueError, f)",
        "with raises(ValueError, check=g):\n    f()",
    ],
)
def test_a_bare_raises_is_found(source):
    assert bare_raises(source) == [1]
    assert bare_raises("with pytest.raises(ValueError, match='x'):\n    f()") == []
