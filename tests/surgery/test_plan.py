"""The plan of a surgery: what is chosen, what is said of the rest, the record on paper. No framework is needed."""

import json
import re
from dataclasses import asdict, fields, replace

import numpy as np
import pytest

from eca_multi.reference import forward
from eca_multi.surgery.candidate import HAS_ECA, Candidate
from eca_multi.surgery.causality import Evidence
from eca_multi.surgery.choose import choose
from eca_multi.surgery.entry import ECAEntry, Skipped
from eca_multi.surgery.errors import ChannelInferenceError, NoSiteError, PlanMismatchError, VerifyError
from eca_multi.surgery.patterns import matches
from eca_multi.surgery.plan import ECAPlan
from eca_multi.surgery.reasons import PARALLEL
from eca_multi.surgery.replay import replay
from eca_multi.surgery.request import Request
from eca_multi.surgery.verify import check_verified, differences, probe


def sites(*stages):
    """The last norms of a ResNet: (name, blocks, channels) each."""
    return [
        Candidate(
            f"{stage}.{block}.bn3",
            module_type="BatchNorm2d",
            channels=channels,
            tensor=f"{stage}.{block}: residual branch of the add",
        )
        for stage, blocks, channels in stages
        for block in range(blocks)
    ]


RESNET = sites(("layer1", 3, 256), ("layer2", 4, 512), ("layer3", 6, 1024), ("layer4", 3, 2048))


def plan(candidates=RESNET, where="residual", offers=dict, **options):
    return choose(Request("torch", where, **options), "ResNet", candidates, model_parameters=1000, offers=offers)


# --- what is chosen --------------------------------------------------------------------------------------------------


def test_all_candidates_get_the_rules_kernel():
    made = plan()
    assert [entry.kernel_size for entry in made.entries] == [5] * 13 + [7] * 3
    assert made.parameters == 86
    assert made.keeps_output
    assert made.skipped == ()


@pytest.mark.parametrize(
    ("options", "taken"),
    [
        ({"include": r"layer4\..*"}, ["layer4.0.bn3", "layer4.1.bn3", "layer4.2.bn3"]),
        ({"include": ["1.bn3"], "exclude": r"layer[12].*"}, ["layer3.1.bn3", "layer4.1.bn3"]),
        ({"include": lambda path, module: path.endswith("5.bn3")}, ["layer3.5.bn3"]),
        ({"min_channels": 2048}, ["layer4.0.bn3", "layer4.1.bn3", "layer4.2.bn3"]),
        ({"where": ["layer2.3.bn3", "layer1.0.bn3"]}, ["layer1.0.bn3", "layer2.3.bn3"]),
        ({"where": lambda path, module: "layer4.2" in path}, ["layer4.2.bn3"]),
    ],
    ids=["regular expression", "suffix and exclude", "callable", "min_channels", "paths", "callable where"],
)
def test_what_is_asked_for_is_taken(options, taken):
    assert list(plan(**options).paths) == taken


def test_a_suffix_ends_at_a_dot():
    assert matches(["bn3"], RESNET[0])
    assert not matches(["n3"], RESNET[0])
    assert matches(["BatchNorm_1"], Candidate("block/BatchNorm_1"))


def test_a_regular_expression_is_for_the_whole_path():
    assert not matches("layer1", RESNET[0])


def test_an_alias_names_the_site_too():
    shared = replace(RESNET[0], aliases=("head.norm",))
    assert plan([shared, *RESNET[1:]], where=["head.norm"]).paths == ("layer1.0.bn3",)


ALIASED = [replace(RESNET[0], aliases=("head.norm", "shared/norm")), *RESNET[1:]]


@pytest.mark.parametrize(
    "pattern",
    [r"head\..*", ["head.norm"], ["norm"], lambda path, module: path == "shared/norm"],
    ids=["regular expression", "path", "suffix", "callable"],
)
@pytest.mark.parametrize("option", ["include", "exclude"])
def test_a_pattern_matches_an_alias(option, pattern):
    """A shared module has several paths, and its author may write any of them."""
    made = plan(ALIASED, **{option: pattern})
    matched, others = ["layer1.0.bn3"], [c.path for c in RESNET[1:]]
    assert list(made.paths) == (matched if option == "include" else others)


def test_an_override_matches_an_alias():
    made = plan(ALIASED, overrides={r"head\.norm": {"kernel_size": 9}})
    assert [entry.kernel_size for entry in made.entries[:2]] == [9, 5]


