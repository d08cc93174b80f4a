def test_smoke(framework, rng):
    import numpy as np
    b = framework.build(8)
    x = rng.normal(size=(2, 8, 5, 7) if framework.native_axis == 1 else (2, 5, 7, 8))
    y = b(framework.tensor(x, "float32"))
    assert framework.numpy(y).shape == x.shape
    assert framework.dtype_of(y) == "float32"
    assert framework.package.to_canonical(b.holder)["weight"].shape == (3,) if framework.kind != "jax" else True
