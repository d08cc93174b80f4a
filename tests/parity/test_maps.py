"""The language of weight maps: what it writes goes there and back bit for bit, and what loses an element is refused."""

import numpy as np
import pytest

from eca_multi.parity import SpecError
from eca_multi.parity.define.map_patterns import prefixed
from eca_multi.parity.define.maps import WeightMap

EVERY_BIT = np.array([-0.0, 0.0, np.nan, np.inf, -np.inf, 1e-45, 1.5], np.float32)


def arrays(**shapes):
    """Arrays whose elements all differ, with the values that a careless copy changes among them."""
    made = {}
    for number, (name, shape) in enumerate(shapes.items()):
        values = np.arange(np.prod(shape, dtype=int), dtype=np.float32) + 1000 * number
        values[: len(EVERY_BIT)] = EVERY_BIT[: values.size]
        made[name] = values.reshape(shape)
    return made


def mapped(entries, canonical, native=None, **options):
    return WeightMap.of(entries, {name: array.shape for name, array in canonical.items()}, native, "Layer", **options)


def bits(arrays):
    return {name: (array.shape, np.ascontiguousarray(array).tobytes()) for name, array in arrays.items()}


Q = np.arange(8 * 2 * 3.0).reshape(8, 2, 3)
ROUND_TRIPS = {
    "as it is": ({"w": "w"}, {"w": (3, 4)}),
    "a scalar": ({"w": "w: -> 1"}, {"w": ()}),
    "moved": ({"w": "w: in out -> 1 out in"}, {"w": (3, 4)}),
    "capitals": ({"w": "w: NCHW -> NHWC"}, {"w": (2, 3, 4, 5)}),
    "merged": ({"w": "w: e h d -> (h d) e"}, {"w": (8, 2, 3)}),
    "split": ({"w": "w: (h d) e -> e h d, h=2"}, {"w": (6, 8)}),
    "stacked": ({"w": "q k v: e h d -> (qkv h d) e"}, {"q": (8, 2, 3), "k": (8, 2, 3), "v": (8, 2, 3)}),
    "stacked inside": ({"w": "q k v: e h d -> (h qkv d) e"}, {"q": (8, 2, 3), "k": (8, 2, 3), "v": (8, 2, 3)}),
    "picked": ({n: f"w: (qkv hd) e -> e hd, qkv=3, qkv[{i}]" for i, n in enumerate("qkv")}, {"w": (6, 8)}),
    "picked twice": (
        {f"{a}{b}": f"w: a b c -> c, a[{a}], b[{b}]" for a in range(2) for b in range(3)},
        {"w": (2, 3, 4)},
    ),
    "another order": ({"w": "w: (g u) c -> c (g u), g(i f g o -> i f o g)"}, {"w": (12, 5)}),
    "an order of stacked": (
        {"w": "i f g o: c u -> c (gate u), gate(i f g o -> i f o g)"},
        dict.fromkeys("ifgo", (5, 3)),
    ),
    "reversed": ({"w": "w: i o kh kw -> kh kw o i, flip(kh kw)"}, {"w": (4, 3, 2, 5)}),
    "joined": ({"w": "q k v: o i -> o i, cat(o)"}, {"q": (8, 3), "k": (2, 3), "v": (2, 3)}),
    "joined by heads": ({"w": "q k v: e h d -> (h d) e, cat(h)"}, {"q": (8, 4, 3), "k": (8, 1, 3), "v": (8, 1, 3)}),
    "joined in groups": (
        {"w": "q k v: (g n d) e -> (g n d) e, cat(n), g=2, d=4"},
        {"q": (24, 5), "k": (8, 5), "v": (8, 5)},
    ),
    "sliced": (
        {n: f"w: (h d) e -> e h d, d=3, h[{a}:{b}]" for n, a, b in (("q", 0, 4), ("k", 4, 5), ("v", 5, 6))},
        {"w": (18, 8)},
    ),
    "tied": ({"a": "w", "b": "w: tied", "c": "w: i o -> o i, tied"}, {"w": (3, 4)}),
    "all of it": ({"w": "a b: (g u) k -> k (two g u), flip(k), g(r z n -> z r n)"}, {"a": (6, 5), "b": (6, 5)}),
}


