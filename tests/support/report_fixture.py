"""A report as the harness writes it (schema 2), with all that can happen in one, for the tests of what reads it."""

import math
import random
from typing import Any

RUNNERS = ("torch", "torch-compiled", "keras-tensorflow", "keras-jax", "keras-torch", "linen", "nnx", "jax")
CASES = {
    "photographs": "two real photographs as 8x8-block DCT maps, 192 channels",
    "offsets": "H != W, N > 1, a mean of its own in each channel",
    "same-sign": "x > 0 and cotangent 1: long sums stagnate in half precision",
    "saturated": "gates near 0 and 1, where 1 - gate cancels",
    "padded-sequences": "1-D with a mask, one sample all masked",
    "one-channel": "C = 1",
}
UNITS = {"float32": 2.0**-24, "bfloat16": 2.0**-8, "float16": 2.0**-11}
TENSORS = {
    "forward": ("y",),
    "input_grad": ("dx", "dx@ones"),
    "weight_grad": ("dw", "dw@ones"),
    "compiled": ("y", "dx", "dw"),
    "mixed": ("y",),
    "roundtrip": ("w",),
    "trajectory": ("w",),
    "determinism": ("y",),
    "nonfinite": ("y",),
}
HALF = ("bfloat16", "float16")
HOSTILE = """<script>alert("x")</script> & 'quoted' "quoted" \u2260 \u202e\x00\x1b[31mred\x1b[0m ]]> {}"""
TRACEBACK = "\n".join(
    [
        "Traceback (most recent call last):",
        *(f'  File "/opt/frame_{n}.py", line {n}, in <lambda>\n    return a & b < {n}' for n in range(60)),
        "RuntimeError: <nnx> could not & would not: " + "x" * 300,
    ]
)


def make() -> dict[str, Any]:
    """Eight runners, of which one is not installed and one crashed half way; failures of every kind."""
    rng = random.Random(7)
    results = [
        _result(rng, runner, case, dtype, check, tensor)
        for runner in RUNNERS
        if runner != "keras-tensorflow"
        for dtype in UNITS
        for case in CASES
        for check, tensors in TENSORS.items()
        if (check != "mixed" or dtype in HALF)
        and not (runner == "torch-compiled" and case > "p" and dtype == "float16")
        for tensor in tensors
    ]
    return {
        "schema": 2,
        "tool": "eca-multi 0.1.0",
        "exit_code": 1,
        "without_result": sum(row["verdict"] == "ERROR" for row in results),
        "spec": {
            "name": "ECA",
            "source": "eca",
            "hash": "9f2c" * 16,
            "layout": "NCHW",
            "reference": "Oracle",
            "budget": "analytic",
            "c": 2.0,
        },
        "environment": {
            "python": "3.11.7",
            "platform": "Linux-6.1.0-x86_64-with-glibc2.36",
            "processor": "Intel(R) Xeon(R) CPU @ 2.60GHz, AVX-512",
            "numpy": "2.4.1",
        },
        "required": ["keras-tensorflow", "torch"],
        "runners": [_runner(name) for name in RUNNERS],
        "cases": [{"name": name, "why": why} for name, why in CASES.items()],
        "results": results,
        "localisations": localisations(),
        "trajectories": trajectories(),
        "power": power(),
        "sight": sight(),
        "replay": "eca-multi parity replay parity-bundles/linen-offsets-bfloat16",
    }


def agreeing() -> dict[str, Any]:
    """The same run if nothing had gone wrong: no failures, no localisations, no missing runner."""
    report = make()
    names = [name for name in RUNNERS if name not in ("keras-tensorflow", "torch-compiled")]
    report["sight"] = []
    report["results"] = [
        {**row, "profile": None}
        for row in report["results"]
        if row["runner"] in names and row["verdict"] in ("BITWISE", "WITHIN_BUDGET")
    ]
    report["trajectories"] = [
        {**row, "drift": [0.8 * limit for limit in row["band"]], "one_step": [0.5] * 8}
        for row in report["trajectories"]
    ]
    report["runners"] = [{**_runner(name), "fingerprint": {}} for name in names]
    return {**report, "exit_code": 0, "without_result": 0, "required": ["torch"], "localisations": [], "replay": ""}


