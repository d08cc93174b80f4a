"""Nothing in the package writes but by the writers."""

import ast
from pathlib import Path

from eca_multi._files import disk as _disk

# By file, what it may call of what makes, moves and removes files, as it does nothing else, or writes into a folder
# that is put in its place as a whole, or goes with the run.
ALLOWED = {
    "_files/disk.py": {"os.chmod", "os.chown"},
    "_files/file.py": {"os.replace"},
    "_files/folder.py": {"os.chmod", "os.rename"},
    "_files/scratch.py": {"os.chmod", "os.mkdir", "os.unlink", "shutil.rmtree"},
    "_pytest_plugin.py": {"mkdir", "write_text"},  # the folder of reports, which is asked for; the run's own folder
    "flax/_formats/orbax.py": {"write_text"},  # into the folder that is being written
    "gates/plot.py": {"mkdir"},  # the folder of pictures, which is asked for
    "gates/write.py": {"savez"},  # into memory
    "parity/explain/bundle.py": {
        "mkdir"
    },  # the folder of bundles, which is asked for, and the one that is being written
    "parity/engines/jax.py": {"savez"},  # into memory
    "parity/execute/process.py": {"mkdir"},  # in the run's own folder
}
WRITING = {
    "write_text",
    "write_bytes",
    "mkdir",
    "makedirs",
    "mkdtemp",
    "mkstemp",
    "TemporaryDirectory",
    "TemporaryFile",
}
WRITING |= {"NamedTemporaryFile", "SpooledTemporaryFile", "rmtree", "copytree", "copyfile", "umask", "savez", "rmdir"}
OF_OS = {f"os.{name}" for name in ("replace", "rename", "renames", "remove", "unlink", "chmod", "chown", "truncate")}


def calls_that_write(text):
    if not any(name.removeprefix("os.") in text for name in WRITING | OF_OS):  # most files, which need not be parsed
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in OF_OS or name.rpartition(".")[2] in WRITING:
                yield name if name.startswith(("os.", "shutil.")) else name.rpartition(".")[2]


def test_nothing_in_the_package_writes_but_by_the_writers():
    root = Path(_disk.__file__).parents[1]
    found = {file.relative_to(root).as_posix(): set(calls_that_write(file.read_text())) for file in root.rglob("*.py")}
    assert {name: calls for name, calls in found.items() if calls} == ALLOWED
