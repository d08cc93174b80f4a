"""ECA-ResNet and ECA-MobileNetV2 in torch: names, sizes, values against plain torch, and what a user does with them."""

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import eca_multi.torch as ours
from eca_multi import reference
from eca_multi.networks import NETWORKS, count_parameters, find, kernel_sizes, tensors
from eca_multi.torch import ECA, _blocks, from_canonical, to_canonical
from eca_multi.torch.networks import ECANetwork

networks = pytest.mark.parametrize("name", list(NETWORKS))
SMALL = ["eca_resnet18", "eca_mobilenet_v2", "ecaresnet26t"]


def one_by_default(names):
    return [names[0], *(pytest.param(name, marks=pytest.mark.slow) for name in names[1:])]


small = pytest.mark.parametrize("name", one_by_default(SMALL))


def build(name, **options):
    return getattr(ours, name)(**options)


def randomised(name, seed=0, **options):
    """A network whose statistics and scales differ from those of a fresh one, as in a trained network."""
    torch.manual_seed(seed)
    model = build(name, **options)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
        elif isinstance(module, ECA):
            nn.init.normal_(module.conv.weight, std=0.5)
    return model


def images(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- names and sizes ---------------------------------------------------------------------------------------------


def original_names(name):
    """The keys of the original ECANet's state dict, or of timm's with `se` for `eca`."""
    result = set()
    for canonical, tensor in tensors(find(name)).items():
        result.add(f"{tensor.module}.conv.weight" if tensor.kind == "eca" else canonical)
        if tensor.kind == "norm_var":
            result.add(f"{tensor.module}.num_batches_tracked")
    return result


@networks
def test_state_dicts_and_counts_are_the_originals(name):
    model = build(name, device="meta")
    assert isinstance(model, ECANetwork)
    assert set(model.state_dict()) == original_names(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == count_parameters(tensors(find(name)))
    assert model.kernel_sizes == kernel_sizes(find(name))
    assert model.network.name == name
    assert {n: t.shape for n, t in model.tensors.items()} == {n: t.shape for n, t in tensors(find(name)).items()}


def test_names_of_the_original_code():
    """As in research of the original repository: 336 keys and 130."""
    model = build("eca_resnet50", device="meta")
    assert len(model.state_dict()) == 336
    assert model.state_dict()["layer1.0.eca.conv.weight"].shape == (1, 1, 3)
    assert model.layer2[0].conv2.stride == (2, 2)
    assert model.layer2[0].conv1.stride == (1, 1)
    assert len(build("eca_resnet18", device="meta").state_dict()) == 130
    assert "features.2.conv.4.conv.weight" in build("eca_mobilenet_v2", device="meta").state_dict()
    assert "features.1.conv.3.conv.weight" in build("eca_mobilenet_v2", device="meta").state_dict()


@networks
def test_a_new_network_starts_as_torchvisions(name):
    """Kaiming over the fan-out, scales 1, biases 0, ECA U(-1/sqrt k, 1/sqrt k); on the smallest convolution alone."""
    model = build(name, device="meta") if name not in SMALL else build(name)
    for path, module in model.named_modules():
        if name in SMALL and isinstance(module, nn.Conv2d) and module.weight.numel() > 30_000:
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1] / module.groups
            fan_out = module.weight.shape[0] * module.weight[0, 0].numel() if module.groups == 1 else fan_out
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05), path
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.eps, module.momentum) == (1e-5, 0.1)


# --- values against plain torch -----------------------------------------------------------------------------------