def _result(rng: random.Random, runner: str, case: str, dtype: str, check: str, tensor: str) -> dict[str, Any]:
    use = min(0.9, rng.lognormvariate(-2.2, 0.9))
    scale = UNITS[dtype]
    result: dict[str, Any] = {
        "runner": runner,
        "case": case,
        "dtype": dtype,
        "check": check,
        "tensor": tensor,
        "verdict": "WITHIN_BUDGET",
        "reason": "",
        "budget": "analytic",
        "budget_use": use,
        "min_c": 2 * use,
        "max_abs": use * scale * 3,
        "max_rel": use * scale * 40,
        "max_ulp": use * 9,
        "rmse": use * scale,
        "snr_db": 20 * math.log10(1 / (use * scale)),
        "peer_ratio": 0.8 + use,
        "reach": 0.04 / (scale * (1 + use)) if check not in ("roundtrip", "determinism") else None,
        "index": [1, 3, 7, 2] if tensor.startswith(("y", "dx")) else [1],
        "expected": f"{0.1 + use:.9g}",
        "received": f"{0.1 + use + use * scale:.9g}",
    }
    fault = _fault(runner, case, dtype, check, tensor)
    if not fault and (check in ("roundtrip", "determinism") or (dtype == "bfloat16" and rng.random() < 0.2)):
        result |= {"verdict": "BITWISE", "budget_use": 0.0, "min_c": 0.0, "max_abs": 0.0, "max_ulp": 0.0}
    result |= fault
    if case in ("offsets", "same-sign") and check in ("forward", "weight_grad") and result["budget_use"] is not None:
        result["profile"] = profile(rng, result["budget_use"], scale, exact=result["verdict"] == "BITWISE")
    return result


def _fault(runner: str, case: str, dtype: str, check: str, tensor: str) -> dict[str, Any]:
    """What goes wrong in the report, and where."""
    where = (runner, dtype, check)
    metrics = ("budget_use", "min_c", "max_abs", "max_rel", "max_ulp", "rmse", "snr_db", "peer_ratio")
    unmeasured: dict[str, Any] = dict.fromkeys(metrics)
    if where == ("linen", "bfloat16", "weight_grad") and case != "one-channel":
        over = {"photographs": 3.4, "offsets": 51.2, "same-sign": 1180.0}.get(case, 1.003)
        return {
            "verdict": "EXCEEDS_BUDGET",
            "budget_use": over,
            "min_c": 2 * over,
            "max_ulp": 2.5e5,
            "peer_ratio": 38.0,
        }
    if where == ("keras-jax", "float16", "weight_grad") and (case, tensor) == ("same-sign", "dw@ones"):
        return {"verdict": "ROUNDING", "budget_use": 7.3, "min_c": 14.6, "blame": "known: JAX's <bias> gradient"}
    if where == ("keras-jax", "bfloat16", "input_grad") and case == "offsets":
        return {"verdict": "EXCEEDS_BUDGET", "budget_use": 2.8, "min_c": 5.6, "peer_ratio": 4.1}
    if where == ("jax", "float16", "nonfinite") and case == "saturated":
        return {"verdict": "NONFINITE_MISMATCH", **unmeasured, "expected": "nan", "received": "65504"}
    if where == ("nnx", "float16", "mixed") and case == "offsets":
        return {"verdict": "DTYPE_MISMATCH", **unmeasured, "index": [], "expected": "float16", "received": "float32"}
    if where == ("keras-torch", "float32", "forward") and case == "one-channel":
        return {
            "verdict": "SHAPE_MISMATCH",
            **unmeasured,
            "index": [],
            "expected": "(3, 1, 6, 5)",
            "received": "(3, 6, 5)",
        }
    if where == ("nnx", "float32", "compiled") and case == "saturated":
        return {"verdict": "ERROR", **unmeasured, "index": [], "expected": "", "received": "", "reason": TRACEBACK}
    if where == ("nnx", "bfloat16", "compiled") and case == "saturated":
        return {"verdict": "ERROR", **unmeasured, "index": [], "expected": "", "received": "", "reason": HOSTILE}
    if where == ("torch-compiled", "float32", "weight_grad") and case == "offsets" and tensor == "dw@ones":
        return {"verdict": "MISSING_TAP", **unmeasured, "index": [], "reason": "the graph has no tap named d_gate"}
    if runner in ("keras-jax", "keras-torch") and case == "padded-sequences" and check != "roundtrip":
        return {"verdict": "UNSUPPORTED", **unmeasured, "index": [], "reason": "a mask of two axes"}
    if where == ("jax", "float16", "determinism"):
        return {"verdict": "UNSUPPORTED", **unmeasured, "index": [], "reason": "not deterministic, by declaration"}
    if case == "one-channel" and check == "compiled" and dtype == "float16" and tensor == "dw":
        return {"verdict": "INCONCLUSIVE", "reason": "no planted fault was found: the case has no power here"}
    if where == ("torch", "float32", "mixed"):
        return {}
    if where == ("torch", "float32", "trajectory"):
        return {"budget": "manual"}
    return {}


