"""Bad input to surgery: one table, one body, the same exception and the same text in all four frameworks."""

import re
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest

from eca_multi.surgery.errors import NoSiteError
from tests.support.surgery_twins import TWINS

KINDS = "'residual', 'block', 'conv_norm', 'conv', 'norm', 'se', "
WHERE = re.escape(f"where must be one of {KINDS}") + "('slot', )?a list of paths or a callable. Received: where="
PATTERN = re.escape(
    "must be a regular expression, a list of paths or suffixes, or a callable (path, module). Received: "
)
SIZE = "kernel_size must be an odd positive integer. Received: kernel_size="
GATES = "gate must be 'sigmoid' or 'hard_sigmoid' or '2sigmoid', so that a plan can name it. Received: gate="
OVERRIDES = re.escape(
    "overrides must map a pattern to {'kernel_size': k, 'channel_axis': 1 or -1, 'pool_axes': axes, "
    "'causal_axis': axis}, or to some of these. Received: "
)
MATCH = "must match a site of the model. Received: 'bn9', which matches none. Near: "


@dataclass(frozen=True, eq=False)
class Bad:
    """Options for `plan_eca` and `insert_eca`, for which both raise `error` with a text that the pattern matches."""

    error: type[Exception]
    pattern: str
    options: dict[str, Any] = field(default_factory=dict)


TABLE = {
    "where-misspelt": Bad(ValueError, WHERE + r"'convs'\. Did you mean 'conv'\?", {"where": "convs"}),
    "where-unknown": Bad(ValueError, WHERE + "'everywhere'. A list names exact paths.", {"where": "everywhere"}),
    "where-type": Bad(TypeError, WHERE + "3. A list names exact paths.", {"where": 3}),
    "where-path": Bad(NoSiteError, f"where {MATCH}", {"where": ["bn9"]}),
    "where-none": Bad(NoSiteError, "must have a site for where='norm'. Received: no candidate. Try", {"where": "norm"}),
    "include-regex": Bad(
        ValueError, re.escape("include must be a valid regular expression. Received: include='('"), {"include": "("}
    ),
    "include-type": Bad(TypeError, f"include {PATTERN}include=3", {"include": 3}),
    "exclude-type": Bad(TypeError, f"exclude {PATTERN}exclude=\\[3\\]", {"exclude": [3]}),
    "include-unmatched": Bad(NoSiteError, f"include {MATCH}", {"include": "bn9"}),
    "exclude-unmatched": Bad(NoSiteError, f"exclude {MATCH}", {"exclude": ["conv", "bn9"]}),
    "min-channels-negative": Bad(
        ValueError, "min_channels must be an integer >= 0. Received: min_channels=-1. Pass 0", {"min_channels": -1}
    ),
    "min-channels-type": Bad(TypeError, "min_channels must be an integer >= 0", {"min_channels": 8.0}),
    "kernel-size-even": Bad(ValueError, f"{SIZE}4. An even kernel has no centre", {"kernel_size": 4}),
    "kernel-size-type": Bad(TypeError, f"{SIZE}3.0", {"kernel_size": 3.0}),
    "gamma": Bad(ValueError, "gamma must be a finite number > 0. Received: gamma=0.", {"gamma": 0}),
    "beta": Bad(ValueError, "beta must be a finite number >= 0. Received: beta=-1.", {"beta": -1}),
    "gate-unknown": Bad(ValueError, f"{GATES}'tanh'. For a gate of your own", {"gate": "tanh"}),
    "gate-callable": Bad(TypeError, f"{GATES}<built-in function abs>", {"gate": abs}),
    "init-unknown": Bad(ValueError, "init must be 'uniform' or 'identity'. Received: init='zeros'", {"init": "zeros"}),
    "init-identity": Bad(
        ValueError, "gate must be '2sigmoid' when init='identity'. Received: gate='sigmoid'.", {"gate": "sigmoid"}
    ),
    "overrides-type": Bad(TypeError, OVERRIDES + "3", {"overrides": 3}),
    "overrides-option": Bad(
        ValueError, OVERRIDES + "{'gate': 'sigmoid'} for 'conv'", {"overrides": {"conv": {"gate": "sigmoid"}}}
    ),
    "overrides-value-type": Bad(TypeError, OVERRIDES + "7 for 'conv'", {"overrides": {"conv": 7}}),
    "overrides-size": Bad(ValueError, f"{SIZE}4", {"overrides": {"conv": {"kernel_size": 4}}}),
    "overrides-axis": Bad(
        ValueError,
        "channel_axis must be 1 or -1, .*Received: 2 for 'conv'",
        {"overrides": {"conv": {"channel_axis": 2}}},
    ),
    "overrides-axis-type": Bad(
        TypeError, "channel_axis must be 1 or -1, .*Received: True", {"overrides": {"conv": {"channel_axis": True}}}
    ),
    "pool-axes-type": Bad(TypeError, "pool_axes must be .*Received: pool_axes='2'", {"pool_axes": "2"}),
    "pool-axes-empty": Bad(
        ValueError, r"pool_axes must be one axis or more. Received: pool_axes=\(\)", {"pool_axes": ()}
    ),
    "pool-axes-batch": Bad(ValueError, "pool_axes must be other axes than the batch axis 0", {"pool_axes": (0,)}),
    "causal-axis-type": Bad(
        TypeError, "causal_axis must be an integer or None. Received: causal_axis=2.5", {"causal_axis": 2.5}
    ),
    "causal-axis-batch": Bad(ValueError, "causal_axis must be another axis than the batch", {"causal_axis": 0}),
    "keep-causality": Bad(
        TypeError, "keep_causality must be True or False. Received: keep_causality=1", {"keep_causality": 1}
    ),
    "overrides-causal-axis": Bad(
        ValueError, "causal_axis must be another axis than the batch", {"overrides": {"conv": {"causal_axis": 0}}}
    ),
    "overrides-unmatched": Bad(NoSiteError, f"overrides {MATCH}", {"overrides": {"bn9": {"kernel_size": 3}}}),
}
KERAS = [pytest.mark.keras, pytest.mark.slow_on("jax")]
each = pytest.mark.parametrize("twin", [pytest.param(t, id=t.name, marks=KERAS * (t.name == "keras")) for t in TWINS])
rows = pytest.mark.parametrize("bad", [pytest.param(bad, id=name) for name, bad in TABLE.items()])


