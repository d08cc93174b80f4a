"""Every route out to production, for the network of export_network.py: `python export_routes.py MAKER FOLDER`.

A maker is a framework, or Keras on one of its backends, which takes a process of its own. It writes the artefacts of its
routes into FOLDER, and results.json there: {route: {"seconds": ..., "raised": what was raised, or null}}, for routes that
fail by nature {"network": ..., "plain": ...}: what they raise for the network, and for a dense layer without any ECA.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import export_network as networks

ANY = {0: "batch", 2: "height", 3: "width"}


@dataclass(frozen=True)
class Route:
    """How an artefact is made, and what runs it: one of the runtimes in run_artefact.py."""

    maker: str
    runtime: str
    file: str
    make: Callable[[str], None]
    needs: tuple[str, ...] = ()  # packages beside the framework, to make it and to run it
    channels_first: bool = False
    dynamic: bool = True  # whether batch, height and width are free

    @property
    def missing(self):
        return [package for package in self.needs if find_spec(package) is None]


def torch_export(path):
    import torch

    torch.export.save(torch_program(networks.torch_network()), path)


def torch_program(network):
    import torch

    free = dict.fromkeys(ANY, torch.export.Dim.DYNAMIC)
    return torch.export.export(network, (torch.zeros(2, 3, 20, 24),), dynamic_shapes=(free,))


def torch_onnx(path, flipped=None):
    import torch

    network, x = networks.torch_network(flipped), torch.zeros(2, 3, 20, 24)
    free = ({axis: torch.export.Dim(name) for axis, name in ANY.items()},)
    program = torch.onnx.export(
        network, (x,), input_names=["x"], dynamic_shapes=free, dynamo=True, opset_version=20, verbose=False
    )
    program.save(path)


def torch_aoti(path):
    from torch._inductor import aoti_compile_and_package

    aoti_compile_and_package(torch_program(networks.torch_network()), package_path=path)


def keras_export(format, **options):
    def make(path):
        network = networks.keras_network()
        network(networks.images(1, 20, 24, 3))  # the ONNX exporters want a model that was called
        network.export(path, format=format, verbose=False, **options)

    return make


def keras_pt2(path):
    import torch

    free = dict.fromkeys((0, 1, 2), torch.export.Dim.DYNAMIC)
    networks.keras_network().export(path, format="torch", verbose=False, dynamic_shapes=free)


def stablehlo(network):
    def make(path):
        import jax
        from jax import export

        shape = export.symbolic_shape("b, h, w, 3")
        x = jax.ShapeDtypeStruct(shape, "float32")
        Path(path).write_bytes(export.export(jax.jit(getattr(networks, network)()))(x).serialize())

    return make


def jax_onnx(network):
    def make(path):
        import jax2onnx

        shape = [2, 20, 24, 3]
        jax2onnx.to_onnx(getattr(networks, network)(), [shape], input_names=["x"], return_mode="file", output_path=path)

    return make


ONNX = ("onnxruntime",)
FROM_TORCH, FROM_TF, FROM_JAX = (*ONNX, "onnxscript"), (*ONNX, "tf2onnx"), (*ONNX, "jax2onnx")
ROUTES = {
    "torch-export": Route("torch", "torch", "a.pt2", torch_export, channels_first=True),
    "torch-onnx": Route("torch", "onnxruntime", "b.onnx", torch_onnx, FROM_TORCH, channels_first=True),
    "torch-aoti": Route("torch", "aoti", "c.pt2", torch_aoti, channels_first=True),
    "keras-tensorflow-saved_model": Route("keras-tensorflow", "tensorflow", "d", keras_export("tf_saved_model")),
    "keras-tensorflow-onnx": Route("keras-tensorflow", "onnxruntime", "e.onnx", keras_export("onnx"), FROM_TF),
    "keras-tensorflow-litert": Route(
        "keras-tensorflow", "litert", "f.tflite", keras_export("litert"), ("ai_edge_litert",)
    ),
    "keras-tensorflow-openvino": Route(
        "keras-tensorflow", "openvino", "g.xml", keras_export("openvino"), ("openvino",)
    ),
    "keras-jax-saved_model": Route("keras-jax", "tensorflow", "h", keras_export("tf_saved_model")),
    "keras-jax-onnx": Route("keras-jax", "onnxruntime", "i.onnx", keras_export("onnx"), FROM_JAX),
    "keras-torch-onnx": Route("keras-torch", "onnxruntime", "j.onnx", keras_export("onnx"), FROM_TORCH),
    "keras-torch-pt2": Route("keras-torch", "torch", "k.pt2", keras_pt2),
    "keras-torch-openvino": Route("keras-torch", "openvino", "l.xml", keras_export("openvino"), ("openvino",)),
    "linen-stablehlo": Route("flax", "jax", "m.stablehlo", stablehlo("linen_network")),
    "nnx-stablehlo": Route("flax", "jax", "n.stablehlo", stablehlo("nnx_network")),
    "linen-onnx": Route("flax", "onnxruntime", "o.onnx", jax_onnx("linen_network"), FROM_JAX, dynamic=False),
    "nnx-onnx": Route("flax", "onnxruntime", "p.onnx", jax_onnx("nnx_network"), FROM_JAX, dynamic=False),
}


def attempt(make, path):
    """Make an artefact; a failure is the route's result, and the next one is still made."""
    start = time.perf_counter()
    try:
        make(str(path))
    except Exception as failure:
        return {"raised": f"{type(failure).__name__}: {failure}", "seconds": time.perf_counter() - start}
    return {"raised": None, "seconds": time.perf_counter() - start}


def main(maker, folder):
    framework, _, backend = maker.partition("-")
    if framework == "keras":
        os.environ["KERAS_BACKEND"] = backend
    folder, results = Path(folder), {}
    for name, route in ROUTES.items():
        if route.maker == maker and not route.missing:
            results[name] = attempt(route.make, folder / route.file)
    (folder / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
