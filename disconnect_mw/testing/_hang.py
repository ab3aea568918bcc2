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


class Hang(AssertionError):
    """The app under test did not end in time.

    The text names the await that the app hangs in: file, line, function and source. `transcript` is the exchange up to
    then.
    """

    def __init__(self, text: str, transcript: Transcript) -> None:
        super().__init__(text)
        self.transcript = transcript

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.args[0], self.transcript)


def describe(why: str, chains: list[list[Frame]], transcript: Transcript) -> str:
    """Return the text of a `Hang`. Each chain is one task's, the outermost frame first."""
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
    return "\n".join([*text, "What had happened until then:", "", *printed_lines(transcript)])


def _without_kit(chain: list[Frame]) -> list[Frame]:
    return [frame for frame in chain if not _file(frame).startswith(_KIT + os.sep)]


def _innermost(chain: list[Frame]) -> Frame:
    """Return the innermost frame of the app's own code, or of a library's where the chain has none of the app's."""
    for is_wanted in (_is_in_app, _is_outside_package):
        for frame in reversed(chain):
            if is_wanted(_file(frame)):
                return frame
    return chain[-1]


def _is_in_app(file: str) -> bool:
    return _is_outside_package(file) and not file.startswith(("<", *(path + os.sep for path in _LIBRARIES)))


def _is_outside_package(file: str) -> bool:
    return not file.startswith(_PACKAGE + os.sep)


def _file(frame: Frame) -> str:
    return frame[0].f_code.co_filename


def _traceback_lines(frame: Frame) -> list[str]:
    """Return the lines that a traceback has for the frame."""
    code, number = frame[0].f_code, frame[1]
    source = linecache.getline(code.co_filename, number, frame[0].f_globals).strip()
    return [f'  File "{code.co_filename}", line {number}, in {code.co_name}', *([f"    {source}"] if source else [])]
