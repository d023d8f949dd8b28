"""A lock between processes that dies with its holder. Standard library and filelock only."""

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)

NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
"""What file systems without locks answer."""


@contextmanager
def locked(path: Path, *, what: str) -> Iterator[bool]:
    """Holds a lock, and says so before it waits for another process.

    filelock would put a marker where there are no locks; that of a process killed on another host stays for ever.

    Args:
        path: The lock's file.
        what: What is made under it, for the log.

    Yields:
        Whether it is held. Not on a file system without locks: there, nobody waits.
    """
    lock = FileLock(path, fallback_to_soft=False)
    held = True
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("cache: waiting for the process that builds %s", what)
        lock.acquire()
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        log.warning("cache: %s has no file locks, so processes that start together each build %s", path.parent, what)
        held = False
    try:
        yield held
    finally:
        lock.release()