@pytest.mark.parametrize(("entries", "shapes"), ROUND_TRIPS.values(), ids=ROUND_TRIPS)
def test_a_map_goes_there_and_back_bit_for_bit(entries, shapes):
    canonical = arrays(**shapes)
    weight_map = mapped(entries, canonical)
    native = weight_map.to_native(canonical)
    assert bits(weight_map.to_canonical(native)) == bits(canonical)
    assert not weight_map.inexact
    again = mapped(entries, canonical, {name: array.shape for name, array in native.items()})
    assert bits(again.to_native(canonical)) == bits(native)  # with the shapes of a layer as well


def test_values_go_where_the_text_says():
    """By NumPy alone, so that a map and its inverse cannot be wrong together."""
    q, k = arrays(q=(8, 2, 3), k=(8, 2, 3)).values()
    fused = mapped({"w": "q k: e h d -> (qk h d) e"}, {"q": q, "k": k}).to_native({"q": q, "k": k})["w"]
    np.testing.assert_array_equal(fused, np.concatenate([q.reshape(8, 6).T, k.reshape(8, 6).T]))
    gates = np.arange(8.0)
    order = mapped({"b": "b: (g u) -> (g u), g(i f g o -> i f o g)"}, {"b": gates}).to_native({"b": gates})["b"]
    np.testing.assert_array_equal(order, [0, 1, 2, 3, 6, 7, 4, 5])
    flipped = mapped({"w": "w: a b -> b a, flip(b)"}, {"w": q[0]}).to_native({"w": q[0]})["w"]
    np.testing.assert_array_equal(flipped, q[0, :, ::-1].T)
    picked = mapped({f"p{i}": f"w: a b c -> c b, a[{i}]" for i in range(8)}, {"w": q}).to_native({"w": q})
    np.testing.assert_array_equal(picked["p5"], q[5].T)
    cycle = mapped({"b": "b: g -> g, g(a b c -> c a b)"}, {"b": gates[:3]}).to_native({"b": gates[:3]})["b"]
    np.testing.assert_array_equal(cycle, [2, 0, 1])  # no involution: its inverse would give 1, 2, 0


def test_parts_of_unequal_length_are_joined():
    """Grouped-query attention: four heads of q, one of k and one of v, in one matrix. By NumPy alone."""
    held = arrays(q=(8, 4, 3), k=(8, 1, 3), v=(8, 1, 3))
    fused = mapped({"w": "q k v: e h d -> (h d) e, cat(h)"}, held).to_native(held)["w"]
    np.testing.assert_array_equal(fused, np.concatenate([a.transpose(1, 2, 0).reshape(-1, 8) for a in held.values()]))
    assert fused.shape == (18, 8)
    matrix = {"w": fused}
    entries = {"q": "w: (h d) e -> e h d, d=3, h[0:4]", "kv": "w: (h d) e -> h d e, d=3, h[4:6]"}
    apart = mapped(entries, matrix).to_native(matrix)
    np.testing.assert_array_equal(apart["q"], held["q"])
    np.testing.assert_array_equal(apart["kv"], fused[12:].reshape(2, 3, 8))


