"""Places in plain words, and what `fuse` does to gates."""

import pytest

from tests.support.yolo import require_ultralytics

require_ultralytics()

import torch  # noqa: E402  (the module is skipped before)
from torch import nn  # noqa: E402
from ultralytics import YOLO  # noqa: E402
from ultralytics.nn.tasks import DetectionModel, WorldModel  # noqa: E402

from eca_multi.surgery.errors import NoSiteError, UnsupportedModelError  # noqa: E402
from eca_multi.torch import eca_parameters, installed_eca  # noqa: E402
from eca_multi.ultralytics import insert_eca, plan_eca, remove_eca, unregister  # noqa: E402

pytestmark = pytest.mark.filterwarnings("default")

YAML = {
    "nc": 2,
    "backbone": [
        [-1, 1, "Conv", [16, 3, 2]],
        [-1, 2, "C2f", [16, True]],
        [-1, 1, "Conv", [32, 3, 2]],
        [-1, 1, "SPPF", [32, 5]],
    ],
    "head": [[-1, 1, "C2f", [32]], [[1, 4], 1, "Detect", ["nc"]]],
}


@pytest.fixture(autouse=True)
def _unregistered():
    yield
    unregister()


def net(yaml=YAML):
    torch.manual_seed(0)
    return DetectionModel({key: value for key, value in yaml.items()}, verbose=False).eval()


@pytest.mark.parametrize(
    ("where", "paths"),
    [
        ("c2f", ("model.1", "model.4")),
        ("C2f in head", ("model.4",)),
        ("after SPPF", ("model.3",)),
        ("after sppf in backbone", ("model.3",)),
        ("before Detect", ("model.1", "model.4")),
        ("before SPPF", ("model.2",)),
        ("before detect in head", ("model.4",)),
        ("bottleneck in backbone", ("model.1.m.0", "model.1.m.1")),
        (["after SPPF", "model.4.cv2", "c2f in backbone"], ("model.1", "model.3", "model.4.cv2")),
        ("residual", ("model.1.m.0.cv2", "model.1.m.1.cv2")),
        (lambda path, module: path == "model.2", ("model.2",)),
    ],
)
def test_words(where, paths):
    model = net()
    before = list(model.state_dict())
    assert plan_eca(model, where).paths == paths
    assert list(model.state_dict()) == before


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("c2ff", "Did you mean 'c2f'?"),
        ("after SPPF in head", "The network has Conv, C2f"),
        ("c2f in middle", "which names no module"),
        ("before Detekt", "Did you mean 'before detect'?"),
    ],
)
def test_words_that_name_nothing(where, said):
    with pytest.raises(NoSiteError, match=r"where must be one of") as caught:
        insert_eca(net(), where)
    assert said in str(caught.value)


def test_insertion_and_removal():
    model = net()
    x = torch.rand(1, 3, 64, 64)
    before, names, yaml = model(x)[0], list(model.state_dict()), dict(model.yaml)
    assert insert_eca(model, ["c2f", "after SPPF"]) is model
    assert torch.equal(model(x)[0], before)
    assert [name for name in model.state_dict() if ".eca." not in name] == names
    for kernel in eca_parameters(model):
        nn.init.normal_(kernel)
    assert not torch.equal(model(x)[0], before)  # the control: the gates are called
    remove_eca(model, ["model.3"])
    assert installed_eca(model).paths == ("model.1", "model.4")
    remove_eca(model)
    assert torch.equal(model(x)[0], before)
    assert model.yaml == yaml


def test_a_network_that_is_built_again_has_the_gates():
    model = insert_eca(net(), ["c2f", "before Detect"], kernel_size=5)
    for kernel in eca_parameters(model):
        nn.init.normal_(kernel)
    again = DetectionModel(model.yaml, nc=7, verbose=False).eval()  # as a trainer does for other classes
    assert installed_eca(again).paths == installed_eca(model).paths == ("model.1", "model.4")
    again.load(model, verbose=False)
    for ours, theirs in zip(eca_parameters(again), eca_parameters(model), strict=True):
        assert torch.equal(ours, theirs)


