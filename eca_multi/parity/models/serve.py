"""The process of one model: `python -m eca_multi.parity.models.serve SOURCE` loads it and answers `Elsewhere`."""

import inspect
import os
import pickle
import sys
import traceback
from typing import IO, Any

from eca_multi.parity.define.axes import SpecError
from eca_multi.parity.define.loading import load_object

from . import model_of
from .model import Model


def load(source: str) -> Model:
    """Load "module:factory" or "file.py:factory", and call what is a function or a class."""
    thing = load_object(source, "model or function that makes one")
    try:
        made = thing() if inspect.isroutine(thing) or inspect.isclass(thing) else thing
    except Exception as error:
        raise SpecError(f"{source} must make a model. It raised {type(error).__name__}: {error}") from error
    return model_of(made)


def serve(source: str, asked: IO[bytes], answers: IO[bytes]) -> None:
    """Answer each request in turn, until the other side closes its pipe."""
    models: list[Model] = []
    while True:
        try:
            number, what, arguments, keywords = pickle.load(asked)
        except EOFError:
            return
        try:
            if not models:
                models.append(load(source))
            answer = "answered", _answer(models, number, what, arguments, keywords)
        except SpecError as error:
            answer = "refused", str(error)
        except Exception as error:
            answer = "raised", (type(error).__name__, str(error), traceback.format_exc())
        pickle.dump(answer, answers)
        answers.flush()


def _answer(models: list[Model], number: int, what: Any, arguments: Any, keywords: Any) -> Any:
    model = models[number]
    if callable(what):
        return what(model, *arguments, **keywords)
    member = getattr(model, what)
    value = member(*arguments, **keywords) if callable(member) else member
    if isinstance(value, Model):
        models.append(value)
        return len(models) - 1
    return value


if __name__ == "__main__":
    own = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the model prints must not lie among the answers
    sys.path.append(os.getcwd())
    serve(sys.argv[1], sys.stdin.buffer, own)
