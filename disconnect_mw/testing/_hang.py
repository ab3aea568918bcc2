"""`Hang`: the app under test did not end, and the await that it hangs in."""

from __future__ import annotations

import linecache
import os
import sysconfig

from ._tasks import Frame
from ._transcript import Transcript, printed_lines

_KIT = os.path.dirname(os.path.abspath(__file__))
_PACKAGE = os.path.dirname(_KIT)
_LIBRARIES = tuple(
    {os.path.realpath(path) for name, path in sysconfig.get_paths().items() if name.endswith(("lib", "stdlib"))}
    | {path for name, path in sysconfig.get_paths().items() if name.endswith(("lib", "stdlib"))}
)

Chains = list[list[Frame]]
"""Where each task of the app is suspended, its own first; the outermost frame first."""


class Hang(AssertionError):
    """The app under test did not end in time.

    The text names the await that the app hangs in: file, line, function and source; and has the transcript.
    """

    def __init__(self, reason: str, place: str, transcript: Transcript, is_known: bool = False) -> None:
        super().__init__("\n".join([reason, "", "What had happened until then:", "", *printed_lines(transcript)]))
        self.reason = reason
        """The text without the transcript."""

        self.place = place
        """The await that the app hangs in, in one line: "app.py:7, in stream: await asyncio.sleep(1)"."""

        self.transcript = transcript
        """The exchange up to then."""

        self.is_known = is_known
        """Whether the app has hung in the same function before, on another server; then `reason` is one line."""

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.reason, self.place, self.transcript, self.is_known)


class KnownHangs:
    """The functions in which an app has hung in earlier exchanges: there it has less patience."""

    def __init__(self) -> None:
        self._servers: dict[tuple[str, str], str] = {}

    def __bool__(self) -> bool:
        return bool(self._servers)

    def add(self, chains: Chains, server: str) -> None:
        self._servers.setdefault(_function(chains), server)

    def find(self, chains: Chains) -> str | None:
        """Return the server on which the app was the first to hang there."""
        return self._servers.get(_function(chains))


def _function(chains: Chains) -> tuple[str, str]:
    frame = _place(chains)
    return ("", "") if frame is None else (_file(frame), frame[0].f_code.co_qualname)


def describe(why: str, chains: Chains) -> str:
    """Return the reason of a `Hang`."""
    text = [why]
    shown = [chain for chain in map(_without_kit, chains) if chain]
    for chain in shown[:1]:
        text += ["It hangs in", "", *_traceback_lines(_innermost(chain)), ""]
    for index, chain in enumerate(shown):
        text += ["by this chain of awaits:" if index == 0 else "and a task that it has started is in", ""]
        innermost = _innermost(chain)
        # Down to the function that this frame awaits, and not what that function awaits.
        for frame in chain[: chain.index(innermost) + 2] if index == 0 else [innermost]:
            text += _traceback_lines(frame)
        text.append("")
    return "\n".join(text).rstrip()


def describe_place(chains: Chains) -> str:
    """Return the await that the app hangs in, in one line."""
    frame = _place(chains)
    if frame is None:
        return "code that cannot be seen from outside"
    code = frame[0].f_code
    source = _source(frame)
    return f"{relative(code.co_filename)}:{frame[1]}, in {code.co_name}" + (f": {source}" if source else "")


def awaits_thread(chains: Chains) -> bool:
    """Whether the app waits for a thread: of anyio's, asyncio's or trio's `to_thread`."""
    names = [frame[0].f_code.co_name for frame in chains[0]]
    return any("to_thread" in name or "worker_thread" in name for name in names)


def relative(file: str) -> str:
    """The path from the working directory, where the file is below it."""
    here = os.getcwd() + os.sep
    return file.removeprefix(here)


def _place(chains: Chains) -> Frame | None:
    shown = [chain for chain in map(_without_kit, chains) if chain]
    return _innermost(shown[0]) if shown else None


def _without_kit(chain: list[Frame]) -> list[Frame]:
    return [frame for frame in chain if not _file(frame).startswith(_KIT + os.sep)]


def _innermost(chain: list[Frame]) -> Frame:
    """Return the innermost frame of the app's own code, or of a library's where the chain has none of the app's."""
    for is_wanted in (is_in_app, _is_outside_package):
        for frame in reversed(chain):
            if is_wanted(_file(frame)):
                return frame
    return chain[-1]


def is_in_app(file: str) -> bool:
    """Whether a source file is the app's own, and no library's, which may be compiled elsewhere."""
    is_of_library = file.startswith(("<", *(path + os.sep for path in _LIBRARIES))) or file.endswith(".pyx")
    return _is_outside_package(file) and not is_of_library


def _is_outside_package(file: str) -> bool:
    return not file.startswith(_PACKAGE + os.sep)


def _file(frame: Frame) -> str:
    return frame[0].f_code.co_filename


def _source(frame: Frame) -> str:
    return linecache.getline(_file(frame), frame[1], frame[0].f_globals).strip()


def _traceback_lines(frame: Frame) -> list[str]:
    """Return the lines that a traceback has for the frame."""
    code, source = frame[0].f_code, _source(frame)
    return [f'  File "{code.co_filename}", line {frame[1]}, in {code.co_name}', *([f"    {source}"] if source else [])]
