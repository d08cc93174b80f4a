"""Checkpoints in the exact formats that people have, from random weights: nothing is downloaded.

`FORMATS` is by name what writes one and how the file is called. Every writer takes canonical weights and a path.
"""

import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from eca_multi.checkpoints.identify import identify
from eca_multi.networks import find, tensors


def random_weights(arch: str, seed: int = 0, **options) -> dict[str, np.ndarray]:
    """Canonical weights of a network: finite, different in every tensor, variances above 0."""
    rng = np.random.default_rng(seed)
    listed = tensors(find(arch), **options)
    weights = {name: rng.normal(size=tensor.shape).astype(np.float32) for name, tensor in listed.items()}
    return {name: abs(array) + 0.5 if name.endswith("running_var") else array for name, array in weights.items()}


def network_of(weights, package: str, **options):
    """The package's network of these weights' kind."""
    found = identify({name: array.shape for name, array in weights.items()})
    return getattr(import_module(package), found.network.name)(**found.options, **options)


def torch_model(weights):
    """Our network in torch, with the weights."""
    from eca_multi.torch import from_canonical

    return from_canonical(network_of(weights, "eca_multi.torch"), weights)


# --- torch ---------------------------------------------------------------------------------------------------------


def original(weights, path: Path, **more) -> None:
    """What the original ECANet's main.py saves: under DataParallel, with an optimizer's state beside the weights."""
    model = torch_model(weights)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
    state = {f"module.{name}": value.clone() for name, value in model.state_dict().items()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # makes the momentum
    content = {
        "epoch": 100,
        "arch": "se_resnet50",  # what users report to stand there
        "state_dict": state,
        "best_prec1": torch.tensor(70.5),
        "optimizer": optimizer.state_dict(),
    }
    torch.save({**content, **more}, path, _use_new_zipfile_serialization=False)  # the released files are of torch 1.0


def timm_state(weights, eca: str = "se") -> dict[str, torch.Tensor]:
    """timm's names: `se.conv`, or `attn.conv` and `attn_last.conv` as in its newer networks."""
    state = torch_model(weights).state_dict()
    return {name.replace(".eca.", f".{eca}."): value.clone() for name, value in state.items()}


def timm_pth(weights, path: Path) -> None:
    torch.save(timm_state(weights), path)


def timm_attn(weights, path: Path) -> None:
    torch.save({"state_dict_ema": timm_state(weights, "attn"), "epoch": 3}, path)


def timm_attn_last(weights, path: Path) -> None:
    torch.save(timm_state(weights, "attn_last"), path)


def timm_safetensors(weights, path: Path) -> None:
    safetensors.torch.save_file(timm_state(weights), path, metadata={"format": "pt"})


def ours_torch(weights, path: Path) -> None:
    torch.save(torch_model(weights).state_dict(), path)


def lightning(weights, path: Path) -> None:
    """A trainer's file of a compiled model."""
    state = {f"model._orig_mod.{name}": value.clone() for name, value in torch_model(weights).state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3, "global_step": 5}, path)


# --- Keras ---------------------------------------------------------------------------------------------------------


def keras_model(weights):
    from eca_multi.keras import from_canonical

    return from_canonical(network_of(weights, "eca_multi.keras"), weights)


def keras_archive(weights, path: Path) -> None:
    keras_model(weights).save(path)


def keras_h5(weights, path: Path) -> None:
    keras_model(weights).save_weights(path)


def keras_trained(weights, path: Path) -> None:
    """With an optimizer's state."""
    model = keras_model(weights)
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    model.save(path)


# --- Flax ----------------------------------------------------------------------------------------------------------


def linen_variables(weights):
    import jax
    import jax.numpy as jnp

    from eca_multi.flax.linen import from_canonical

    module = network_of(weights, "eca_multi.flax.linen")
    x = jnp.zeros((1, *[32] * module.dims, module.in_channels))
    return from_canonical(jax.eval_shape(module.init, jax.random.key(0), x), weights)


def linen_msgpack(weights, path: Path) -> None:
    from flax import serialization

    path.write_bytes(serialization.to_bytes(linen_variables(weights)))


def linen_train_state(weights, path: Path) -> None:
    """As in Flax's own examples: a TrainState with batch_stats, and an optimizer's state."""
    import optax
    from flax import serialization
    from flax.training.train_state import TrainState

    class State(TrainState):
        batch_stats: object

    variables = linen_variables(weights)
    state = State.create(apply_fn=None, tx=optax.sgd(0.1, 0.9), **variables)
    path.write_bytes(serialization.to_bytes(state))


def linen_orbax(weights, path: Path) -> None:
    orbax_folder(linen_variables(weights), path)


def nnx_model(weights):
    from flax import nnx

    from eca_multi.flax.nnx import from_canonical

    return from_canonical(network_of(weights, "eca_multi.flax.nnx", rngs=nnx.Rngs(0)), weights)


def nnx_msgpack(weights, path: Path) -> None:
    from flax import nnx, serialization

    state = nnx.state(nnx_model(weights), (nnx.Param, nnx.BatchStat))
    path.write_bytes(serialization.msgpack_serialize(nnx.to_pure_dict(state)))


def nnx_orbax(weights, path: Path) -> None:
    from flax import nnx

    orbax_folder(nnx.state(nnx_model(weights), (nnx.Param, nnx.BatchStat)), path)


