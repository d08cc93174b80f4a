"""All layers of the bench, in the order of the page."""

from importlib import import_module

from benchmarks.porting.layer import Layer

FILES = (
    "dense",
    "convolutions",
    "norms",
    "elementwise",
    "windows",
    "positions",
    "attention",
    "recurrent",
    "blocks",
    "encoder",
    "images",
)
LAYERS: tuple[Layer, ...] = tuple(
    thing
    for file in FILES
    for thing in vars(import_module(f"benchmarks.porting.{file}")).values()
    if isinstance(thing, Layer)
)
