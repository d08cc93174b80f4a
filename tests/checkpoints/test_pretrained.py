"""from_pretrained: from a folder, and through huggingface_hub from a hub on loopback."""

import json
import subprocess
import sys
import time
from importlib import import_module

import numpy as np
import pytest
import torch

from eca_multi.checkpoints import CheckpointError
from eca_multi.checkpoints.find_files import Hub
from eca_multi.checkpoints.find_pretrained import find_pretrained
from eca_multi.networks import Preprocessing, preprocessing_of
from eca_multi.torch import eca_mobilenet_v2, from_pretrained, to_canonical
from tests.support.checkpoint_factory import HubServer, canonical, original, random_weights, repository, timm_pth

FIRST, SECOND = "1" * 40, "2" * 40
NAME = "timm/ecaresnet26t.ra2_in1k"
PREPARED = Preprocessing(320, 0.95, "bicubic", (0.5, 0.4, 0.3), (0.3, 0.2, 0.1))  # of the factory's config.json


@pytest.fixture(scope="module")
def weights():
    return [random_weights("ecaresnet26t", seed, num_classes=5) for seed in range(2)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory, weights):
    root = tmp_path_factory.mktemp("repositories")
    return [repository(root / str(i), weights[i], "ecaresnet26t") for i in range(2)]


@pytest.fixture
def hub(folders):
    server = HubServer({NAME: {FIRST: folders[0], SECOND: folders[1], "main": folders[1], "v1": folders[0]}})
    yield server
    server.close()


@pytest.fixture
def options(hub, tmp_path):
    return {"endpoint": hub.endpoint, "cache_dir": tmp_path / "cache"}


def assert_same(model, weights):
    held = to_canonical(model)
    assert set(held) == set(weights)
    assert all(np.array_equal(held[name], weights[name]) for name in weights)


# --- a folder, a file ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_folder(folders, weights):
    model = from_pretrained(folders[0])
    assert_same(model, weights[0])
    assert model.preprocessing == PREPARED
    assert model.network.name == "ecaresnet26t"
    assert_same(from_pretrained(str(folders[0])), weights[0])


FRAMEWORKS = {
    "torch": "eca_multi.torch",
    "keras": "eca_multi.keras",
    "linen": "eca_multi.flax.linen",
    "nnx": "eca_multi.flax.nnx",
}


@pytest.mark.parametrize(
    "kind",
    [
        "torch",
        pytest.param("keras", marks=[pytest.mark.keras, pytest.mark.slow_on("jax")]),
        pytest.param("linen", marks=pytest.mark.slow),
        pytest.param("nnx", marks=pytest.mark.slow),
    ],
)
def test_every_framework(kind, tmp_path):
    weights = random_weights("eca_resnet18", num_classes=5)
    folder = repository(tmp_path / "repository", weights, "eca_resnet18")
    package = import_module(FRAMEWORKS[kind])
    model = package.from_pretrained(folder, num_classes=3)
    described = model[0] if isinstance(model, tuple) else model
    assert described.preprocessing == PREPARED
    held = canonical_of(package, model)
    assert held["fc.weight"].shape == (3, 512)
    assert np.isfinite(held["fc.weight"]).all()
    assert all(np.array_equal(held[name], weights[name]) for name in weights if not name.startswith("fc."))


def canonical_of(package, model):
    """linen's network is a module and its variables."""
    return package.to_canonical(model[1] if isinstance(model, tuple) else model)


def test_the_keywords_are_the_builders_and_the_hubs():
    import inspect

    own = {
        "torch": ["device", "dtype"],
        "keras": ["dtype", "data_format", "model_name"],
        "flax.linen": ["dtype", "param_dtype", "key"],
        "flax.nnx": ["dtype", "param_dtype", "rngs"],
    }
    shared = ["name", "num_classes", "features_only", "global_pool", "drop_path"]
    hubs = ["revision", "cache_dir", "local_files_only", "token", "endpoint"]
    for framework, names in own.items():
        found = inspect.signature(import_module(f"eca_multi.{framework}").from_pretrained).parameters
        assert list(found) == [*shared, *names, *hubs]


def test_the_older_name_of_the_weights(tmp_path, weights):
    folder = repository(tmp_path, weights[0], "ecaresnet26t", "pytorch_model.bin")
    assert_same(from_pretrained(folder), weights[0])