def test_every_candidate_is_an_entry_or_skipped_with_a_reason():
    made = plan(exclude="layer1.*", min_channels=1024)
    assert {*made.paths, *(one.path for one in made.skipped)} == {c.path for c in RESNET}
    assert made.skipped[0] == Skipped("layer1.0.bn3", "in exclude")
    assert made.skipped[3] == Skipped("layer2.0.bn3", "512 channels, fewer than min_channels=1024")


@pytest.mark.parametrize("given", [{"kernel_size": 9}, {"overrides": {r"layer4\..*": {"kernel_size": 9}}}])
def test_a_given_kernel_size_wins_over_the_rule(given):
    made = plan(**given)
    assert made.entries[-1].kernel_size == made.entries[-1].parameters == 9
    assert made.entries[0].kernel_size == given.get("kernel_size", 5)


def test_a_site_that_has_eca_is_no_error():
    made = plan([replace(c, reason=HAS_ECA) for c in RESNET])
    assert made.entries == ()
    assert {one.reason for one in made.skipped} == {HAS_ECA}


def test_another_start_says_that_outputs_change():
    made = plan(gate="sigmoid", init="uniform")
    assert not made.keeps_output
    assert "outputs will change" in made.notes[0]
    assert "outputs WILL CHANGE" in str(made)


# --- over which axes -------------------------------------------------------------------------------------------------

VIDEO = [
    replace(RESNET[0], shape=(1, 256, 9, 8, 7)),
    replace(RESNET[1], layout="channels_last", shape=(1, 9, 8, 7, 256)),
]


def axes(made):
    return [(entry.pool_axes, entry.causal_axis) for entry in made.entries]


def test_the_axes_stand_in_the_layout_of_each_site():
    """They count in (N, C, *S) for torch: axis 2 of (N, C, T, H, W) is axis 1 of (N, T, H, W, C)."""
    assert axes(plan(VIDEO, causal_axis=2)) == [(None, 2), (None, 1)]
    assert axes(plan(VIDEO, pool_axes=(-2, -1))) == [((-2, -1), None), ((-3, -2), None)]
    assert axes(plan(VIDEO, pool_axes=3)) == [((3,), None), ((2,), None)]
    options = {"layer1.0.bn3": {"causal_axis": 2}}
    assert axes(plan(VIDEO, overrides=options)) == [(None, 2), (None, None)]
    assert "(mean over 3, 4)" in str(plan(VIDEO, pool_axes=(3, 4)))
    assert "(causal along 2)" in str(plan(VIDEO, causal_axis=2))


def test_a_site_without_such_an_axis_is_named():
    text = r"causal_axis must be in \[-5, 5\) for rank 5.*\(N, C, \*S\); 'layer1.0.bn3' has rank 5.*overrides="
    with pytest.raises(ValueError, match=text):
        plan(VIDEO, causal_axis=5)


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"include": r"leyer4\..*"}, r"include must match a site of the model.*which matches none. Near: layer4"),
        ({"exclude": ["bn3", "bn9"]}, "exclude must match a site of the model. Received: 'bn9'"),
        ({"overrides": {"bn9": {"kernel_size": 3}}}, "overrides must match a site"),
        ({"where": ["layer1.0.bn4"]}, "where must match a site.*Near: layer1.0.bn3"),
        ({"include": lambda path, module: False}, "include must match a site of the model. Received: 'the callable'"),
    ],
)
def test_a_pattern_that_matches_nothing_raises(options, message):
    with pytest.raises(NoSiteError, match=message):
        plan(**options)


def test_nothing_to_gate_says_what_else_there_is():
    with pytest.raises(NoSiteError, match=r"ResNet must have a site for where='residual'.*where='conv' \(53 sites\)"):
        plan([], offers=lambda: {"conv": 53, "se": 0})


def test_unknown_channels_ask_for_an_input_or_a_size():
    unknown = [Candidate("norm", module_type="LazyBatchNorm2d")]
    with pytest.raises(
        ChannelInferenceError, match=r"channels at 'norm' .LazyBatchNorm2d. must be known.*example_inputs"
    ):
        plan(unknown)
    assert plan(unknown, kernel_size=3).entries[0].kernel_size == 3


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"where": "residuals"}, ValueError, "Did you mean 'residual'"),
        ({"where": 3}, TypeError, "where must be one of"),
        ({"include": "("}, ValueError, "include must be a valid regular expression"),
        ({"include": 3}, TypeError, "include must be a regular expression, a list"),
        ({"kernel_size": 4}, ValueError, "kernel_size must be an odd positive integer"),
        ({"gate": "sigmoid"}, ValueError, "gate must be '2sigmoid' when init='identity'"),
        ({"gate": "tanh"}, ValueError, "so that a plan can name it"),
        ({"gate": abs}, TypeError, "so that a plan can name it"),
        ({"gamma": 0}, ValueError, "gamma must be"),
        ({"overrides": {"a": {"gate": "sigmoid"}}}, ValueError, "overrides must map a pattern"),
    ],
)
def test_invalid_arguments(options, error, message):
    with pytest.raises(error, match=message):
        Request("torch", **options)