def conv(w, name, x, stride=1, groups=1):
    weight = w[f"{name}.weight"]
    function = F.conv2d if x.ndim == 4 else F.conv1d
    return function(x, weight, stride=stride, padding=weight.shape[-1] // 2, groups=groups)


def norm(w, name, x, training):
    keys = ("running_mean", "running_var", "weight", "bias")
    mean, var, scale, bias = (w[f"{name}.{key}"].clone() for key in keys)
    return F.batch_norm(x, mean, var, scale, bias, training=training, eps=1e-5)


def gated(w, name, x):
    means = x.flatten(2).mean(2)
    kernel = w[f"{name}.weight"].reshape(1, 1, -1)
    gate = torch.sigmoid(F.conv1d(means[:, None], kernel, padding=kernel.shape[-1] // 2)[:, 0])
    return x * gate.reshape(*gate.shape, *[1] * (x.ndim - 2))


def oracle_resnet(w, depths, x, *, training, groups=1, basic=False, deep=False, average=False):
    """A ResNet written out from the papers; returns the feature maps and the logits."""
    if deep:
        x = norm(w, "conv1.1", conv(w, "conv1.0", x, 2), training).relu()
        x = norm(w, "conv1.4", conv(w, "conv1.3", x), training).relu()
        x = norm(w, "bn1", conv(w, "conv1.6", x), training).relu()
    else:
        x = norm(w, "bn1", conv(w, "conv1", x, 2), training).relu()
    features = [x]
    x = (F.max_pool2d if x.ndim == 4 else F.max_pool1d)(x, 3, 2, 1)
    for stage, depth in enumerate(depths):
        for i in range(depth):
            at, stride, y = f"layer{stage + 1}.{i}", 2 if stage and not i else 1, x
            if basic:
                y = norm(w, f"{at}.bn1", conv(w, f"{at}.conv1", y, stride), training).relu()
                y = norm(w, f"{at}.bn2", conv(w, f"{at}.conv2", y), training)
            else:
                y = norm(w, f"{at}.bn1", conv(w, f"{at}.conv1", y), training).relu()
                y = norm(w, f"{at}.bn2", conv(w, f"{at}.conv2", y, stride, groups), training).relu()
                y = norm(w, f"{at}.bn3", conv(w, f"{at}.conv3", y), training)
            y = gated(w, f"{at}.eca", y)
            if average and f"{at}.downsample.1.weight" in w:
                if stride == 2:  # a last odd row or column is averaged alone
                    pad = [0, x.shape[-1] % 2, 0, x.shape[-2] % 2]
                    ones = F.avg_pool2d(F.pad(torch.ones_like(x), pad), 2)
                    x = F.avg_pool2d(F.pad(x, pad), 2) / ones
                x = norm(w, f"{at}.downsample.2", conv(w, f"{at}.downsample.1", x), training)
            elif f"{at}.downsample.0.weight" in w:
                x = norm(w, f"{at}.downsample.1", conv(w, f"{at}.downsample.0", x, stride), training)
            x = (x + y).relu()
        features.append(x)
    return features, F.linear(x.flatten(2).mean(2), w["fc.weight"], w["fc.bias"])


def oracle_mobilenet(w, x, *, training):
    settings = [
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ]
    x = F.relu6(norm(w, "features.0.1", conv(w, "features.0.0", x, 2), training))
    features, number = [], 0
    for t, c, n, s in settings:
        for i in range(n):
            number += 1
            at, y, stride, j = f"features.{number}.conv", x, s if i == 0 else 1, 0
            if stride == 2:
                features.append(x)
            if t != 1:
                y, j = F.relu6(norm(w, f"{at}.0.1", conv(w, f"{at}.0.0", y), training)), 1
            y = conv(w, f"{at}.{j}.0", y, stride, groups=y.shape[1])
            y = F.relu6(norm(w, f"{at}.{j}.1", y, training))
            y = norm(w, f"{at}.{j + 2}", conv(w, f"{at}.{j + 1}", y), training)
            y = gated(w, f"{at}.{j + 3}", y)
            x = x + y if stride == 1 and x.shape[1] == c else y
    features.append(x)
    x = F.relu6(norm(w, "features.18.1", conv(w, "features.18.0", x), training))
    return features, F.linear(x.flatten(2).mean(2), w["classifier.1.weight"], w["classifier.1.bias"])


ORACLES = {
    "eca_resnet18": lambda w, x, t: oracle_resnet(w, (2, 2, 2, 2), x, training=t, basic=True),
    "eca_resnet50": lambda w, x, t: oracle_resnet(w, (3, 4, 6, 3), x, training=t),
    "eca_mobilenet_v2": lambda w, x, t: oracle_mobilenet(w, x, training=t),
    "ecaresnet26t": lambda w, x, t: oracle_resnet(w, (2, 2, 2, 2), x, training=t, deep=True, average=True),
    "ecaresnetlight": lambda w, x, t: oracle_resnet(w, (1, 1, 11, 3), x, training=t, average=True),
    "ecaresnext26t_32x4d": lambda w, x, t: oracle_resnet(
        w, (2, 2, 2, 2), x, training=t, deep=True, average=True, groups=32
    ),
}


def native(model):
    """Canonical weights as torch tensors in the model's dtype."""
    return {name: torch.from_numpy(array) for name, array in to_canonical(model).items()}


def close(a, b):
    return torch.allclose(a, b, rtol=1e-9, atol=1e-9 * b.abs().max().item())


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("name", one_by_default(list(ORACLES)))
def test_outputs_are_the_oracles(name, training):
    """In float64, where what remains is rounding; at 75 x 61 all stages have odd extents somewhere."""
    model = randomised(name, num_classes=7, dtype=torch.float64).train(training)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    x = images(2, 3, 75, 61).double()
    features, logits = ORACLES[name](native(model), x, training)
    with torch.no_grad():
        assert close(model(x), logits)
        whole = build(name, features_only=True, dtype=torch.float64).train(training)
        backbone = {key: value for key, value in model.state_dict().items() if key in whole.state_dict()}
        whole.load_state_dict(backbone)
        found = whole(x)
    assert [tuple(f.shape) for f in found] == [tuple(f.shape) for f in features]
    assert all(close(a, b) for a, b in zip(found, features, strict=True))
    strides = [feature.stride for feature in find(name).features]
    assert [tuple(f.shape[2:]) for f in found] == [tuple(-(-n // s) for n in (75, 61)) for s in strides]
    assert [f.shape[1] for f in found] == [feature.channels for feature in find(name).features]


def test_the_gate_counts():
    """The comparison above would see a gate that is missing."""
    model = randomised("eca_resnet18", num_classes=7, dtype=torch.float64).eval()
    weights = native(model)
    x = images(2, 3, 40, 40).double()
    changed = {name: value * 0 if name == "layer1.0.eca.weight" else value for name, value in weights.items()}
    right, wrong = (ORACLES["eca_resnet18"](w, x, False)[1] for w in (weights, changed))
    assert close(model(x), right)
    assert not close(model(x), wrong)


def test_the_gate_is_the_references():
    """The oracle's gate is that of the NumPy reference."""
    x, kernel = np.random.default_rng(0).normal(size=(2, 6, 3, 4)), np.array([0.3, -0.2, 0.5])
    ours = gated({"eca.weight": torch.from_numpy(kernel)}, "eca", torch.from_numpy(x))
    np.testing.assert_allclose(ours.numpy(), reference.forward(x, kernel, channel_axis=1).y, rtol=1e-12)


# --- keywords ------------------------------------------------------------------------------------------------------


@small
def test_pools_and_classifiers(name):
    width = find(name).width
    x = images(2, 3, 64, 64)
    model = randomised(name).eval()
    state = {key: value for key, value in model.state_dict().items() if not key.startswith(("fc.", "classifier."))}

    def run(**options):
        changed = build(name, **options).eval()
        changed.load_state_dict(state)
        with torch.no_grad():
            return changed(x)

    whole = run(global_pool=None)
    assert whole.shape == (2, width, 2, 2)
    assert torch.allclose(run(num_classes=0), whole.mean((2, 3)), atol=1e-5)
    assert torch.equal(run(num_classes=0, global_pool="max"), whole.amax((2, 3)))
    assert build(name, num_classes=5, global_pool="max").eval()(x).shape == (2, 5)


@small
def test_signals(name):
    model = randomised(name, dims=1, in_channels=2, num_classes=4, dtype=torch.float64).eval()
    assert {n: t.shape for n, t in model.tensors.items()} == {n: tuple(a.shape) for n, a in to_canonical(model).items()}
    for length in (1, 50, 101):
        assert model(images(2, 2, length).double()).shape == (2, 4)
    if name == "eca_resnet18":
        x = images(2, 2, 101).double()
        assert close(model(x), ORACLES[name](native(model), x, False)[1])


@small
def test_kernel_sizes_can_be_given(name):
    stages = len(find(name).depths)
    model = build(name, kernel_sizes=[9] * stages, device="meta")
    assert set(model.kernel_sizes) == {9}
    assert build(name, kernel_sizes="adaptive", device="meta").kernel_sizes == kernel_sizes(find(name), "adaptive")


def test_drop_path():
    """Off in inference; in training a sample's branch is dropped or scaled, more often the deeper it lies."""
    torch.manual_seed(0)
    model = build("eca_resnet18", drop_path=0.5, num_classes=3)
    rates = [block.drop_path.rate for stage in range(4) for block in getattr(model, f"layer{stage + 1}")]
    assert rates == pytest.approx([i * 0.5 / 7 for i in range(8)])
    drop = model.layer4[1].drop_path
    x = torch.ones(4000, 2, 1, 1)
    y = drop.train()(x)
    assert set(y.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(y[:, 0], y[:, 1])
    assert y.mean().item() == pytest.approx(1, abs=0.1)
    assert drop.eval()(x) is x
    plain = build("eca_resnet18", num_classes=3)
    plain.load_state_dict(model.state_dict())
    x = images(2, 3, 32, 32)
    assert torch.equal(model.eval()(x), plain.eval()(x))


def added_apart(eca, drop_path, branch, shortcut):
    return drop_path(eca(branch)) + shortcut


def test_the_shortcut_is_added_in_the_gates_pass(monkeypatch):
    """Values and gradients are those of a separate add, which this test replaces."""
    model, x = randomised("eca_resnet18", num_classes=3).double(), images(2, 3, 40, 40).double()

    def run():
        model.zero_grad()
        y = model(x)
        y.square().sum().backward()
        return y.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}

    gates = []
    whole = ECA.forward
    monkeypatch.setattr(ECA, "forward", lambda *args, **more: gates.append(set(more)) or whole(*args, **more))
    found = run()
    assert gates == [{"residual"}] * 8
    monkeypatch.setattr(_blocks, "gated_sum", added_apart)
    torch.testing.assert_close(found, run(), rtol=1e-9, atol=1e-9)
    assert gates[8:] == [set()] * 8


class Halving(ECA):
    """A user's layer, which knows no residual."""

    def forward(self, x):
        return x / 2


@pytest.mark.parametrize("layer", [nn.Identity(), Halving(64)], ids=["another layer", "a subclass"])
def test_another_layer_in_the_place_of_eca(layer, monkeypatch):
    model, x = randomised("eca_resnet18", num_classes=3).eval(), images(2, 3, 40, 40)
    block = model.layer1[0]
    before, block.eca = model(x), layer
    after = model(x)
    monkeypatch.setattr(_blocks, "gated_sum", added_apart)
    assert torch.equal(after, model(x))
    assert not torch.allclose(after, before)


def test_a_branch_of_another_dtype_than_the_shortcut():
    """Under autocast the branch is in bfloat16, and the shortcut may be in float32."""
    model, x = randomised("eca_resnet18", num_classes=3), images(2, 3, 40, 40)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = model(x)
    y.sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    # Eight blocks, each rounded to eight bits.
    torch.testing.assert_close(y.float(), model(x), rtol=0.1, atol=0.1 * y.abs().max().item())


def test_dtype_and_device():
    model = build("eca_resnet18", dtype=torch.bfloat16, num_classes=2)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.eval()(images(1, 3, 32, 32).bfloat16()).dtype == torch.bfloat16


def test_preprocessing_is_attached():
    assert build("eca_resnet50", device="meta").preprocessing.size == 224
    assert build("ecaresnet50d", device="meta").preprocessing.interpolation == "bicubic"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_classes": -1}, ValueError, "num_classes must be a positive integer"),
        ({"num_classes": 2.0}, TypeError, "num_classes must be a positive integer"),
        ({"in_channels": 0}, ValueError, "in_channels must be a positive integer"),
        ({"global_pool": "gem"}, ValueError, "global_pool must be 'avg', 'max' or None. Received: global_pool='gem'"),
        ({"drop_path": 1.0}, ValueError, "drop_path must be in [0, 1). Received: drop_path=1.0"),
        ({"drop_path": "0.1"}, TypeError, "drop_path must be a number in [0, 1). Received: drop_path='0.1'"),
        ({"dims": 3}, ValueError, "dims must be 1 or 2. Received: dims=3"),
        ({"kernel_sizes": [3, 5, 5]}, ValueError, "must have 4 entries (one per stage) or 8 (one per ECA)"),
        ({"kernel_sizes": [3, 5, 6, 7]}, ValueError, "kernel_sizes[2] must be an odd positive integer"),
        ({"kernel_sizes": "paper"}, ValueError, "kernel_sizes must be 'published', 'adaptive' or a list"),
    ],
)
def test_bad_keywords(options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        build("eca_resnet18", device="meta", **options)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 64, 64), "x must be of shape (N, C, H, W) with 3 channels. Received: rank 3, shape (3, 64, 64)."),
        ((2, 64, 64, 3), "Received: 64 channels, shape (2, 64, 64, 3)."),
        ((2, 3, 4, 64, 64), "Received: rank 5, shape (2, 3, 4, 64, 64). Add or remove axes."),
    ],
)
def test_bad_inputs(shape, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        build("eca_resnet18", device="meta")(torch.empty(shape, device="meta"))


# --- use -----------------------------------------------------------------------------------------------------------


@small
def test_a_training_step_reaches_every_parameter(name):
    torch.manual_seed(0)
    model = build(name, num_classes=3)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    loss = F.cross_entropy(model(images(4, 3, 64, 64)), torch.tensor([0, 1, 2, 0]))
    loss.backward()
    still = [path for path, parameter in model.named_parameters() if not parameter.grad.abs().sum() > 0]
    assert not still
    optimizer.step()
    after = model.state_dict()
    assert all(not torch.equal(before[key], after[key]) for key in before)


@small
def test_canonical_weights_go_around(name):
    model = randomised(name, num_classes=3)
    weights = to_canonical(model)
    other = from_canonical(build(name, num_classes=3), weights)
    changed = [key for key, value in model.state_dict().items() if not torch.equal(value, other.state_dict()[key])]
    assert not [key for key in changed if "num_batches_tracked" not in key]
    again = to_canonical(other.state_dict())
    assert list(again) == list(weights)
    assert all(np.array_equal(again[key], weights[key]) for key in weights)
    assert {key: array.shape for key, array in weights.items()} == {k: t.shape for k, t in model.tensors.items()}


def test_canonical_weights_are_a_copy():
    model = build("eca_resnet18", num_classes=3)
    weights = to_canonical(model)
    weights["fc.bias"][:] = 7
    assert not (model.fc.bias == 7).any()


def test_state_dicts_of_the_original_and_of_timm():
    """`module.` before every name, timm's `se`; a new state dict has the names, dtypes and counters of the old one."""
    model = randomised("eca_resnet18", num_classes=3)
    weights = to_canonical(model)
    state = {f"module.{key.replace('.eca.', '.se.')}": value for key, value in model.state_dict().items()}
    assert all(np.array_equal(weights[key], array) for key, array in to_canonical(state).items())
    zeros = {key: torch.zeros_like(value) for key, value in state.items()}
    loaded = from_canonical(zeros, weights)
    assert list(loaded) == list(state)
    assert all(torch.equal(loaded[key], value) for key, value in state.items() if "num_batches" not in key)
    assert not any(value.any() for value in zeros.values())


def test_weights_that_do_not_fit_change_nothing():
    model = build("eca_resnet18", num_classes=3)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    weights = to_canonical(model)
    weights["surplus"] = weights.pop("bn1.bias")
    weights["fc.weight"] = weights["fc.weight"][:2]
    weights["layer1.0.conv1.weight"] = weights["layer1.0.conv1.weight"] * np.nan
    for name in (
        "'bn1.bias' is missing",
        "'surplus' is unexpected",
        "'fc.weight' has shape (2, 512), expected (3, 512)",
    ):
        with pytest.raises(ValueError, match=re.escape(name)):
            from_canonical(model, weights)
    with pytest.raises(ValueError, match=r"'layer1\.0\.conv1\.weight' is not finite"):
        from_canonical(model, weights)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_half_precision_refuses_what_it_cannot_hold():
    weights = to_canonical(build("eca_resnet18", num_classes=3))
    weights["fc.bias"][0] = 1e6
    with pytest.raises(ValueError, match=r"'fc\.bias' is too large for float16"):
        from_canonical(build("eca_resnet18", num_classes=3, dtype=torch.float16), weights)


def test_meta_networks_have_no_weights():
    with pytest.raises(ValueError, match="a network on the meta device, which has none yet"):
        to_canonical(build("eca_resnet18", device="meta"))


@small
def test_torch_fx_traces(name):
    model = randomised(name, num_classes=3).eval()
    x = images(2, 3, 64, 64)
    graph = torch.fx.symbolic_trace(model)
    assert torch.equal(graph(x), model(x))
    with pytest.raises(ValueError, match="x must be of shape"):
        graph(x[0])


def test_autocast_and_channels_last():
    model = randomised("eca_resnet18", num_classes=3).eval()
    x = images(2, 3, 64, 64)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert model(x).dtype == torch.bfloat16
    with torch.no_grad():
        torch.testing.assert_close(model(x.to(memory_format=torch.channels_last)), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@small
def test_exports_with_any_size(name):
    model = randomised(name, num_classes=3).eval()
    dynamic = torch.export.Dim.DYNAMIC
    program = torch.export.export(
        model, (images(2, 3, 64, 64),), dynamic_shapes=({0: dynamic, 2: dynamic, 3: dynamic},)
    )
    x = images(3, 3, 75, 61)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(x), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@small
def test_compiles_as_one_graph(name):
    model = randomised(name, num_classes=3).eval()
    x = images(2, 3, 64, 64)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_features_compile_too():
    model = randomised("eca_resnet18", features_only=True).eval()
    x = images(1, 3, 64, 64)
    with torch.no_grad():
        found = torch.compile(model, fullgraph=True, backend="aot_eager")(x)
        assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(found, model(x), strict=True))
