"""The pictures of recorded gates: they show the numbers of the record, and refuse what it does not have."""

import re
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from eca_multi._page.chart import round_ticks
from eca_multi.gates import GateRecord, LayerGates, plot_gates, to_html
from eca_multi.gates import pictures as painters
from eca_multi.gates.figures import light_colours
from tests.support.gate_records import LABELS, record

COLOURS = light_colours()


def painted(paint, *content):
    figure = Figure()
    paint(figure, COLOURS, *content)
    (axes,) = figure.axes
    return axes


def lines_of(axes, colour):
    return [line.get_ydata() for line in axes.lines if line.get_color() == COLOURS[colour] and len(line.get_xdata())]


def test_each_line_is_the_mean_of_its_class():
    layer = record()["layer2.0.eca"]
    axes = painted(painters.channels, layer, LABELS)
    for number, label in enumerate(LABELS):
        (line,) = lines_of(axes, f"s{number}")
        np.testing.assert_array_equal(line, layer.classes[label].mean)
    assert not np.allclose(layer.classes["cat"].mean, layer.classes["dog"].mean)  # the control
    assert lines_of(axes, "mark") == []


def test_without_classes_the_line_is_the_mean_of_all():
    layer = record(labels=())["layer1.0.eca"]
    (line,) = lines_of(painted(painters.channels, layer), "mark")
    np.testing.assert_array_equal(line, layer.mean)


def test_a_class_that_a_layer_did_not_see_has_no_line():
    layer = record(labels=("cat",))["layer1.0.eca"]
    axes = painted(painters.channels, layer, ("dog", "cat"))
    assert (len(lines_of(axes, "s0")), len(lines_of(axes, "s1"))) == (0, 1)


def test_noise_looks_small():
    """Of an idle ECA the axis would otherwise show rounding as if it were something."""
    layer = LayerGates("a", 4, np.zeros(3))
    layer.add(0.5 + 1e-9 * np.arange(8.0).reshape(2, 4))
    low, high = painted(painters.channels, layer).get_ylim()
    assert high - low == pytest.approx(0.02)


def test_the_bars_are_the_shares_of_the_bins():
    layer = record()["layer1.0.eca"]
    bars = painted(painters.histogram, layer).patches
    shares = layer.histogram[1:-1] / layer.histogram.sum()
    at = {round(bar.get_x(), 6): bar.get_height() for bar in bars}
    for place, share in zip(np.round(np.arange(100) * 0.02, 6), shares, strict=True):
        assert at.get(place, 0.0) == pytest.approx(share)
    assert sum(bar.get_height() for bar in bars) == pytest.approx(1)


def test_the_points_are_the_weights():
    made = record()
    (weights,) = lines_of(painted(painters.kernel, made["layer1.0.eca"]), "mark")
    np.testing.assert_array_equal(weights, made["layer1.0.eca"].kernel)
    (means,) = lines_of(painted(painters.kernel, made["layer2.0.eca"]), "mark")
    np.testing.assert_array_equal(means, made["layer2.0.eca"].kernel.mean(0))


def test_depth_shows_means_and_the_distance_of_classes():
    layers = list(record().values())
    (means,) = lines_of(painted(painters.depth, layers), "mark")
    np.testing.assert_allclose(means, [layer.mean.mean() for layer in layers])
    (apart,) = lines_of(painted(painters.apart, layers), "mark")
    assert apart[0] > 0.1 > 1e-12 > apart[2]  # the last one is idle


def test_the_deviation_is_that_of_all_gates(rng):
    gates = rng.uniform(size=(50, 4)) * [1, 2, 0.5, 1]
    layer = LayerGates("a", 4, np.zeros(3))
    layer.add(gates)
    assert painters.overall_deviation(layer) == pytest.approx(gates.std())


def test_figures_are_written_as_png_and_svg(tmp_path):
    figures = plot_gates(record(), tmp_path / "out")
    assert list(figures) == ["channels", "histogram", "kernels", "depth", "classes"]
    names = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert names == sorted(f"{name}.{kind}" for name in figures for kind in ("png", "svg"))
    with Image.open(tmp_path / "out" / "channels.png") as image:
        assert image.size == (3 * 720, 2 * (34 + 28 + 36 + 264))
        assert len(image.convert("RGB").getcolors(1 << 20)) > 50
    text = (tmp_path / "out" / "channels.svg").read_text()
    assert "layer2.0.eca" in text
    assert all(label in text for label in LABELS)
    assert not re.findall(r'(?:href|src)="(?!#)|url\((?!#)', text)