def profile(rng: random.Random, use: float, scale: float, *, exact: bool = False) -> dict[str, Any]:
    """Elements over five decades of magnitude, some of them zero, and the counts of all."""
    points = []
    for n in range(48):
        reference = 0.0 if n == 0 else 10 ** rng.uniform(-4, 1)
        budget = 2 * scale * (reference + 1e-2)
        share = 0.0 if exact or n % 9 == 0 else use * rng.random() ** 2
        points.append([reference, budget * share, budget])
    if not exact:
        points[-1][1] = points[-1][2] * use
    middle = min(math.log2(max(use, 1e-3)) - 3, 1.5)
    counts = [int(900 * math.exp(-((power - middle) ** 2) / 8)) for power in range(-9, 1)]
    over = 0 if use <= 1 else 37 if use < 4 else 2900
    return {"points": sorted(points), "histogram": [4000, *[0] * 11] if exact else [180, *counts, over]}


def localisations() -> list[dict[str, Any]]:
    forward = [("pooled", 0.31, 0.31), ("conv", 0.22, 0.08), ("gate", 0.12, 0.05), ("out", 0.2, 0.11)]
    backward = [
        ("d_gate", 51.2, 51.2),
        ("d_conv", 48.1, 0.3),
        ("d_pooled", 33.0, 0.09),
        ("dx", 1.4, 0.2),
        ("dw", 51.2, 0.4),
    ]
    chain = [_tap(*tap, "forward") for tap in forward] + [_tap(*tap, "backward") for tap in backward]
    linen = {
        "runner": "linen",
        "case": "offsets",
        "dtype": "bfloat16",
        "line": "first divergence: d_gate (isolated 51x budget), upstream clean",
        "culprit": "d_gate",
        "explanation": "gate-gradient reduction accumulates in bfloat16",
        "chain": chain,
        "shrunk": {"N": 1, "C": 3, "H": 17, "W": 16, "k": 3},
        "bundle": "parity-bundles/linen-offsets-bfloat16",
        "replay": "eca-multi parity replay parity-bundles/linen-offsets-bfloat16",
    }
    keras = {
        "runner": "keras-jax",
        "case": "offsets",
        "dtype": "bfloat16",
        "line": "accumulated: dx propagated 2.8x budget, no step fails by itself",
        "culprit": None,
        "explanation": "",
        "chain": [*chain[:4], _tap("d_gate", 0.9, 0.8, "backward"), _tap("dx", 2.8, 0.7, "backward")],
        "shrunk": None,
        "bundle": "",
        "replay": "",
    }
    return [linen, keras]


def _tap(name: str, propagated: float, isolated: float, direction: str) -> dict[str, Any]:
    verdict = "WITHIN_BUDGET" if max(propagated, isolated) <= 1 else "EXCEEDS_BUDGET"
    return {"tap": name, "direction": direction, "propagated": propagated, "isolated": isolated, "verdict": verdict}