@pytest.mark.slow
def test_one_file_without_a_config(tmp_path, weights):
    original(random_weights("eca_resnet18", num_classes=4), tmp_path / "eca_resnet18_k3577.pth.tar")
    model = from_pretrained(tmp_path / "eca_resnet18_k3577.pth.tar", dtype=torch.float64)
    assert (model.num_classes, model.preprocessing) == (4, preprocessing_of("eca_resnet18"))
    assert model.fc.weight.dtype == torch.float64
    folder = tmp_path / "ecaresnet50t.a3_in1k"
    folder.mkdir()
    canonical(random_weights("ecaresnet50t", num_classes=1), folder / "model.safetensors")
    assert find_pretrained(folder, Hub()).preprocessing == preprocessing_of("ecaresnet50t.a3_in1k")
    assert find_pretrained(folder / "model.safetensors", Hub()).preprocessing == preprocessing_of("ecaresnet50t")


def test_another_number_of_classes_keeps_the_rest(folders, weights):
    model = from_pretrained(folders[0], num_classes=3)
    held = to_canonical(model)
    assert held["fc.weight"].shape == (3, 2048)
    assert held["fc.weight"].std() < 0.1  # fresh
    assert all(np.array_equal(held[name], weights[0][name]) for name in held if not name.startswith("fc."))
    assert from_pretrained(folders[0], num_classes=0).num_classes == 0


@pytest.mark.slow
def test_features_alone(tmp_path):
    weights = random_weights("eca_mobilenet_v2", num_classes=2)
    folder = repository(tmp_path / "mobilenet", weights, "eca_mobilenet_v2")
    model = from_pretrained(folder, features_only=True)
    assert [f.shape[-1] for f in model.eval()(torch.zeros(1, 3, 32, 32))] == [16, 8, 4, 2, 1]
    assert "features.18.0.weight" not in to_canonical(model)
    assert from_pretrained(folder, global_pool=None)(torch.zeros(2, 3, 32, 32)).shape == (2, 1280, 1, 1)
    torch.save(eca_mobilenet_v2(features_only=True).state_dict(), tmp_path / "headless.pth")
    with pytest.raises(ValueError, match=r"'features\.18\.0\.weight' is missing"):
        from_pretrained(tmp_path / "headless.pth", num_classes=2)
    assert from_pretrained(tmp_path / "headless.pth", features_only=True).features_only


def test_kernel_sizes_are_the_weights(tmp_path):
    weights = random_weights("eca_resnet18", num_classes=2, kernels=[9, 3, 1, 5])
    canonical(weights, tmp_path / "model.safetensors")
    assert from_pretrained(tmp_path).kernel_sizes == (9, 9, 3, 3, 1, 1, 5, 5)


@pytest.mark.parametrize(
    ("config", "error", "match"),
    [
        ("{", CheckpointError, r"config\.json must be as timm writes it\. Received: .*Expecting"),
        ("[1]", CheckpointError, r"config\.json must be as timm writes it\. Received: .*a list"),
        ('{"pretrained_cfg": {"mean": [1]}}', CheckpointError, r"config\.json must be as timm writes it"),
        ('{"pretrained_cfg": {"input_size": 3}}', CheckpointError, r"config\.json must be as timm writes it"),
        ('{"pretrained_cfg": 3}', CheckpointError, r"config\.json must be as timm writes it"),
        (
            '{"architecture": "eca_nfnet_l0"}',
            CheckpointError,
            r"config\.json must .*arch must be the name of a network",
        ),
        (f'{{"architecture": "{"a" * 10**6}"}}', CheckpointError, r"config\.json must .{1,600}$"),
        ('{"architecture": "eca_resnet34"}', CheckpointError, r"It is of eca_resnet18\."),
    ],
)
def test_a_wrong_config(tmp_path, config, error, match):
    canonical(random_weights("eca_resnet18", num_classes=1), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(error, match=match):
        from_pretrained(tmp_path)


def test_a_flat_config_as_older_timm_wrote_it(tmp_path):
    canonical(random_weights("eca_resnet18", num_classes=1), tmp_path / "model.safetensors")
    flat = {"architecture": "eca_resnet18", "input_size": [3, 160, 160], "crop_pct": 0.9, "mean": [0.5] * 3}
    (tmp_path / "config.json").write_text(json.dumps(flat))
    found = from_pretrained(tmp_path).preprocessing
    assert (found.size, found.crop, found.interpolation, found.mean) == (160, 0.9, "bilinear", (0.5, 0.5, 0.5))


def test_what_is_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="name must be a folder that exists"):
        from_pretrained(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"name must be a folder that exists. Received: './none'"):
        from_pretrained("./none")
    with pytest.raises(FileNotFoundError, match=r"must have model\.safetensors or pytorch_model\.bin"):
        from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="name must be a folder, a file, or a repository"):
        from_pretrained("a/b/c")


# --- the hub -------------------------------------------------------------------------------------------------------