# --- the record ------------------------------------------------------------------------------------------------------


def test_json_there_and_back(tmp_path):
    made = plan([replace(RESNET[3], calls=2), *RESNET[4:]])
    assert asdict(ECAPlan.from_json(made.to_json())) == asdict(made)
    made.save(tmp_path / "plan.json")
    assert asdict(ECAPlan.load(tmp_path / "plan.json")) == asdict(made)
    assert made.entries[0].calls == 2


def test_json_keeps_every_field():
    """Each field differs from its default here, so that none can be lost unseen."""
    entry = ECAEntry(
        path="stem.norm",
        action="before_add",
        module_type="BatchNorm2d",
        tensor="stem: residual branch of the add",
        channels=12,
        layout="channels_last",
        kernel_size=5,
        parameters=60,
        into="add",
        aliases=("head.norm", "shared"),
        calls=3,
        keeps_output=False,
        notes=("before the layer scale", "the kernel is wider than the channels it sees"),
        pool_axes=(1, 2),
        causal_axis=1,
    )
    made = ECAPlan(
        "linen",
        "Net",
        where="norm",
        gate="sigmoid",
        init="uniform",
        gamma=3,
        beta=2.5,
        keep_causality=False,
        evidence=(Evidence("causal", 0, 3, ("stem.norm",), "Conv(padding='CAUSAL') at stem"),),
        entries=(entry, replace(entry, path="other", notes=())),
        skipped=(Skipped("layer1.0.bn2", "in exclude"),),
        model_parameters=1000,
        notes=("outputs will change", "one function could not be traced"),
        package="0.1",
    )
    default = ECAPlan("torch", "")
    for part, plain in ((entry, ECAEntry("")), (made, default)):
        for field in fields(part):
            if field.name != "schema":  # which has one value
                assert getattr(part, field.name) != getattr(plain, field.name), field.name
    back = ECAPlan.from_json(made.to_json())
    assert asdict(back) == asdict(made)
    assert back.entries[0].notes == entry.notes
    assert back.notes == made.notes


SHOWN = {"how": "causal", "place": 0, "rank": 3, "sites": ["a"], "source": "Chomp1d at b"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data["entries"][0].update(kernel_size="3"), "kernel_size of 'layer1.0.bn3' is '3'"),
        (lambda data: data.update(schema=0), "schema 0"),
        (lambda data: data.update(colour="red"), "colour"),
        (lambda data: data["entries"][0].update(channels="many"), "channels of 'layer1.0.bn3' is 'many'"),
        (lambda data: data["entries"][0].update(action="glue"), "'glue'"),
        (lambda data: data["entries"][0].pop("path"), "path"),
        (lambda data: data["entries"][0].update(pool_axes=2), "pool_axes of 'layer1.0.bn3' is 2"),
        (lambda data: data["entries"][0].update(pool_axes=["2"]), "pool_axes of 'layer1.0.bn3' is"),
        (lambda data: data["entries"][0].update(causal_axis=2.5), "causal_axis of 'layer1.0.bn3' is 2.5"),
        (lambda data: data.update(evidence=[{"how": "odd", "sites": []}]), "Evidence"),
        (lambda data: data.update(evidence=[{**SHOWN, "how": "odd"}]), "the evidence is 'odd'"),
        (lambda data: data.update(evidence=[{**SHOWN, "place": "2"}]), "place of the evidence is '2'"),
        (lambda data: data.update(evidence=[{**SHOWN, "place": 1}]), "spatial axis 1 of rank 3"),
        (lambda data: data.update(evidence=[{**SHOWN, "rank": 0}]), "spatial axis 0 of rank 0"),
        (lambda data: data.update(evidence=[{**SHOWN, "rank": 10**9}]), "spatial axis 0 of rank 1000000000"),
    ],
)
def test_a_damaged_record_is_refused(change, message):
    data = json.loads(plan().to_json())
    change(data)
    with pytest.raises(ValueError, match=f"plan must be the JSON of an ECAPlan.*{message}"):
        ECAPlan.from_json(json.dumps(data))