def test_the_gradients_of_a_weight_that_is_kept_twice_are_added():
    canonical = {"w": np.arange(12.0).reshape(3, 4)}
    weight_map = mapped({"a": "w", "b": "w: i o -> o i, tied"}, canonical, {"a": (3, 4), "b": (4, 3)})
    native = weight_map.to_native(canonical)
    assert weight_map.remarks == ("b holds w once more: their gradients are added.",)
    gradient = weight_map.to_canonical({"a": np.ones((3, 4)), "b": np.arange(12.0).reshape(4, 3)}, gradients=True)
    np.testing.assert_array_equal(gradient["w"], 1 + np.arange(12.0).reshape(4, 3).T)
    native["b"] = np.where(native["b"] == 11, -1, native["b"])  # one of the two is another: it is not read back
    np.testing.assert_array_equal(np.argwhere(weight_map.to_canonical(native)["w"] != canonical["w"]), [[2, 3]])
    assert bits(weight_map.to_canonical(weight_map.to_native(canonical))) == bits(canonical)  # the control


def test_a_sum_gives_all_to_the_first_and_says_so():
    canonical = {"b_ih": np.array([1.0, 2, 3]), "b_hh": np.array([10.0, 20, 30])}
    entries = {"bias": "b_ih + b_hh: g -> g, g(r z n -> z r n)"}
    weight_map = mapped(entries, canonical, {"bias": (3,)})
    native = weight_map.to_native(canonical)
    np.testing.assert_array_equal(native["bias"], [22, 11, 33])
    back = weight_map.to_canonical(native)
    np.testing.assert_array_equal(back["b_ih"], [11, 22, 33])
    np.testing.assert_array_equal(back["b_hh"], 0)
    again = weight_map.to_native(back)
    np.testing.assert_array_equal(again["bias"], native["bias"])
    gradient = weight_map.to_canonical({"bias": np.array([5.0, 6, 7])}, gradients=True)
    assert [list(gradient[name]) for name in canonical] == [[6, 5, 7]] * 2
    assert weight_map.inexact == {"bias"}
    assert weight_map.remarks == (
        "bias holds the sum of b_ih and b_hh, which cannot be taken apart: read back, b_ih is the sum and b_hh zero.",
    )


def test_the_biases_of_a_gru_cell_are_partly_sums():
    """Flax adds the biases of r and z, and keeps both of n: so the map must be able to say it."""
    canonical = {"b_ih": np.arange(6.0), "b_hh": 10 * np.arange(6.0)}
    entries = {
        **{f"i{g}": f"b_ih + b_hh: (gate u) -> u, gate=3, gate[{i}]" for i, g in enumerate("rz")},
        "in": "b_ih: (gate u) -> u, gate=3, gate[2]",
        "hn": "b_hh: (gate u) -> u, gate=3, gate[2]",
    }
    native = mapped(entries, canonical).to_native(canonical)
    assert {name: list(array) for name, array in native.items()} == {
        "ir": [0, 11],
        "iz": [22, 33],
        "in": [4, 5],
        "hn": [40, 50],
    }
    back = mapped(entries, canonical).to_canonical(native)
    assert list(back["b_ih"]) == [0, 11, 22, 33, 4, 5]
    assert list(back["b_hh"]) == [0, 0, 0, 0, 40, 50]
    with pytest.raises(SpecError, match=r"each of the 6 elements of 'b_hh' once\. Received: 2 that nothing holds"):
        mapped({name: entry for name, entry in entries.items() if name != "hn"}, canonical)


def test_constants_and_what_is_left_out():
    entries = {"w": "w", "eps": "= 1e-5", "count": "= 0", "key": None}
    native = {"w": (2,), "eps": (3,), "count": (), "key": (4,)}
    weight_map = mapped(entries, {"w": np.ones(2)}, native)
    arrays = weight_map.to_native({"w": np.ones(2)})
    assert set(arrays) == {"w", "eps", "count"}
    np.testing.assert_array_equal(arrays["eps"], np.full(3, 1e-5, np.float32))
    assert arrays["count"].dtype.kind == "i"
    assert weight_map.inexact == {"eps", "count"}
    assert "eps is the constant 1e-05." in weight_map.remarks
    assert set(weight_map.to_canonical(arrays)) == {"w"}