def test_it_downloads_once(hub, options, weights):
    model = from_pretrained(NAME, **options)
    assert_same(model, weights[1])
    assert model.preprocessing == PREPARED
    fetched = [path for method, path in hub.asked if method == "GET"]
    assert sorted(path.rpartition("/")[2] for path in fetched) == ["config.json", "model.safetensors"]
    hub.asked.clear()
    assert_same(from_pretrained(NAME, **options), weights[1])
    assert "GET" not in {method for method, _ in hub.asked}


@pytest.mark.slow
@pytest.mark.parametrize("revision", ["v1", FIRST])
def test_a_revision_is_held_to(options, weights, revision):
    assert_same(from_pretrained(NAME, revision=revision, **options), weights[0])


def test_all_files_are_of_one_commit(hub, options, folders, weights, monkeypatch):
    """The branch moves on between the first file and the second."""
    answer = hub.answer
    revisions = hub.repositories[NAME]

    def move(handler, body):
        answer(handler, body)
        if body:
            revisions["main"] = folders[0]

    monkeypatch.setattr(hub, "answer", move)
    assert_same(from_pretrained(NAME, **options), weights[1])


def test_without_a_network(hub, options, weights, monkeypatch):
    from_pretrained(NAME, **options)
    hub.asked.clear()
    assert_same(from_pretrained(NAME, local_files_only=True, **options), weights[1])
    assert_same(from_pretrained(NAME, local_files_only=True, revision=SECOND, **options), weights[1])
    with pytest.raises(FileNotFoundError, match="at revision 'v1' must be in the cache when nothing may be downloaded"):
        from_pretrained(NAME, local_files_only=True, revision="v1", **options)
    assert hub.asked == []
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert_same(from_pretrained(NAME, **options), weights[1])
    with pytest.raises(FileNotFoundError, match="must be in the cache when nothing may be downloaded"):
        from_pretrained("timm/none", **options)
    assert hub.asked == []


def test_the_cache_serves_when_the_hub_is_down(hub, options, weights):
    from_pretrained(NAME, **options)
    hub.close()
    assert_same(from_pretrained(NAME, **options), weights[1])


def test_a_hub_that_is_down(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # huggingface_hub tries again for a while
    with pytest.raises(ConnectionError, match="the hub cannot be reached for 'timm/none'"):
        from_pretrained("timm/none", cache_dir=tmp_path, endpoint="http://127.0.0.1:9")


def test_errors_of_the_hub(hub, options):
    with pytest.raises(FileNotFoundError, match=r"name must be a repository that exists\. Received: 'timm/none'"):
        from_pretrained("timm/none", **options)
    with pytest.raises(
        FileNotFoundError, match=r"revision must be a branch, tag or commit\. Received: .*revision 'v9'"
    ):
        from_pretrained(NAME, revision="v9", **options)


def test_a_repository_without_a_config_or_with_pickles(tmp_path, hub, options, weights):
    timm_pth(weights[0], tmp_path / "pytorch_model.bin")
    hub.repositories["me/mine"] = {FIRST: tmp_path, "main": tmp_path}
    assert_same(from_pretrained("me/mine", **options), weights[0])
    (tmp_path / "empty").mkdir()
    hub.repositories["me/empty"] = {FIRST: tmp_path / "empty", "main": tmp_path / "empty"}
    with pytest.raises(FileNotFoundError, match=r"must have model\.safetensors or pytorch_model\.bin"):
        from_pretrained("me/empty", **options)


def test_a_token(folders, tmp_path, weights):
    hub = HubServer({NAME: {FIRST: folders[0], "main": folders[0]}}, token="hf_secret")
    options = {"endpoint": hub.endpoint, "cache_dir": tmp_path}
    try:
        assert_same(from_pretrained(NAME, token="hf_secret", **options), weights[0])
        with pytest.raises(PermissionError, match="asks for its terms to be accepted"):
            from_pretrained(NAME, token=False, cache_dir=tmp_path / "other", endpoint=hub.endpoint)
    finally:
        hub.close()


def test_a_broken_download_is_refused(tmp_path, hub, options):
    (tmp_path / "model.safetensors").write_bytes(b"\x10" + bytes(40))
    hub.repositories["me/mine"] = {FIRST: tmp_path, "main": tmp_path}
    with pytest.raises(CheckpointError, match="path must name"):
        from_pretrained("me/mine", **options)


@pytest.mark.slow
def test_without_the_extra():
    code = (
        "import sys; sys.modules['huggingface_hub'] = None\n"
        "from eca_multi.torch import from_pretrained\n"
        "try:\n    from_pretrained('timm/ecaresnet26t.ra2_in1k')\n"
        "except ImportError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == (
        "from_pretrained('timm/ecaresnet26t.ra2_in1k') needs huggingface_hub, which is not installed. "
        'Run: pip install "eca-multi[hub]"'
    )