def test_the_schema_decides_which_version_reads_a_plan():
    data = json.loads(plan().to_json())
    assert ECAPlan.from_json(json.dumps({**data, "package": "0.0.1"})) == plan()
    first = {**data, "schema": 1, "entries": [dict(entry) for entry in data["entries"]]}
    for name in ("keep_causality", "evidence"):
        del first[name]
    for entry in first["entries"]:
        del entry["pool_axes"], entry["causal_axis"]
    assert asdict(ECAPlan.from_json(json.dumps(first))) == asdict(plan())
    text = r"plan must have schema 2, .*Received: schema 3, written by eca_multi 9\.1\. Update eca_multi, or plan anew"
    with pytest.raises(ValueError, match=text):
        ECAPlan.from_json(json.dumps({**data, "package": "9.1", "schema": 3, "colour": "red"}))


# --- equality --------------------------------------------------------------------------------------------------------

SAME = {"where": "paths", "gamma": 3, "notes": ("n",), "package": "9", "model_parameters": 1}
SAME_ENTRY = {"module_type": "X", "tensor": "t", "into": "add", "aliases": ("a",), "calls": 9, "keeps_output": False}
OTHER = {"framework": "nnx", "model": "Net", "gate": "sigmoid", "init": "uniform"}
OTHER_ENTRY = {"path": "p", "action": "replace", "channels": 9, "layout": "channels_last", "kernel_size": 9}
OTHER_ENTRY |= {"pool_axes": (2,), "causal_axis": 2}


def test_plans_are_equal_if_the_same_network_comes_out():
    made = plan()
    first, *rest = made.entries
    equal = [replace(made, **{name: value}) for name, value in SAME.items()]
    equal += [replace(made, entries=(replace(first, **{n: v}), *rest)) for n, v in SAME_ENTRY.items()]
    equal += [replace(made, entries=(*rest, first)), replace(made, skipped=(Skipped("a", "b"),))]
    assert all(other == made and hash(other) == hash(made) for other in equal)
    different = [replace(made, **{name: value}) for name, value in OTHER.items()]
    different += [replace(made, entries=(replace(first, **{n: v}), *rest)) for n, v in OTHER_ENTRY.items()]
    different += [replace(made, entries=tuple(rest))]
    assert all(other != made for other in different)
    assert made != made.paths


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_what_is_no_record_is_refused(text):
    with pytest.raises(ValueError, match="plan must be the JSON of an ECAPlan"):
        ECAPlan.from_json(text)


def test_the_table_groups_blocks_that_repeat():
    text = str(plan(exclude="layer1.*"))
    lines = text.splitlines()
    assert lines[0] == "ECA in ResNet (torch), where='residual', gate='2sigmoid', init='identity'"
    assert (
        " ".join(lines[3].split()) == "layer2.{0-3}.bn3 x4 BatchNorm2d 512 5 layer2.{0-3}: residual branch of the add"
    )
    assert "skipped: layer1.{0-2}.bn3: in exclude" in lines
    assert lines[-1] == "13 ECAs, 71 new parameters (+7.1 %); outputs stay bit-equal at the start."


# --- on another model ------------------------------------------------------------------------------------------------


def test_a_plan_fits_a_model_of_the_same_architecture():
    made = plan()
    assert replay(made, "torch", {c.path: c for c in RESNET}) == list(made.entries)


def test_what_is_done_already_is_left_out():
    found = {c.path: c for c in RESNET}
    found["layer1.0.bn3"] = replace(RESNET[0], reason=HAS_ECA)
    assert [e.path for e in replay(plan(), "torch", found)] == [c.path for c in RESNET[1:]]


def test_all_differences_are_listed():
    found = {c.path: c for c in RESNET[1:]}
    found["layer1.1.bn3"] = replace(RESNET[1], channels=64)
    found["layer1.2.bn3"] = replace(RESNET[2], module_type="Identity")
    with pytest.raises(PlanMismatchError, match="plan must fit the model") as caught:
        replay(plan(), "nnx", found)
    for text in (
        "4 differences: framework is nnx, the plan's torch",
        "layer1.0.bn3: is not there",
        "layer1.1.bn3: has 64 channels, the plan's 256",
        "layer1.2.bn3: is a Identity, the plan's a BatchNorm2d",
    ):
        assert text in str(caught.value)


# --- the run afterwards ----------------------------------------------------------------------------------------------


def test_a_run_that_keeps_its_promise_passes():
    check_verified(plan(), True, {path: (2, 2) for path in plan().paths})