def test_what_is_reversed_is_reported_as_such():
    assert mapped({"w": "k: h w -> h w, flip(h)"}, {"k": np.ones((2, 3))}).remarks == ("w holds k reversed along h.",)
    assert mapped({"w": "k: h w -> w h"}, {"k": np.ones((2, 3))}).remarks == ()


def test_a_weight_that_is_not_whole_is_not_made_up():
    entries = {n: f"w: (two e) -> e, two=2, two[{i}]" for i, n in enumerate("ab")}
    weight_map = mapped(entries, {"w": np.arange(4.0)})
    assert weight_map.to_canonical({"a": np.zeros(2)}) == {}
    assert weight_map.holding(["w"]) == ["a", "b"]


MATRIX, PAIR = {"w": (6, 8)}, {"q": (4, 2), "k": (4, 2)}
WRONG = {
    "an axis lost": ({"w": "w: a b -> a"}, MATRIX, "a rearrangement must be a permutation: each axis once"),
    "an axis doubled": ({"w": "w: a b -> a b b"}, MATRIX, "a rearrangement must be a permutation: each axis once"),
    "a size in it": ({"w": "w: a b -> a b 2"}, MATRIX, "axes are names, 1 and groups.* Received: '2' in 'a b 2'"),
    "open": ({"w": "w: (a b -> a b"}, MATRIX, r"axes must be names, 1 and groups in parentheses\. Received: '\(a b'"),
    "no order": (
        {"w": "w: a b -> a b, a(x y z -> x y y)"},
        MATRIX,
        r"order along 'a' must be a permutation.* 'x y z' -> 'x y y'",
    ),
    "an order of two": (
        {"w": "w: a b -> a b, a(x y -> y x)"},
        MATRIX,
        r"the axis 'a' must have the size 6 of the weight\. Received: 2",
    ),
    "an order of another axis": (
        {"w": "w: a b -> a b, c(x y -> y x)"},
        MATRIX,
        "must be about one of them. Received: 'c'",
    ),
    "a clause that says nothing": (
        {"w": "w: a b -> a b, mirror"},
        MATRIX,
        r"may come flip\(axis\), .*Received: 'mirror'",
    ),
    "no size": ({"w": "w: (a c) b -> a c b"}, MATRIX, r"the axis 'a' must have a size\. Received: none.* ', a=8'"),
    "no divisor": ({"w": "w: (a c) b -> a c b, a=4"}, MATRIX, r"the axis 'c' must have a size"),
    "a position beyond": ({"w": "w: a b -> b, a[6]"}, MATRIX, r"must be less than its size, 6\. Received: 6"),
    "a part lost": (
        {"w": "w: a b -> b, a[0]"},
        MATRIX,
        r"each of the 48 elements of 'w' once\. Received: 40 that nothing",
    ),
    "a part doubled": (
        {"v": "w: (t a) b -> a b, t=2, t[0]", "w": "w: (t a) b -> a b, t=2, t[1]", "x": "w: (t a) b -> a b, t=2, t[1]"},
        MATRIX,
        r"each of the 48 elements of 'w' once\. Received: 24 that are held twice",
    ),
    "not stacked": ({"w": "q k"}, PAIR, "several weights must be stacked along an axis"),
    "no new axis": ({"w": "q k: a b -> a b"}, PAIR, "several weights must be stacked along a new axis"),
    "a new axis for one": ({"w": "w: a b -> n a b"}, MATRIX, "a rearrangement must be a permutation: each axis once"),
    "shapes that differ": (
        {"w": "q w: a b -> (n a) b"},
        {"q": (4, 2), "w": (6, 8)},
        r"must have one shape\. Received: \(4, 2\)",
    ),
    "no number": ({"w": "w", "n": "= none"}, MATRIX, r"a constant must be a number, as in '= 0'\. Received: '= none'"),
    "a constant of a function": ({"w": "w", "n": "= 0"}, MATRIX, "must have a shape to hold a constant"),
    "joined and unlike": (
        {"w": "q w: a b -> a b, cat(a)"},
        {"q": (4, 2), "w": (6, 8)},
        r"joined along 'a' must agree along all other axes\. Received: b=2 of 'q' and b=8 of 'w'",
    ),
    "joined alone": ({"w": "w: a b -> a b, cat(a)"}, MATRIX, r"cat\(axis\) must join several weights along one axis"),
    "joined along nothing": ({"w": "q k: a b -> a b, cat(c)"}, PAIR, "must be about one of them. Received: 'c'"),
    "joined and ordered": ({"w": "q k: a b -> a b, cat(a), a(x y -> y x)"}, PAIR, "must stand alone for an axis"),
    "a slice lost": ({"w": "w: a b -> a b, a[0:4]"}, MATRIX, r"each of the 48 elements.* Received: 16 that nothing"),
    "slices that overlap": (
        {"v": "w: a b -> a b, a[0:4]", "w": "w: a b -> a b, a[3:6]"},
        MATRIX,
        r"each of the 48 elements.* Received: 8 that are held twice",
    ),
    "a slice beyond": ({"w": "w: a b -> a b, a[4:7]"}, MATRIX, r"some of its 6, .* Received: \[4:7\]"),
    "twice, not tied": (
        {"a": "w", "b": "w"},
        MATRIX,
        r"must use 'w' once\. Received: 2 times, in a, b\. Where one weight is kept in several places, write ', tied'",
    ),
    "all tied": ({"a": "w: tied", "b": "w: tied"}, MATRIX, r"'w' once without 'tied'\. Received: a, b, all tied"),
    "half a weight tied": ({"a": "w", "b": "w: a b -> a b, a[0:2], tied"}, MATRIX, "tied must be a whole one"),
    "no names": ({"w": ": a b -> b a"}, MATRIX, "an entry must name the weights that it holds"),
    "half a sum": ({"w": "q + "}, PAIR, "an entry must name the weights that it holds"),
}


