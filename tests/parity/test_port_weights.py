"""port_weights: a state dict of the reference becomes a checkpoint of the port, which its framework reads."""

import numpy as np
import pytest

from eca_multi.parity import SpecError, assert_ported, port_weights

torch = pytest.importorskip("torch")
nnx = pytest.importorskip("flax.nnx")
X = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)
MAP = {"kernel": "weight: o i -> i o", "bias": "bias"}


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return torch.nn.Linear(4, 3)


def port(name="nnx"):
    return nnx.Linear(4, 3, rngs=nnx.Rngs(0))


@pytest.mark.slow
def test_the_arrays_have_the_ports_names_axes_and_dtypes(layer):
    arrays = port_weights(MAP, layer.state_dict(), port())
    np.testing.assert_array_equal(arrays["kernel"], layer.weight.detach().numpy().T)
    half = nnx.Linear(4, 3, param_dtype="bfloat16", rngs=nnx.Rngs(0))
    assert port_weights(MAP, layer, half)["kernel"].dtype.name == "bfloat16"


def test_a_safetensors_file(layer, tmp_path):
    from safetensors.numpy import load_file

    arrays = port_weights(MAP, layer.state_dict(), port(), tmp_path / "port.safetensors")
    back = load_file(tmp_path / "port.safetensors")
    assert {name: array.tobytes() for name, array in back.items()} == {n: a.tobytes() for n, a in arrays.items()}


def test_a_msgpack_file_of_nnx_is_verified_by_the_run(layer, tmp_path):
    from flax.serialization import msgpack_restore

    port_weights(MAP, layer.state_dict(), port(), tmp_path / "port.msgpack")
    loaded = port()
    nnx.update(loaded, msgpack_restore((tmp_path / "port.msgpack").read_bytes()))
    assert_ported(layer, loaded, X, map=MAP)
    with pytest.raises(AssertionError, match="the port does not hold the reference's weights"):
        assert_ported(layer, port(), X, map=MAP)


def test_a_folder_of_orbax_for_linen(layer, tmp_path):
    import jax
    import orbax.checkpoint as ocp
    from flax import linen

    module = linen.Dense(3)
    model = module, module.init(jax.random.key(0), X)
    entries = {f"params/{name}": text for name, text in MAP.items()}
    port_weights(entries, layer.state_dict(), model, tmp_path / "port")
    variables = ocp.PyTreeCheckpointer().restore(tmp_path / "port")
    assert_ported(layer, (module, variables), X, map=entries)


@pytest.mark.keras
def test_a_weights_file_of_keras_is_verified_by_the_run(layer, tmp_path):
    import keras

    def model():
        return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="dense")])

    entries = {f"dense/{name}": text for name, text in MAP.items()}
    port_weights(entries, layer.state_dict(), model(), tmp_path / "port.weights.h5")
    loaded = model()
    loaded.load_weights(tmp_path / "port.weights.h5")
    assert_ported(layer, loaded, X, map=entries)
    assert [path.name for path in tmp_path.iterdir()] == ["port.weights.h5"]


def test_what_the_map_leaves_out_stays_the_ports_own(layer):
    own = port()
    arrays = port_weights({"kernel": "weight: o i -> i o", "bias": None}, {"weight": layer.weight}, own)
    np.testing.assert_array_equal(arrays["bias"], own.bias.get_value())


WRONG = {
    "a state without a weight": ({"weight"}, MAP, "port.msgpack", r"must lead to weight\. Received: 'bias'"),
    "a file of another framework": (
        None,
        MAP,
        "port.weights.h5",
        r"must be of a Keras model\. Received: Linear \(nnx\)",
    ),
    "an unknown suffix": (None, MAP, "port.pt", r"the file must be \.safetensors, .* Received: 'port\.pt'\. Rename it"),
    "a map without a weight": (None, {"kernel": "weight: o i -> i o"}, None, r"must name every parameter.* no 'bias'"),
}


@pytest.mark.parametrize(("names", "entries", "file", "message"), WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_refused_and_nothing_is_written(layer, tmp_path, names, entries, file, message):
    state = {n: a for n, a in layer.state_dict().items() if names is None or n in names}
    with pytest.raises(SpecError, match=message):
        port_weights(entries, state, port(), file and tmp_path / file)
    assert not [*tmp_path.iterdir()]
