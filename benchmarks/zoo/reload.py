"""Load saved models, run them on the saved inputs, and write their outputs: `python -m benchmarks.zoo.reload torch`.

Reads one path a line, and answers each with a line "loaded:", followed by the error if there is one.
"""

import sys
from importlib import import_module

from benchmarks.zoo import operators


def main() -> None:
    operators.install()
    framework = import_module(f"benchmarks.zoo.{sys.argv[1]}_reload")
    for line in sys.stdin:
        try:
            framework.reload(line.strip())
            said = ""
        except Exception as error:  # goes back as the answer
            said = f"{type(error).__name__}: {error}".replace("\n", " ")[:500]
        print(f"loaded:{said}", flush=True)


if __name__ == "__main__":
    main()
