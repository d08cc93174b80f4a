"""A model in a process of its own, so that two models need not be importable together."""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import IO, Any, Self

import numpy as np

from eca_multi.parity.define.axes import SpecError

from .calls import Given
from .model import Arrays, Model, Run

GRACE = 10.0  # seconds that a process has to end by itself


class RaisedThere(RuntimeError):
    """An exception of the process of a model: the name of its class, its text and its traceback."""

    def __init__(self, who: str, kind: str, text: str, trace: str) -> None:
        super().__init__(f"{who}: {trace}")
        self.kind, self.text = kind, text


class Elsewhere(Model):
    """A model that another process has loaded from "module:factory" or "file.py:factory".

    What the two processes say to each other is pickled: both run the caller's code with the caller's rights.
    """

    def __init__(self, who: str, source: str, env: Mapping[str, str] | None = None) -> None:
        self._who = who
        self._process = subprocess.Popen(
            # -P: a folder of the current directory must not shadow the framework of the same name
            [sys.executable, "-P", "-m", "eca_multi.parity.models.serve", source],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **(env or {})},
        )
        self._number = 0  # of the model among those that the process holds
        self._about: dict[str, Any] = {}

    def call(self, what: str | Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        """Call a method of the model, or a function of the package with the model for its first argument, over there.

        Raises:
            SpecError: As the function does there, or if the process ends.
        """
        ask, answer = self._pipes()
        try:
            pickle.dump((self._number, what, arguments, keywords), ask)
            ask.flush()
            kind, value = pickle.load(answer)
        except (EOFError, BrokenPipeError) as error:
            raise SpecError(f"the process of {self._who} must go on. It ended; see what it wrote above.") from error
        if kind == "refused":
            raise SpecError(value)
        if kind == "raised":
            raise RaisedThere(self._who, *value)
        return value

    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        ask, answer = self._process.stdin, self._process.stdout
        if ask is None or answer is None:
            raise TypeError("the process must have pipes")
        return ask, answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: Any) -> None:
        for pipe in self._pipes():
            pipe.close()
        try:
            self._process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _of(self, name: str) -> Any:
        if name not in self._about:
            self._about[name] = self.call(name)
        return self._about[name]

    @property
    def framework(self) -> str:
        return str(self._of("framework"))

    @property
    def name(self) -> str:
        return str(self._of("name"))

    @property
    def takes(self) -> str:
        return str(self._of("takes"))

    @property
    def differentiable(self) -> bool:
        return bool(self._of("differentiable"))

    @property
    def training(self) -> str:
        return str(self._of("training"))

    @property
    def keywords_alone_say(self) -> bool:
        return bool(self._of("keywords_alone_say"))

    @property
    def shared(self) -> dict[str, str]:
        return dict(self._of("shared"))

    @property
    def devices(self) -> frozenset[str]:
        return frozenset(self._of("devices"))

    def weights(self) -> dict[str, np.ndarray]:
        return dict(self._of("weights"))

    def trained(self) -> frozenset[str]:
        return frozenset(self._of("trained"))

    def operation(self, weight: str) -> str:
        return str(self.call("operation", weight))

    def with_weights(self, weights: Arrays) -> "Elsewhere":
        return self._other(self.call("with_weights", dict(weights)))

    def in_mode(self, training: bool) -> "Elsewhere":
        return self._other(self.call("in_mode", training))

    def _other(self, number: int) -> "Elsewhere":
        """Return another model that the same process holds."""
        other = object.__new__(Elsewhere)
        vars(other).update(vars(self), _number=number, _about={})
        return other

    def run(
        self,
        inputs: Any,
        dtype: str = "float32",
        cotangents: Arrays | None = None,
        record: bool = False,
        given: Given | None = None,
    ) -> Run:
        run: Run = self.call("run", inputs, dtype, cotangents, record, given)
        return run

    def native_run(self, *arguments: Any, **keywords: Any) -> Run:
        raise TypeError("tensors of a framework stay in their process; call `run`, or `call` with a function")

    def to_numpy(self, tensor: Any) -> np.ndarray:
        return np.asarray(tensor)
