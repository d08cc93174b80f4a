"""The line `[-1, 1, ECA, []]` in a model's YAML."""

import pickle
import subprocess
import sys

import pytest

from tests.support.yolo import require_ultralytics, with_lines

require_ultralytics()

import torch  # noqa: E402  (the module is skipped before)
from ultralytics.nn import tasks  # noqa: E402

from eca_multi import eca_kernel_size  # noqa: E402
from eca_multi.torch import ECA, eca_parameters  # noqa: E402
from eca_multi.ultralytics import Loaded, load_plain, register, unregister  # noqa: E402

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(autouse=True)
def _registered():
    register()
    yield
    unregister()


def small(*lines):
    backbone = [[-1, 1, "Conv", [16, 3, 2]], *lines]
    return {"nc": 2, "backbone": backbone, "head": [[[len(backbone) - 1], 1, "Detect", ["nc"]]]}


def build(yaml):
    return tasks.DetectionModel(yaml, verbose=False)


@pytest.mark.parametrize("scale", "nsmlx")
def test_a_line_hears_its_channels_at_every_scale(scale):
    yaml = with_lines(tasks.yaml_model_load(f"yolov8{scale}.yaml"), (4, []), (9, []))
    model = build(yaml)
    for number in (5, 11):
        layer = model.model[number]
        assert isinstance(layer, ECA)
        assert layer.channels == model.model[number - 1].cv2.conv.out_channels
        assert layer.kernel_size == eca_kernel_size(layer.channels)
        assert (layer.gate, layer.init) == ("sigmoid", "uniform")
    assert yaml["backbone"][5] == [-1, 1, "ECA", []]  # the YAML stays as it was written


def test_options_of_a_line():
    model = build(small([-1, 1, "ECA", [5, {"init": "identity"}]], [-1, 1, "ECA", [{"gate": "hard_sigmoid"}]]))
    first, second = model.model[1], model.model[2]
    assert (first.kernel_size, first.init, first.gate) == (5, "identity", "2sigmoid")
    assert (second.kernel_size, second.init, second.gate) == (3, "uniform", "hard_sigmoid")
    assert len(eca_parameters(model)) == 2


def test_two_lines_in_one():
    model = build(small([-1, 2, "ECA", []]))
    assert [layer.channels for layer in model.model[1]] == [16, 16]


def test_a_classifier_has_its_kernels_before_it_is_called():
    """ultralytics runs no image through a classifier when it builds one."""
    yaml = with_lines(tasks.yaml_model_load("yolov8n-cls.yaml"), (8, []))
    assert [tuple(kernel.shape) for kernel in eca_parameters(tasks.ClassificationModel(yaml, verbose=False))] == [
        (1, 1, 5)
    ]


def test_registering_twice_and_undoing():
    register()
    unregister()
    with pytest.raises(KeyError, match="ECA"):
        build(small([-1, 1, "ECA", []]))
    assert tasks.parse_model.__module__ == "ultralytics.nn.tasks"
    unregister()
    register()
    build(small([-1, 1, "ECA", []]))


def test_another_class_of_that_name_is_kept():
    unregister()
    tasks.ECA = torch.nn.Identity
    try:
        with pytest.raises(ValueError, match="must be free in ultralytics"):
            register()
        assert tasks.ECA is torch.nn.Identity
    finally:
        del tasks.ECA


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ([[-1, 0], 1, "ECA", []], "must take one layer"),
        ([-1, 1, "ECA", [16, 3]], "The channels are not named"),
        ([-1, 1, "ECA", [4]], "kernel_size must be"),
    ],
)
def test_wrong_lines(line, said):
    with pytest.raises(ValueError, match=said):
        build(small(line))


def test_a_pickled_network_registers_when_it_is_read(tmp_path):
    path = tmp_path / "net.pkl"
    path.write_bytes(pickle.dumps(build(small([-1, 1, "ECA", []]))))
    code = (
        f"import pickle; net = pickle.load(open({str(path)!r}, 'rb'))\n"
        "from ultralytics.nn.tasks import DetectionModel\n"
        "print(DetectionModel(net.yaml, verbose=False).model[1].channels)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip().endswith("16"), done.stderr


# --- plain checkpoints ------------------------------------------------------------------------------------------------


def test_a_plain_checkpoint_moves_whole():
    plain = build("yolov8n.yaml").eval()
    model = build(with_lines(plain.yaml, (4, [{"init": "identity"}]), (9, [{"init": "identity"}]))).eval()
    shared = sum(model.state_dict().get(k, v.new_empty(0)).shape == v.shape for k, v in plain.state_dict().items())
    assert shared < 200  # what ultralytics' own load would move: the control
    assert load_plain(model, plain) == Loaded(355, 355)
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(model(x)[0], plain(x)[0])


def test_what_does_not_move_is_named():
    plain, model = build({**tasks.yaml_model_load("yolov8n.yaml"), "nc": 2}), build("yolov8n.yaml")
    model = build(with_lines(model.yaml, (9, [])))
    loaded = load_plain(model, plain)
    assert str(loaded).endswith("of 355 items moved")
    assert loaded.left
    assert all(name.startswith("model.23.cv3") for name in loaded.left)  # the classes' branch of Detect


def test_other_layers_are_refused():
    model = build(with_lines(tasks.yaml_model_load("yolov8n.yaml"), (9, [])))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="layer 2 is C2f in the model and C3k2 in the checkpoint"):
        load_plain(model, build("yolo11n.yaml"))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    with pytest.raises(TypeError, match="model must be a YOLO"):
        load_plain(torch.nn.Identity(), model)