def test_gates_in_a_head_of_other_channels():
    """The branch for the classes is as wide as the classes ask for; the kernels fit any width."""
    yaml = {**YAML, "head": [[-1, 1, "C2f", [256]], [[4], 1, "Detect", ["nc"]]], "nc": 80}
    model = insert_eca(net(yaml), "conv_norm", include=r"model\.5\..*")
    again = DetectionModel(model.yaml, nc=100, verbose=False)
    assert installed_eca(again).paths == installed_eca(model).paths
    channels = [{entry.channels for entry in installed_eca(one).entries} for one in (model, again)]
    assert channels[0] != channels[1]


def test_two_gates_are_refused_before_anything_is_changed():
    model = insert_eca(net(), "after SPPF")
    names = list(model.state_dict())
    with pytest.raises(ValueError, match="gate must be that of the ECAs in the network, '2sigmoid'"):
        insert_eca(model, "c2f", gate="sigmoid", init="uniform")
    assert list(model.state_dict()) == names
    with pytest.raises(ValueError, match="plan must stand alone"):
        insert_eca(model, min_channels=8, plan=plan_eca(net(), "c2f"))
    assert insert_eca(model, plan=plan_eca(net(), "c2f")) is model
    assert installed_eca(model).paths == ("model.1", "model.3", "model.4")


def test_what_is_refused():
    with pytest.raises(TypeError, match="model must be a YOLO"):
        insert_eca(nn.Sequential(nn.Conv2d(3, 8, 3)))
    with pytest.raises(UnsupportedModelError, match="WorldModel, whose trainer"):
        insert_eca(WorldModel("yolov8s-world.yaml", verbose=False))


# --- fuse -------------------------------------------------------------------------------------------------------------


def shaken(model):
    """Statistics, scales and kernels off their start, so that a gate that is lost shows."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.bias, std=0.1)
    for kernel in eca_parameters(model):
        nn.init.normal_(kernel, std=0.5)
    return model


REP = {**YAML, "backbone": [*YAML["backbone"][:3], [-1, 1, "RepNCSPELAN4", [32, 16, 16, 1]]]}


CIB = {**YAML, "backbone": [*YAML["backbone"][:3], [-1, 1, "C2fCIB", [32, True, True]]]}  # with RepVGGDW


@pytest.mark.parametrize("yaml", [YAML, REP, CIB], ids=["c2f", "repconv", "repvgg"])
@pytest.mark.parametrize("where", ["conv_norm", "residual"])
def test_fuse_keeps_every_gate(yaml, where):
    model = shaken(insert_eca(net(yaml), where))
    x = torch.rand(1, 3, 64, 64)
    expected, sites = model(x)[0], len(installed_eca(model).entries)
    fused = model.fuse(verbose=False)
    assert fused.is_fused()
    assert len(installed_eca(fused).entries) == sites
    torch.testing.assert_close(fused(x)[0], expected, rtol=1e-5, atol=1e-4)


def test_parallel_branches_have_their_reason():
    model = net(REP)
    plan = plan_eca(model, "conv_norm")
    assert len(plan.skipped) == 4
    assert all("a RepConv, whose fuse_convs merges its layers" in skip.reason for skip in plan.skipped)
    with pytest.raises(NoSiteError, match="whose fuse_convs merges its layers"):
        insert_eca(model, [skip.path for skip in plan.skipped])


def test_the_distances_of_boxes_are_no_residual_branch():
    plan = plan_eca(net(), "residual")
    assert "model.5.dfl" not in plan.paths
    assert [skip.path for skip in plan.skipped if "no convolution sets apart" in skip.reason] == ["model.5"]


def test_a_yolo_goes_on_from_the_changed_network():
    yolo = YOLO("yolov8n.yaml")
    assert insert_eca(yolo, "after SPPF") is yolo
    assert yolo.ckpt["model"] is yolo.model