@pytest.mark.parametrize(("entries", "shapes", "message"), WRONG.values(), ids=WRONG)
def test_what_loses_or_doubles_an_element_is_refused(entries, shapes, message):
    with pytest.raises(SpecError, match=message):
        mapped(entries, arrays(**shapes))


# --- names ---------------------------------------------------------------------------------------------------------

NAMES = {
    "a native name": (
        {"fc.wieght": "kernel: i o -> o i", "fc.bias": "bias"},
        r"names 'fc\.wieght', which Layer does not have: fc\.weight, fc\.bias\. Did you mean 'fc\.weight'\?$",
    ),
    "a canonical name": (
        {"fc.weight": "kernle: i o -> o i", "fc.bias": "bias"},
        r"must lead to kernel, bias\. Received: 'kernle'\. Did you mean 'kernel'\?$",
    ),
    "a pattern": (
        {"f.w{n}ght": "kernel: i o -> o i"},
        r"'f\.w\{n\}ght' .* matches none of: fc\.weight, fc\.bias\. Did you mean 'fc\.weight'\?$",
    ),
    "nothing near": (
        {"fc.weight": "zzz: i o -> o i", "fc.bias": "bias"},
        r"must lead to kernel, bias\. Received: 'zzz'\.$",
    ),
    "the wrong way round": (
        {"kernel": "fc.weight: o i -> i o", "bias": "fc.bias"},
        r"names of Layer for keys, and texts about the specification\. Received: 'kernel', .* the other way round",
    ),
    "a pattern the wrong way round": ({"{n}": "fc.{n}"}, r"Received: '\{n\}', .* Write the map the other way round"),
}


@pytest.mark.parametrize(("entries", "message"), NAMES.values(), ids=NAMES)
def test_a_misspelt_name_gets_the_nearest_and_a_turned_map_is_said_to_be_turned(entries, message):
    native, canonical = {"fc.weight": (3, 2), "fc.bias": (3,)}, {"kernel": np.ones((2, 3)), "bias": np.ones(3)}
    mapped({"fc.weight": "kernel: i o -> o i", "fc.bias": "bias"}, canonical, native)  # the control
    with pytest.raises(SpecError, match=message):
        mapped(entries, canonical, native)


