"""A file and a folder as the tests of the writers write them."""

import contextlib
import os
import re
from pathlib import Path

from eca_multi._files.file import write_atomically
from eca_multi._files.folder import Known, whole_folder

SCRIPT = Path(__file__).parents[1].joinpath("support", "files_killed.py")
KNOWN = Known("a folder of this test", "a", re.compile("[abc]|inner/|inner/[ab]"))
GROUP = 2 if os.geteuid() == 0 else os.getegid()  # another one where that can be given
WRITERS = ("file", "folder")


def write(path, what, text="new"):
    """What a writer writes: a file, or a folder with two files."""
    if what == "file":
        write_atomically(path, text.encode())
        return
    with whole_folder(path, KNOWN) as folder:
        (folder / "inner").mkdir(parents=True)
        (folder / "a").write_text(text)
        (folder / "inner" / "b").write_text(text)


def content(path):
    if path.is_file():
        return path.read_text()
    texts = {file.read_text() for file in path.rglob("*") if file.is_file()}
    assert sorted(p.relative_to(path).as_posix() for p in path.rglob("*")) == ["a", "inner", "inner/b"]
    return "".join(texts)


def snapshot(folder):
    """All that is in a folder, by inode, permissions and content."""
    return {
        path: (found.st_ino, found.st_mode, found.st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in (folder, *folder.rglob("*"))
        for found in [os.lstat(path)]
    }


@contextlib.contextmanager
def umask(mask):
    old = os.umask(mask)
    try:
        yield
    finally:
        os.umask(old)


def left_in(folder):
    return sorted(path.name for path in folder.iterdir() if ".tmp" in path.name)