@pytest.mark.parametrize(
    ("same", "calls", "message"),
    [
        (False, (1, 1), "outputs differ from those before"),
        (True, (4, 3), "layer1.0.bn3: base called 4 times, its ECA 3"),
        (True, (0, 0), "layer1.0.bn3: never called"),
    ],
)
def test_a_run_that_does_not_is_an_error(same, calls, message):
    with pytest.raises(VerifyError, match=message):
        check_verified(plan(), same, {"layer1.0.bn3": calls})


def test_outputs_may_change_where_that_was_said():
    check_verified(plan(gate="sigmoid", init="uniform"), False, {"layer1.0.bn3": (1, 1)})


def test_an_entry_knows_its_axis():
    assert ECAEntry("a").channel_axis == 1
    assert ECAEntry("a", layout="channels_last").channel_axis == -1


# --- with a kernel off the identity ----------------------------------------------------------------------------------

SITE = ECAEntry("bn", channels=6, kernel_size=3)
SMALL = 1e-3 * np.random.default_rng(0).normal(size=(2, 6, 5, 6)) + 1e-4


def test_the_probe_agrees_with_the_oracle():
    kernel = probe(SITE, SMALL)
    assert differences(SITE, "2sigmoid", kernel, SMALL, forward(SMALL, kernel, gate="2sigmoid").y) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, kernel: x, "not ECA over axis 1"),
        (lambda x, kernel: forward(x, kernel, gate="2sigmoid", channel_axis=3).y, "not ECA over axis 1"),
        (lambda x, kernel: forward(x, kernel[::-1], gate="2sigmoid").y, "not ECA over axis 1"),
        (lambda x, kernel: x[:, :5], r"received shape .* returned"),
    ],
    ids=["no gate", "another axis of as many", "flipped", "cut"],
)
def test_the_probe_sees_what_equal_outputs_do_not(change, message):
    kernel = probe(SITE, SMALL)
    (text,) = differences(SITE, "2sigmoid", kernel, SMALL, change(SMALL, kernel))
    assert re.search(message, text)
    with pytest.raises(VerifyError, match=message):
        check_verified(plan(), True, {}, [text])


def test_the_probe_sees_an_axis_without_the_channels():
    x = np.zeros((2, 10, 6))
    assert "axis 1 of (2, 10, 6) does not hold" in differences(SITE, "2sigmoid", probe(SITE, x), x, x)[0]


# --- the channel axis, and adds that are not taken -------------------------------------------------------------------

TOKENS = Candidate("mlp", channels=16, shape=(2, 9, 16), axis_reason="a sequence of tokens")


def test_an_axis_that_is_unknown_is_no_site_until_the_user_names_one():
    made = plan([*RESNET, TOKENS])
    assert made.skipped == (Skipped("mlp", "a sequence of tokens"),)
    made = plan([*RESNET, TOKENS], overrides={"mlp": {"channel_axis": -1}, "ml.": {"kernel_size": 5}})
    entry = made.entries[-1]
    assert (entry.path, entry.channels, entry.channel_axis, entry.kernel_size) == ("mlp", 16, -1, 5)


def test_one_site_of_unknown_channels_leaves_the_others():
    unknown = Candidate("lazy", module_type="Lazy")
    made = plan([RESNET[0], unknown])
    assert made.paths == ("layer1.0.bn3",)
    assert made.skipped[0].path == "lazy"
    assert "number of its channels is unknown" in made.skipped[0].reason
    with pytest.raises(ChannelInferenceError, match="'lazy'"):
        plan([RESNET[0], unknown], where=["lazy", "layer1.0.bn3"])


ADDS = [Candidate(f"layer{i}", reason=PARALLEL, what="add", line="nets.rep:31") for i in (1, 2)]


def test_an_add_that_is_not_taken_has_its_place_and_reason():
    made = plan([*RESNET, *ADDS])
    assert [add.path for add in made.skipped_adds] == ["layer1", "layer2"]
    assert f"skipped: layer{{1-2}} (nets.rep:31): {PARALLEL}" in str(made)
    assert asdict(ECAPlan.from_json(made.to_json())) == asdict(made)
    assert "nets.rep:31" in repr(made)
    with pytest.raises(NoSiteError, match=r"2 candidates, none taken \(layer\{1-2\} .nets.rep:31.: adds parallel"):
        plan(ADDS)
    with pytest.raises(NoSiteError, match="nothing in the network adds two tensors"):
        plan([])


def test_a_damaged_skip_is_refused():
    data = json.loads(plan([*RESNET, *ADDS]).to_json())
    data["skipped"][0]["what"] = "branch"
    with pytest.raises(ValueError, match="layer1' is skipped as 'branch'"):
        ECAPlan.from_json(json.dumps(data))