def orbax_folder(tree, path: Path) -> None:
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path.resolve(), tree)


# --- canonical -----------------------------------------------------------------------------------------------------


def canonical(weights, path: Path) -> None:
    from eca_multi.checkpoints import save_file

    save_file(weights, path)


@dataclass(frozen=True)
class Format:
    write: Callable[[dict[str, np.ndarray], Path], None]
    file: str
    kind: str  # what it is detected as
    slow: bool = False


FORMATS = {
    "original": Format(original, "eca_resnet18_k3577.pth.tar", "torch"),
    "timm": Format(timm_pth, "model.pth", "torch"),
    "timm-attn": Format(timm_attn, "last.pth", "torch"),
    "timm-attn-last": Format(timm_attn_last, "model.bin", "torch", slow=True),
    "timm-safetensors": Format(timm_safetensors, "model.safetensors", "safetensors"),
    "ours-torch": Format(ours_torch, "model.pt", "torch"),
    "lightning": Format(lightning, "last.ckpt", "torch", slow=True),
    "canonical": Format(canonical, "canonical.safetensors", "safetensors"),
    "keras": Format(keras_archive, "model.keras", "keras"),
    "keras-h5": Format(keras_h5, "model.weights.h5", "keras", slow=True),
    "keras-trained": Format(keras_trained, "trained.keras", "keras", slow=True),
    "linen": Format(linen_msgpack, "model.msgpack", "linen"),
    "linen-train-state": Format(linen_train_state, "state.msgpack", "linen", slow=True),
    "linen-orbax": Format(linen_orbax, "linen", "linen", slow=True),
    "nnx": Format(nnx_msgpack, "model.msgpack", "nnx", slow=True),
    "nnx-orbax": Format(nnx_orbax, "nnx", "nnx", slow=True),
}
# By framework, the endings that its target can have.
TARGETS = {
    "canonical": (".safetensors",),
    "torch": (".pth", ".pt", ".pth.tar", ".safetensors"),
    "keras": (".keras", ".weights.h5"),
    "linen": (".msgpack", ""),
    "nnx": (".msgpack", ""),
}


# --- the hub -------------------------------------------------------------------------------------------------------

TIMM_CONFIG = {
    "architecture": "ecaresnet26t",
    "num_classes": 1000,
    "num_features": 2048,
    "pretrained_cfg": {
        "tag": "ra2_in1k",
        "custom_load": False,
        "input_size": [3, 256, 256],
        "test_input_size": [3, 320, 320],
        "fixed_input_size": False,
        "interpolation": "bicubic",
        "crop_pct": 0.875,
        "test_crop_pct": 0.95,
        "crop_mode": "center",
        "mean": [0.5, 0.4, 0.3],
        "std": [0.3, 0.2, 0.1],
        "num_classes": 1000,
        "pool_size": [8, 8],
        "first_conv": "conv1.0",
        "classifier": "fc",
        "license": "apache-2.0",
    },
}


def repository(folder: Path, weights, arch: str, name: str = "model.safetensors") -> Path:
    """A folder as timm's repositories on the hub are laid out."""
    folder.mkdir(parents=True, exist_ok=True)
    (timm_safetensors if name.endswith(".safetensors") else timm_pth)(weights, folder / name)
    (folder / "config.json").write_text(json.dumps({**TIMM_CONFIG, "architecture": arch}))
    return folder


class HubServer:
    """A hub on loopback that speaks what huggingface_hub asks: HEAD and GET of `/OWNER/NAME/resolve/REVISION/FILE`.

    Args:
        repositories: Name to {revision: folder}; a branch is given by "main", commits by 40 hexadecimal digits.
    """

    def __init__(self, repositories: dict[str, dict[str, Path]], token: str | None = None) -> None:
        self.repositories, self.token = repositories, token
        self.asked: list[tuple[str, str]] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                hub.answer(self, body=False)

            def do_GET(self) -> None:
                hub.answer(self, body=True)

            def log_message(self, *args) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def answer(self, handler: BaseHTTPRequestHandler, body: bool) -> None:
        path = handler.path.split("?")[0].lstrip("/")
        self.asked.append((handler.command, path))
        name, _, rest = path.partition("/resolve/")
        revision, _, file = rest.partition("/")
        revisions = self.repositories.get(name)
        if self.token is not None and handler.headers.get("authorization") != f"Bearer {self.token}":
            return self.refuse(handler, 403, "GatedRepo")
        if revisions is None:
            return self.refuse(handler, 404, "RepoNotFound")
        if revision not in revisions:
            return self.refuse(handler, 404, "RevisionNotFound")
        place = revisions[revision] / file
        commit = next(r for r, folder in revisions.items() if len(r) == 40 and folder == revisions[revision])
        if not place.is_file():
            return self.refuse(handler, 404, "EntryNotFound", commit)
        data = place.read_bytes()
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        handler.send_header("X-Repo-Commit", commit)
        handler.end_headers()
        if body:
            handler.wfile.write(data)
        return None

    def refuse(self, handler: BaseHTTPRequestHandler, status: int, code: str, commit: str = "") -> None:
        handler.send_response(status)
        handler.send_header("X-Error-Code", code)
        if commit:
            handler.send_header("X-Repo-Commit", commit)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