# --- patterns ------------------------------------------------------------------------------------------------------

BLOCK = {
    "attn.qkv.weight": "wq wk wv: e h d -> (qkv h d) e",
    "attn.qkv.bias": "bq bk bv: h d -> (qkv h d)",
    "fc.weight": "w: i o -> o i",
    "steps": None,
}


def vit(blocks):
    """Canonical and native shapes of a network of equal blocks with a head."""
    block = {**dict.fromkeys(("wq", "wk", "wv"), (6, 2, 3)), **dict.fromkeys(("bq", "bk", "bv"), (2, 3)), "w": (6, 4)}
    own = {"attn.qkv.weight": (18, 6), "attn.qkv.bias": (18,), "fc.weight": (4, 6), "steps": ()}
    canonical = {f"block{i + 1}.{name}": shape for i in range(blocks) for name, shape in block.items()}
    native = {f"blocks.{i}.{name}": shape for i in range(blocks) for name, shape in own.items()}
    return {**canonical, "head": (6, 10)}, {**native, "head.weight": (10, 6)}


@pytest.mark.parametrize("own", [True, False], ids=["a layer", "a function"])
def test_twelve_blocks_take_as_many_lines_as_one(own):
    shapes, native = vit(12)
    canonical = arrays(**shapes)
    block = BLOCK if own else {name: text for name, text in BLOCK.items() if text}
    entries = {**prefixed(block, "blocks.{i}.", "block{i+1}."), "head.weight": "head: i o -> o i"}
    assert len(entries) == len(block) + 1
    weight_map = mapped(entries, canonical, native if own else None)
    assert len(weight_map.names) == 12 * 3 + 1
    made = weight_map.to_native(canonical)
    np.testing.assert_array_equal(made["blocks.11.fc.weight"], canonical["block12.w"].T)
    assert bits(weight_map.to_canonical(made)) == bits(canonical)


def test_a_hole_may_stand_for_all_levels_that_are_left():
    canonical = arrays(**{"a.w": (2,), "b.c.w": (3,)})
    weight_map = mapped({"model.{rest...}": "{rest}"}, canonical, {"model.a.w": (2,), "model.b.c.w": (3,)})
    assert weight_map.names == ("model.a.w", "model.b.c.w")


PATTERNS = {
    "nothing": (
        {"layers.{i}.w": "block{i}"},
        r"the pattern 'layers\.\{i\}\.w' .* must match a name\. It matches none of",
    ),
    "twice": ({"blocks.{i}.w": "block{i}", "blocks.{i}.{n}": "block{i}"}, r"'blocks\.0\.w' once.* which both match"),
    "a name twice": ({"blocks.{i}.w": "block{i}", "blocks.1.w": "block1"}, r"name 'blocks\.1\.w' once"),
    "one side": ({"blocks.{i}.w": "block{j}"}, r"must have \{j\} on both sides"),
    "no number": ({"blocks.{i}.{n}": "block{n+1}"}, r"\{n\+1\} must stand for a number\. Received: 'w'"),
    "too few": ({"blocks.{i}.w": "block0"}, r"must use 'block0' once|none to 'block1'"),
}


@pytest.mark.parametrize(("entries", "message"), PATTERNS.values(), ids=PATTERNS)
def test_a_pattern_that_matches_nothing_or_twice_is_refused(entries, message):
    native = {f"blocks.{i}.w": (2,) for i in range(2)}
    canonical = arrays(block0=(2,), block1=(2,))
    assert mapped({"blocks.{i}.w": "block{i}"}, canonical, native).names == tuple(native)
    with pytest.raises(SpecError, match=message):
        mapped(entries, canonical, native)
