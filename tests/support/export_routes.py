"""Every route out to production, for the network of export_network.py: `python export_routes.py BACKEND FOLDER`.

Keras has one backend per process, so a process makes the artefacts of Keras on one and of the framework below it, into
FOLDER. results.json there says {route: what was raised, or null}, and for what fails whatever the model {name:
{"network": ..., "plain": ...}}: what the network raises, and what a model raises that has no ECA.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tests.support import export_network as networks

TRACED = (2, 20, 24, 3)  # what a network is traced at, where that takes an example


@dataclass(frozen=True)
class Route:
    """How to make an artefact, and the runtime of run_artefact.py that runs the artefact."""

    backend: str  # the process that makes it
    runtime: str
    file: str
    make: Callable[[str], None]
    needs: tuple[str, ...] = ()  # packages beside the framework, to make it and to run it
    channels_first: bool = False
    dynamic: bool = True  # whether batch, height and width are free

    @property
    def missing(self):
        """Return the packages that this route needs."""
        compiler = ["a C++ compiler"] if "aoti" in self.file and not shutil.which(os.environ.get("CXX", "g++")) else []
        return not_installed(self.needs) + compiler


@dataclass(frozen=True)
class Failure:
    """What fails, whatever the model: `attempt` gets the name of a network's builder in export_network.py."""

    backend: str
    attempt: Callable[[str, str], None]
    message: str
    network: str = "keras_network"
    plain: str = "keras_dense"
    needs: tuple[str, ...] = ()

    @property
    def missing(self):
        return not_installed(self.needs)


def not_installed(packages):
    return [package for package in packages if find_spec(package) is None]


def build(name):
    return getattr(networks, name)()


# --- PyTorch --------------------------------------------------------------------------------------------------------


def torch_program():
    import torch

    free = {i: torch.export.Dim.DYNAMIC for i in (0, 2, 3)}
    return torch.export.export(networks.torch_network(), (_example(),), dynamic_shapes=(free,))


def torch_export(path):
    import torch

    torch.export.save(torch_program(), path)


def torch_onnx(path, flipped=None):
    import torch

    free = {0: torch.export.Dim("batch"), 2: torch.export.Dim("height"), 3: torch.export.Dim("width")}
    network = networks.torch_network(flipped)
    program = torch.onnx.export(
        network, (_example(),), input_names=["x"], dynamic_shapes=(free,), dynamo=True, opset_version=20, verbose=False
    )
    program.save(path)


def torch_onnx_wrong(path):
    """The control: the kernel of the circular ECA is flipped."""
    torch_onnx(path, flipped=1)


def torch_aoti(path):
    import torch

    torch._inductor.aoti_compile_and_package(torch_program(), package_path=path)


def _example():
    import torch

    batch, height, width, channels = TRACED
    return torch.zeros(batch, channels, height, width)


# --- Keras ----------------------------------------------------------------------------------------------------------


def keras_export(format, network="keras_network", **options):
    def make(path):
        model = build(network)
        model(networks.images(*TRACED))  # the ONNX exporters want a model that was called
        model.export(path, format=format, verbose=False, **options)

    return make


def keras_pt2(path):
    import torch

    keras_export("torch", dynamic_shapes=dict.fromkeys((0, 1, 2), torch.export.Dim.DYNAMIC))(path)


def keras_litert_of_one_size(path):
    import keras

    keras_export("litert", input_signature=[keras.InputSpec("float32", TRACED, name="x")])(path)


def keras_fails(format):
    return lambda network, path: keras_export(format, network)(path)


def batch_of_three(network, path):
    """Without dynamic_shapes, Keras's file takes only the batch size of the trace."""
    import torch

    keras_export("torch", network)(path)
    torch.export.load(path).module()(torch.zeros(3, 1, 1, 3))


# --- JAX ------------------------------------------------------------------------------------------------------------


def stablehlo(network):
    def make(path):
        import jax
        from jax import export

        x = jax.ShapeDtypeStruct(export.symbolic_shape("n, h, w, 3"), "float32")
        Path(path).write_bytes(export.export(jax.jit(build(network)))(x).serialize())

    return make


def jax_onnx(network, shape=TRACED):
    def make(path):
        import jax2onnx

        jax2onnx.to_onnx(build(network), [list(shape)], input_names=["x"], return_mode="file", output_path=path)

    return make


def jax_onnx_of_any_batch(network, path):
    jax_onnx(network, ("N", *TRACED[1:]))(path)


