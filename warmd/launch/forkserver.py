"""The forkserver: a small single-threaded program that forks one shim for each engine.

Forking the daemon itself is neither quick nor safe: it is large and has threads. The daemon starts
this file once as `python -I -S forkserver.py FD`, and sends one packet with descriptors on socket
FD for each engine: the spec (JSON in a memfd), the shim's control socket, the engine's output, and
for an engine that may outlive the daemon the two of handover.py. Answers come from the shim. Where
a shim is killed, its orphans become ours: they are killed, and we say in its place that nothing is
left; to a later daemon the end of the shim's listening socket says it, of which we hold a copy.

Standard library only; `-I -S` keeps it small and free of the environment's surprises.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
import sys

TYPE_CHECKING = False  # spares the import of typing
if TYPE_CHECKING:
    from warmd.launch import shim, tree
else:
    sys.path.append(__file__.rpartition("/")[0])
    import shim
    import tree

_ROUND_MS = 20
_MOST_DESCRIPTORS = 5


class _Forkserver:
    def __init__(self, requests: socket.socket) -> None:
        self._requests = requests
        self._child_ended = tree.wake_on_child_exit()
        self._poll = select.poll()
        self._poll.register(requests, select.POLLIN)
        self._poll.register(self._child_ended, select.POLLIN)
        self._daemon_lives = True
        # Living shim -> its end of the control socket, and the one it listens on if it does.
        self._shims: dict[int, list[int]] = {}
        self._lost: list[list[int]] = []  # the same of shims that were killed

    def serve(self) -> None:
        try:
            self._requests.send(b"ready")
        except BrokenPipeError:
            return  # the daemon ended while we started
        # Orphans need us even after the daemon is dead, hence until the last shim has gone.
        while self._daemon_lives or self._shims or self._lost:
            readable = dict(self._poll.poll(_ROUND_MS if self._lost else None))
            if self._child_ended in readable:
                tree.drain(self._child_ended)
            self._reap()
            if self._lost:
                self._end_orphans()
            if self._requests.fileno() in readable:
                self._take_request()

    def _reap(self) -> None:
        for pid, status in tree.reap()[0]:
            held = self._shims.pop(pid, None)
            if held is None:
                continue  # an orphan that we killed
            if status == 0:
                _close(held)
            else:
                self._lost.append(held)

    def _end_orphans(self) -> None:
        orphans = tree.descendants(os.getpid(), spare=frozenset(self._shims))
        if orphans:
            tree.unlink_all(tree.shared_memory(orphans))
            tree.send_signal(orphans, signal.SIGKILL)
            return
        for control, *listener in self._lost:
            _say(control, gone=True)
            _close(listener)
        self._lost.clear()

    def _take_request(self) -> None:
        try:
            packet, received, _, _ = socket.recv_fds(self._requests, 16, _MOST_DESCRIPTORS)
        except ConnectionError:
            packet, received = b"", []
        if not packet:
            self._daemon_lives = False
            self._poll.unregister(self._requests)
            tree.be_silent()
            return
        for descriptor in received:
            os.set_inheritable(descriptor, False)  # recv_fds ignores flags, see gh-107898
        spec, control, log, *handover = received
        try:
            pid = os.fork()
        except OSError as error:
            _say(control, refused=error.errno, stage="fork")
            _close(handover)
        else:
            if pid == 0:
                shim.run(spec, control, log, handover)
            self._shims[pid] = [control, *handover[:1]]
            _close(handover[1:])
        _close([spec, log])


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _say(control: int, **packet: object) -> None:
    """Say a last word in a shim's place, and hang up."""
    with socket.socket(fileno=control) as end:
        try:
            end.send(json.dumps(packet).encode())
        except OSError:
            return  # the daemon is dead as well


def main() -> None:
    """Serve the daemon on the descriptor named by the only argument."""
    requests = socket.socket(fileno=int(sys.argv[1]))
    requests.set_inheritable(False)
    tree.ignore_signals_for_others()
    tree.adopt_orphans()
    tree.name_process("warmd-fork")
    gc.disable()
    gc.freeze()  # so that a shim's collector doesn't copy our pages
    _Forkserver(requests).serve()


if __name__ == "__main__":
    main()
