"""Run exported artefacts by their runtime alone: `python run_artefact.py RUNTIME ARTEFACT...`.

ARTEFACT.x.npz holds its inputs, and ARTEFACT.y.npz gets what it makes of each, by the same names. A line of JSON on
standard output lists the frameworks that were loaded on the way. eca_multi cannot be imported here.
"""

import json
import sys

import numpy as np


def torch(path):
    import torch

    aoti = path.endswith("aoti.pt2")
    run = torch._inductor.aoti_load_package(path) if aoti else torch.export.load(path).module()
    return lambda x: run(torch.from_numpy(x)).detach().numpy()


def onnxruntime(path):
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {session.get_inputs()[0].name: x})[0]


def tensorflow(path):
    import tensorflow

    model = tensorflow.saved_model.load(path)
    return lambda x: model.serve(x).numpy()


def litert(path):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path)
    given, made = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def run(x):
        interpreter.resize_tensor_input(given, x.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(given, x)
        interpreter.invoke()
        return interpreter.get_tensor(made)

    return run


def openvino(path):
    import openvino

    # Without the hint a processor that has bfloat16 computes in it: errors of 1e-3.
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda x: compiled(x)[0]


def jax(path):
    from jax import export

    with open(path, "rb") as file:
        exported = export.deserialize(bytearray(file.read()))
    return lambda x: np.asarray(exported.call(x))


RUNTIMES = {run.__name__: run for run in (torch, onnxruntime, tensorflow, litert, openvino, jax)}


def main(runtime, *artefacts):
    sys.modules["eca_multi"] = None  # what imports it gets an ImportError
    for artefact in artefacts:
        run = RUNTIMES[runtime](artefact)
        with np.load(f"{artefact}.x.npz") as inputs:
            np.savez(f"{artefact}.y.npz", **{name: run(inputs[name]) for name in inputs.files})
    print(json.dumps(sorted({"torch", "tensorflow", "keras", "jax", "flax"} & set(sys.modules))))


if __name__ == "__main__":
    main(*sys.argv[1:])