def trajectories() -> list[dict[str, Any]]:
    rng = random.Random(3)
    steps = [1, 2, 5, 10, 20, 50, 100, 200]
    return [
        {
            "runner": runner,
            "case": "offsets",
            "dtype": dtype,
            "optimizer": "sgd",
            "steps": steps,
            "drift": [_drift(rng, runner, dtype, step, scale) for step in steps],
            "band": [3 * scale * math.sqrt(step) for step in steps],
            "one_step": [
                rng.uniform(0.05, 0.6) * (4 if (runner, dtype) == ("linen", "bfloat16") else 1) for _ in steps
            ],
        }
        for dtype, scale in UNITS.items()
        for runner in RUNNERS
        if runner not in ("keras-tensorflow", "torch-compiled")
    ]


def _drift(rng: random.Random, runner: str, dtype: str, step: int, scale: float) -> float:
    if (runner, dtype, step) == ("torch", "float32", 1):
        return 0.0
    growth = (
        step**0.9 * 2.2 if (runner, dtype) in (("linen", "bfloat16"), ("keras-jax", "bfloat16")) else math.sqrt(step)
    )
    return scale * growth * rng.uniform(0.3, 1.6)


def power() -> list[dict[str, Any]]:
    mutants = ["kernel flip", "mean to max", "no sigmoid", "off by one", "sum in half", "swapped H and W"]
    return [
        {
            "case": case,
            "dtype": dtype,
            "killed": mutants[: 3 if case == "one-channel" else 6 if dtype != "float32" else 5],
            "survived": ["off by one"] if (case, dtype) == ("one-channel", "float16") else [],
            "not_applicable": ["kernel flip"]
            if case == "one-channel"
            else ["sum in half"]
            if dtype == "float32"
            else [],
        }
        for case in CASES
        for dtype in UNITS
    ]


def sight() -> list[dict[str, Any]]:
    """float32 sees every fault of porting, half precision not: eps, but for one case, and n - 1 in no case."""
    half = {"seen": ["bias"], "unseen": ["eps", "n - 1"], "reason": ""}
    quiet = {"seen": ["bias", "eps"], "unseen": ["n - 1"], "reason": ""}
    all_seen = {"seen": ["bias", "eps", "n - 1"], "unseen": [], "reason": ""}
    return [
        {"case": case, "dtype": dtype, **(all_seen if dtype == "float32" else quiet if case == "offsets" else half)}
        for case in CASES
        for dtype in UNITS
    ]


def _runner(name: str) -> dict[str, Any]:
    if name == "keras-tensorflow":
        detail = 'tensorflow not installed; pip install "eca-multi[tensorflow]"'
        return {"name": name, "state": "unavailable", "detail": detail, "versions": {}, "fingerprint": {}}
    jax = name in ("jax", "linen", "nnx", "keras-jax")
    fingerprint = {
        "subnormal float32 flushed to zero": jax,
        "float16 sum accumulates in float32": True,
        "bfloat16 sum accumulates in float32": name != "linen",
        "largest z with sigmoid(-z) == 0 in float16": 11.09 if jax else None if name == "torch-compiled" else 17.33,
        "bfloat16 conv leaks NaN": not jax,
        "same bits with 1 and 2 threads": jax,
        "rounding": "nearest even",
    }
    versions = {"jax": "0.10.2", "jaxlib": "0.10.2"} if jax else {"torch": "2.13.0"}
    versions |= (
        {"keras": "3.15.1"} if name.startswith("keras") else {"flax": "0.12.1"} if name in ("linen", "nnx") else {}
    )
    crash = "exit status -11; its last lines:\nFatal Python error: Segmentation fault\n  in <module>"
    crashed = name == "torch-compiled"
    return {
        "name": name,
        "state": "crashed" if crashed else "ran",
        "detail": crash if crashed else "",
        "versions": versions,
        "fingerprint": fingerprint,
    }
