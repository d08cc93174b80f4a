"""The table of networks in docs/yolo.md is true: each row is measured, and the Chinese page has the same rows."""

import re
from pathlib import Path

import pytest

from tests.support.yolo import require_ultralytics

require_ultralytics()

import torch  # noqa: E402  (the module is skipped before)
from ultralytics import RTDETR, YOLO  # noqa: E402

from eca_multi.surgery.errors import NoSiteError  # noqa: E402
from eca_multi.torch import eca_parameters, installed_eca  # noqa: E402
from eca_multi.ultralytics import insert_eca, plan_eca  # noqa: E402

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.slow]
DOCS = Path(__file__).parents[2] / "docs"
ROW = re.compile(r"^\| (\S+\.yaml) \| (\d+) \| (\d+) of (\d+) \|$", re.MULTILINE)
ROWS = ROW.findall(DOCS.joinpath("yolo.md").read_text(encoding="utf-8"))


def shaken(yaml, seed):
    """A network with statistics and scales of norms off their start, so that a lost or a second gate shows."""
    torch.manual_seed(seed)
    network = (RTDETR if yaml.startswith("rtdetr") else YOLO)(yaml).model.eval()
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and (tensor.ndim == 1 or name.endswith("running_var")):
            tensor.uniform_(0.5, 1.5)
    return network


def outputs(network, x):
    """The predictions, and the prototypes of masks with them."""
    with torch.no_grad():
        result = network(x)
    while isinstance(result[0], tuple):
        result = result[0]
    return torch.cat([tensor.flatten() for tensor in result if isinstance(tensor, torch.Tensor)])


def test_the_pages_have_the_same_rows():
    assert len(ROWS) > 10
    assert ROW.findall(DOCS.joinpath("zh/yolo.md").read_text(encoding="utf-8")) == ROWS


@pytest.mark.parametrize(("yaml", "sites", "moved", "total"), ROWS, ids=[row[0] for row in ROWS])
def test_row(yaml, sites, moved, total):
    network, other = shaken(yaml, 0), shaken(yaml, 1)
    side = 160 if yaml.startswith("rtdetr") else 64
    x, names = torch.rand(1, 3, side, side), list(network.state_dict())
    before = outputs(network, x)
    insert_eca(network)
    assert torch.equal(outputs(network, x), before)
    assert len(installed_eca(network).entries) == int(sites)
    assert [name for name in network.state_dict() if ".eca." not in name] == names

    network.load(other, verbose=False)
    state, theirs = network.state_dict(), other.state_dict()
    same = [name for name in theirs if torch.equal(state[name], theirs[name])]
    assert (len(same), len(theirs)) == (int(moved), int(total))

    for kernel in eca_parameters(network):
        torch.nn.init.normal_(kernel, 0, 0.3)
    network.double()  # fuse() rounds another way, and RT-DETR then takes its best boxes in another order
    gated = outputs(network, x.double())
    assert not torch.allclose(gated, outputs(other.double(), x.double()), rtol=1e-6, atol=1e-6)
    fused = network.fuse(verbose=False)
    assert len(installed_eca(fused).entries) == int(sites)
    torch.testing.assert_close(outputs(fused, x.double()), gated, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("yaml", ["yolov3-tiny.yaml", "yolov6n.yaml"])
def test_a_network_without_a_residual_branch_says_so(yaml):
    with pytest.raises(NoSiteError, match="conv_norm"):
        plan_eca(YOLO(yaml))
