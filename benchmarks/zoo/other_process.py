"""Another process, which loads what this one saved and has never inserted an ECA."""

import subprocess
import sys
from pathlib import Path

from benchmarks.zoo.steps import Failed


class Other:
    """Starts `python -m benchmarks.zoo.reload FRAMEWORK` at the first question, and keeps it."""

    def __init__(self, framework: str) -> None:
        self.framework = framework
        self.process: subprocess.Popen[str] | None = None

    def ask(self, path: Path | str) -> None:
        """Let the other process load the model in a file and write its outputs beside it.

        Raises:
            Failed: With what the other process said, if it could not.
        """
        if self.process is None or self.process.poll() is not None:
            command = [sys.executable, "-m", "benchmarks.zoo.reload", self.framework]
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if self.process.stdin is not None:
            print(path, file=self.process.stdin, flush=True)
        for line in self.process.stdout or ():
            if line.startswith("loaded:"):
                said = line.removeprefix("loaded:").strip()
                if said:
                    raise Failed(f"in another process: {said}")
                return
        self.process = None
        raise Failed("the other process ended")

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