@cache
def plain(twin):
    """One network for all rows: bad input leaves a network as it is."""
    return twin.net()


def call(twin, verb, *arguments, **options):
    return getattr(twin.package, verb)(*twin.arguments(plain(twin)), *arguments, **options)


def given(twin, options):
    return {"where": "conv", "example_inputs": twin.x(), **options}


@each
@rows
def test_plan_and_insert(twin, bad):
    for verb in ("plan_eca", "insert_eca"):
        with pytest.raises(bad.error, match=bad.pattern):
            call(twin, verb, **given(twin, bad.options))


@each
def test_the_good_call_beside_them(twin):
    """The control: every row changes one thing of a valid call, and no row has changed the network."""
    assert call(twin, "plan_eca", **given(twin, {})).paths[-1] == "conv"


@pytest.mark.keras
@rows
def test_the_whole_text_is_the_same_everywhere(bad):
    """But for names of classes and paths, and for the kind 'slot', which torch alone has."""
    said = set()
    for twin in TWINS:
        with pytest.raises(bad.error, match=bad.pattern) as caught:
            call(twin, "plan_eca", **given(twin, bad.options))
        text = str(caught.value).replace("'slot', ", "")
        said.add(re.sub(r"^\w+ must have a site|Near: .*|Try .*", "", text))
    assert len(said) == 1, said


@each
def test_a_slot_is_torchs(twin):
    if twin.name == "torch":
        with pytest.raises(NoSiteError, match="where='slot'"):
            call(twin, "plan_eca", **given(twin, {"where": "slot"}))
        return
    with pytest.raises(ValueError, match=r"Received: where='slot'\. It fills the empty attention slots of timm"):
        call(twin, "plan_eca", **given(twin, {"where": "slot"}))


@each
def test_a_plan_stands_alone(twin):
    plan = twin.plan(plain(twin))
    text = r"plan must stand alone: it says already what is inserted\. Received: plan and gamma, gate\. Pass these to"
    with pytest.raises(ValueError, match=text):
        call(twin, "insert_eca", plan=plan, gamma=3, gate="sigmoid", example_inputs=twin.x())
    with pytest.raises(
        TypeError, match=r"plan must be an ECAPlan. Received: dict. Make it with plan_eca or ECAPlan.load"
    ):
        call(twin, "insert_eca", plan={}, example_inputs=twin.x())


@each
def test_a_proof_needs_an_input(twin):
    with pytest.raises(ValueError, match=r"verify=True must come with example_inputs\. Received: example_inputs=None"):
        call(twin, "insert_eca", "conv", verify=True)


@each
def test_a_network_without_eca(twin):
    with pytest.raises(
        NoSiteError, match=r"The network must have ECA\. Received: .* without it\. Call insert_eca first\."
    ):
        call(twin, "remove_eca")


@each
@pytest.mark.parametrize(
    ("include", "error", "pattern"),
    [
        ("bn9", NoSiteError, f"include {MATCH}conv"),
        ("(", ValueError, "include must be a valid regular expression"),
        (3, TypeError, f"include {PATTERN}include=3"),
    ],
    ids=["unmatched", "regex", "type"],
)
def test_a_removal_of_other_sites(twin, include, error, pattern):
    with pytest.raises(error, match=pattern):
        twin.package.remove_eca(*twin.arguments(with_eca(twin)), include=include)


@cache
def with_eca(twin):
    return twin.insert(twin.net())


@each
def test_a_state_that_tells_no_plan(twin):
    more = {"example_inputs": twin.x()} if twin.name == "linen" else {}
    net = plain(twin)
    model, state = twin.arguments(net)[0], twin.base_state(net)
    with pytest.raises(ValueError, match=f"{GATES}'tanh'"):
        twin.package.infer_plan(model, state, gate="tanh", **more)
    with pytest.raises(NoSiteError, match=r"state must have kernels of inserted ECAs .'<site>.*eca"):
        twin.package.infer_plan(model, state, **more)
    with pytest.raises(TypeError, match=r"state must be a mapping of names to arrays\. Received: int\."):
        twin.package.infer_plan(model, 3, **more)
