"""
Files and folders that a crash leaves whole: a reader sees what stood there before, or all of what is new.
"""
import contextlib
import os
import shutil


@contextlib.contextmanager
def new_folder(path):
    """Yields a folder to fill, which then takes the place of `path`; after an error it is gone and `path` as it was."""
    new = path.with_name(path.name + ".tmp")
    finish_replace(path)
    shutil.rmtree(new, ignore_errors=True)
    try:
        new.mkdir(parents=True)
        yield new
        replace_folder(new, path)
    except Exception:
        shutil.rmtree(new, ignore_errors=True)
        raise


def replace_folder(new, path):
    """Put the folder `new` in the place of `path`. A crash between the two renames is what finish_replace mends."""
    old = path.with_name(path.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    new.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def finish_replace(path):
    """Undo a replacement that a crash cut in two: the old folder stands aside and the new one is not there yet."""
    old = path.with_name(path.name + ".old")
    if old.exists() and not path.exists():
        old.rename(path)


def write_synced(path, write):
    with open(path, "wb") as f:
        write(f)
        f.flush()
        os.fsync(f.fileno())