ONNX = ("onnxruntime",)
FROM_TORCH, FROM_TF, FROM_JAX = (*ONNX, "onnxscript"), (*ONNX, "tf2onnx"), (*ONNX, "jax2onnx")
LITERT, OPENVINO = ("ai_edge_litert",), ("openvino",)

ROUTES = {
    "torch-export": Route("torch", "torch", "a.pt2", torch_export, channels_first=True),
    "torch-onnx": Route("torch", "onnxruntime", "a.onnx", torch_onnx, FROM_TORCH, channels_first=True),
    "torch-aoti": Route("torch", "torch", "aoti.pt2", torch_aoti, channels_first=True),
    "wrong": Route("torch", "onnxruntime", "wrong.onnx", torch_onnx_wrong, FROM_TORCH, channels_first=True),
    "keras-torch-export": Route("torch", "torch", "b.pt2", keras_pt2),
    "keras-torch-onnx": Route("torch", "onnxruntime", "b.onnx", keras_export("onnx"), FROM_TORCH),
    "keras-torch-openvino": Route("torch", "openvino", "b.xml", keras_export("openvino"), OPENVINO),
    "keras-torch-litert": Route(
        "torch", "litert", "b.tflite", keras_litert_of_one_size, (*LITERT, "litert_torch"), dynamic=False
    ),
    "keras-tensorflow-saved_model": Route("tensorflow", "tensorflow", "a", keras_export("tf_saved_model")),
    "keras-tensorflow-onnx": Route("tensorflow", "onnxruntime", "a.onnx", keras_export("onnx"), FROM_TF),
    "keras-tensorflow-litert": Route("tensorflow", "litert", "a.tflite", keras_export("litert"), LITERT),
    "keras-tensorflow-openvino": Route("tensorflow", "openvino", "a.xml", keras_export("openvino"), OPENVINO),
    "keras-jax-saved_model": Route("jax", "tensorflow", "a", keras_export("tf_saved_model"), ("tensorflow",)),
    "keras-jax-onnx": Route("jax", "onnxruntime", "a.onnx", keras_export("onnx"), FROM_JAX),
    "linen-stablehlo": Route("jax", "jax", "b.stablehlo", stablehlo("linen_network")),
    "linen-onnx": Route("jax", "onnxruntime", "b.onnx", jax_onnx("linen_network"), FROM_JAX, dynamic=False),
    "nnx-stablehlo": Route("jax", "jax", "c.stablehlo", stablehlo("nnx_network")),
    "nnx-onnx": Route("jax", "onnxruntime", "c.onnx", jax_onnx("nnx_network"), FROM_JAX, dynamic=False),
}

FAILURES = {
    "keras-torch-saved_model": Failure("torch", keras_fails("tf_saved_model"), "Detected mismatch"),
    "keras-torch-export, any batch by default": Failure("torch", batch_of_three, "Guard failed"),
    "keras-jax-litert": Failure("jax", keras_fails("litert"), "requires TensorFlow or PyTorch backend"),
    "keras-jax-openvino": Failure("jax", keras_fails("openvino"), "OpConversionFailure", needs=OPENVINO),
    "keras-jax-saved_model, unpadded convolution": Failure(
        "jax", keras_fails("tf_saved_model"), "Error when tracing gradients", "keras_unpadded", "keras_convolution"
    ),
    "linen-onnx, any batch": Failure(
        "jax", jax_onnx_of_any_batch, "InconclusiveDimensionOperation", "linen_network", "jax_pad", FROM_JAX
    ),
    "nnx-onnx, any batch": Failure(
        "jax", jax_onnx_of_any_batch, "InconclusiveDimensionOperation", "nnx_network", "jax_pad", FROM_JAX
    ),
}

SUFFIXES = {"litert": ".tflite", "openvino": ".xml", "export": ".pt2", "onnx": ".onnx"}


def raised(make, *arguments):
    """Return what making an artefact raises. A failure is a result, and the next artefact is still made."""
    try:
        make(*arguments)
    except Exception as failure:
        return f"{type(failure).__name__}: {failure}"
    return None


def main(backend, folder):
    os.environ["KERAS_BACKEND"] = backend
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{folder}/inductor"
    results = {}
    for name, route in ROUTES.items():
        if route.backend == backend and not route.missing:
            results[name] = raised(route.make, f"{folder}/{route.file}")
    for name, failure in FAILURES.items():
        if failure.backend == backend and not failure.missing:
            path = f"{folder}/failure{SUFFIXES.get(name.partition(',')[0].rpartition('-')[2], '')}"
            results[name] = {
                kind: raised(failure.attempt, getattr(failure, kind), path) for kind in ("network", "plain")
            }
    Path(folder, "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
