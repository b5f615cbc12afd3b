"""The data folders of the servers: made, locked, checked. Each failure is one line that names the folder."""

import errno
import fcntl
import os
import pwd
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dispatcher.core.errors import Misconfigured


@dataclass(frozen=True, slots=True)
class User:
    """The user a server runs as."""

    uid: int
    gid: int
    name: str


def current_user() -> User:
    return User(os.geteuid(), os.getegid(), _name(os.geteuid()))


def unprivileged_user(folder: Path) -> User:
    """The user for Postgres, which refuses to run as root: ours; for root the owner of the data, or else nobody."""
    if os.geteuid() != 0:
        return current_user()
    if folder.exists() and (status := folder.stat()).st_uid != 0:
        return User(status.st_uid, status.st_gid, _name(status.st_uid))
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise Misconfigured(
            "Postgres refuses to run as root and this system has no user 'nobody'; run as a normal user"
        ) from None
    return User(nobody.pw_uid, nobody.pw_gid, nobody.pw_name)


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


@contextmanager
def naming(folder: Path) -> Iterator[None]:
    """Turn an OSError inside into Misconfigured that names the folder."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise Misconfigured(
            f"cannot keep data in {folder}: {reason}; choose a folder that {current_user().name} may write to"
        ) from error


def make_folder(folder: Path) -> None:
    """Make a folder and its parents. What root makes, the server's user may pass through."""
    if folder.is_dir():
        return
    if not folder.parent.is_dir():
        make_folder(folder.parent)
    try:
        folder.mkdir()
    except FileExistsError:  # another server of a cluster made it just now
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)) from None
        return
    if os.geteuid() == 0:
        folder.chmod(0o755)


def lock_folder(folder: Path, wait_s: float) -> int:
    """Lock the folder for one server, waiting up to `wait_s` seconds; returns the descriptor that holds the lock.

    The server inherits it, so the folder stays locked while any of its processes lives, even when we are gone.
    """
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            os.close(descriptor)
            raise Misconfigured(f"another server is running in {folder}; stop it or choose another folder") from None
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor


def closed_to(user: User, path: Path) -> Path | None:
    """The topmost folder on the way to `path`, itself included, that `user` may not enter, or None."""
    if user.uid in (0, os.geteuid()):
        return None
    for folder in reversed([path, *path.parents]):
        status = folder.stat()
        if status.st_uid == user.uid:
            allowed = status.st_mode & 0o100
        elif status.st_gid == user.gid:
            allowed = status.st_mode & 0o010
        else:
            allowed = status.st_mode & 0o001
        if not allowed:
            return folder
    return None
