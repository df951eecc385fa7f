"""The unix socket of the admin API: who may open it is settled before anybody can."""

from __future__ import annotations

import errno
import grp
import os
import socket
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

_BACKLOG = 64
_PROBE_TIMEOUT_S = 1.0
_SHUT_IN = (errno.ENOSYS, errno.EINVAL)
"""chown(2) in the service's sandbox: no such call, and no such group."""


class ControlError(Exception):
    """The control plane can't be opened. The text is one sentence for the operator."""


def listen_privately(
    path: Path,
    group: str,
    report: Callable[[str], None],
    ready: Sequence[socket.socket] = (),
) -> socket.socket:
    """Return a listening socket at `path`, mode 0660 for `group`, or 0600 where that can't be.

    It listens only once its owner, group and mode are set; until then a connect is refused. The
    socket file of a dead daemon is replaced. `ready`: what listens there already, where anything
    does. Raises `ControlError`, also where a daemon answers.
    """
    for sock in ready:
        return _made_private(sock, path, group, report)
    _make_room(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        # Linux takes the file's mode from the socket's own, so no umask is touched (unix(7)).
        os.fchmod(sock.fileno(), 0o600)
        sock.bind(str(path))
        _give_to(path, group, report)
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise ControlError(f"the control socket {path} can't be made: {_why(error)}") from error
    sock.setblocking(False)
    return sock


def _made_private(
    sock: socket.socket, path: Path, group: str, report: Callable[[str], None]
) -> socket.socket:
    """Settle anew who may open a socket that was handed over: the config may be another."""
    if sock.getsockname() != str(path):
        found = sock.getsockname()
        sock.close()
        raise ControlError(
            f"the socket that was handed to warmd for its control listens on {found}, and "
            f"[control] socket is {path}: make them the same"
        )
    try:
        path.chmod(0o600)
        _give_to(path, group, report)
    except OSError as error:
        sock.close()
        raise ControlError(f"the control socket {path} can't be used: {_why(error)}") from error
    sock.setblocking(False)
    return sock


def _make_room(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise ControlError(f"the control socket {path} can't be made: {_why(error)}") from error
    if not stat.S_ISSOCK(mode):
        raise ControlError(f"{path} is no socket: move it away, the control socket belongs there")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_TIMEOUT_S)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except FileNotFoundError:
            return
        except (BlockingIOError, TimeoutError):
            pass  # its backlog is full, so somebody listens
        except OSError as error:
            raise ControlError(f"{path} can't be asked who runs: {_why(error)}") from error
    raise ControlError(
        f"another warmd runs: it answers at {path}; stop it, or give this one its own [host] "
        "run_dir"
    )


def _give_to(path: Path, group: str, report: Callable[[str], None]) -> None:
    try:
        gid = grp.getgrnam(group).gr_gid
        if path.stat().st_gid != gid:
            os.chown(path, -1, gid)
    except KeyError:
        why = (
            f"there is no group {group}; `groupadd --system {group}` makes it, "
            "or name another one in [control] group"
        )
    except PermissionError:
        why = f"this user may not give it to the group {group}: it is no member"
    except OSError as error:
        why = f"it can't be given to the group {group} ({_why(error)})"
        if error.errno in _SHUT_IN:
            own = _own_group()
            why = (
                f"its service may give it to no group but its own, {own}, and not to {group}; take "
                f"`group` out of [control], and let who shall use warmctl join {own} (`usermod -aG "
                f"{own} NAME`)"
            )
    else:
        path.chmod(0o660)
        return
    report(f"the control socket {path} is open to this user and root alone: {why}")


def _own_group() -> str:
    try:
        return grp.getgrgid(os.getegid()).gr_name
    except KeyError:
        return str(os.getegid())


def _why(error: OSError) -> str:
    return error.strerror or str(error)