@pytest.mark.slow
def test_equal_records_give_equal_bytes(tmp_path):
    for folder in ("a", "b"):
        plot_gates(record(), tmp_path / folder)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name


def test_layers_and_classes_are_chosen():
    figures = plot_gates(record(), layers=["layer3.0.eca", "layer1.0.eca"], classes=["frog"])
    texts = [text.get_text() for text in figures["channels"].findobj(match=lambda one: hasattr(one, "get_text"))]
    paths = [text for text in texts if text.startswith("layer")]
    assert paths == ["layer3.0.eca", "layer1.0.eca"]
    assert "frog" in texts
    assert "cat" not in texts


def test_gates_that_are_no_number_and_strange_names_can_be_drawn():
    made = GateRecord("torch", "Net\x1b[31m")
    made.add(LayerGates("a$b$\x1b<i>", 3, np.zeros(1)), np.array([[np.nan, 0.5, np.inf]]))
    made.add(LayerGates("one", 1, np.full(3, np.nan)), np.array([[7.0]]))
    assert set(plot_gates(made)) == {"channels", "histogram", "kernels", "depth"}


@pytest.mark.parametrize("value", [1e308, pytest.param(1e-308, marks=pytest.mark.slow), 12345678.0])
def test_any_number_of_a_file_can_be_drawn(value, tmp_path):
    made = record(channels=(4,))
    layer = made["layer1.0.eca"]
    layer.kernel = np.array([value, -value, np.nan])
    layer.all.mean = np.array([value, -value, np.nan, np.inf])
    layer.minimum, layer.maximum = layer.all.mean - 1, layer.all.mean + 1
    for moments in layer.classes.values():
        moments.mean = layer.all.mean
    assert len(plot_gates(made, tmp_path)) == 5
    assert to_html(made)


def test_ticks_are_round_and_have_a_minus_sign():
    assert round_ticks(0.0, 1.0) == {0.0: "0", 0.2: "0.2", 0.4: "0.4", 0.6: "0.6", 0.8: "0.8", 1.0: "1.0"}
    assert list(round_ticks(-1.0, 1.0).values()) == ["\u22121.0", "\u22120.5", "0", "0.5", "1.0"]
    assert list(round_ticks(0.4999, 0.5001).values()) == ["0.49990", "0.49995", "0.50000", "0.50005", "0.50010"]
    assert list(round_ticks(0, 2e7, 2).values()) == ["0", "1e+07", "2e+07"]


WRONG = [
    ({"record": {"a": 1}}, TypeError, "record must be a record of gates. Received: a dict."),
    ({"record": 3}, TypeError, "record must be a record of gates. Received: a int."),
    ({"record": GateRecord("torch")}, ValueError, "record must be of one ECA or more. Received: an empty record."),
    ({"layers": ["nowhere"]}, KeyError, "path must be that of a recorded ECA. Received: 'nowhere'."),
    ({"layers": "layer1.0.eca"}, ValueError, "layers must be a list of one path or more."),
    ({"layers": []}, ValueError, "layers must be a list of one path or more."),
    ({"classes": ["bird"]}, ValueError, "labels of the record. Received: 'bird'. It has 'cat', 'dog', 'frog'."),
    ({"classes": "cat"}, ValueError, "classes must be a list of labels. Received: 'cat'. Pass ['cat']."),
    ({"classes": ["cat"] * 7}, ValueError, "classes must be 6 labels at most. Received: 7 labels."),
    ({"formats": ["pdf"]}, ValueError, "formats must be a list of 'png' and 'svg'. Received: 'pdf'."),
    ({"formats": "png"}, ValueError, "formats must be a list of 'png' and 'svg'. Received: 'png'."),
]  # fmt: skip


@pytest.mark.parametrize(("options", "error", "message"), WRONG, ids=[str(options) for options, _, _ in WRONG])
def test_bad_input(options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        plot_gates(**({"record": record(channels=(4,))} | options))


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("eca_multi._page.find_spec", lambda name: None if name == "matplotlib" else name)
    with pytest.raises(ImportError, match=re.escape('plot_gates needs matplotlib, which is not installed. Run: pip install "eca-multi[plots]"')):  # fmt: skip  # noqa: E501  # one text
        plot_gates(record(channels=(4,)))


def test_the_room_is_imported_without_what_draws():
    code = "import eca_multi.gates, sys; print({'matplotlib', 'jinja2', 'torch', 'jax', 'keras'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
