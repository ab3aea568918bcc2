"""A hang of the application under test, as a failure that names the await it hangs in."""

from __future__ import annotations

import linecache
import os
import sysconfig

from ._tasks import Frame
from ._transcript import Transcript, story

_HERE = os.path.dirname(os.path.abspath(__file__))
_PACKAGE = os.path.dirname(_HERE)
_INSTALLED = tuple(
    {os.path.realpath(path) for name, path in sysconfig.get_paths().items() if name.endswith(("lib", "stdlib"))}
    | {path for name, path in sysconfig.get_paths().items() if name.endswith(("lib", "stdlib"))}
)


class Hang(AssertionError):
    """The application under test did not end in time.

    The text names the await that it hangs in: file, line, function, and the source. `transcript` is what had happened
    until then.
    """

    def __init__(self, text: str, transcript: Transcript) -> None:
        super().__init__(text)
        self.transcript = transcript

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.args[0], self.transcript)


def describe(why: str, chains: list[list[Frame]], transcript: Transcript) -> str:
    """The text of a `Hang`. Each chain is one task's, the outermost frame first."""
    text = [why]
    shown = [chain for chain in map(_without_kit, chains) if chain]
    for chain in shown[:1]:
        text += ["It hangs in", "", *_lines(_innermost(chain)), ""]
    for index, chain in enumerate(shown):
        text += ["by this chain of awaits:" if index == 0 else "and a task that it has started is in", ""]
        innermost = _innermost(chain)
        # What it calls, but not what that is made of.
        for frame in chain[: chain.index(innermost) + 2] if index == 0 else [innermost]:
            text += _lines(frame)
        text.append("")
    return "\n".join([*text, "What had happened until then:", "", *story(transcript)])


def _without_kit(chain: list[Frame]) -> list[Frame]:
    return [frame for frame in chain if not _file(frame).startswith(_HERE + os.sep)]


def _innermost(chain: list[Frame]) -> Frame:
    """The innermost frame of the application's own code; of a library's, where it has none of its own there."""
    for is_own in (_is_applications, _is_not_ours):
        for frame in reversed(chain):
            if is_own(_file(frame)):
                return frame
    return chain[-1]


def _is_applications(file: str) -> bool:
    return _is_not_ours(file) and not file.startswith(("<", *(path + os.sep for path in _INSTALLED)))


def _is_not_ours(file: str) -> bool:
    return not file.startswith(_PACKAGE + os.sep)


def _file(frame: Frame) -> str:
    return frame[0].f_code.co_filename


def _lines(frame: Frame) -> list[str]:
    """As a traceback has it."""
    code, number = frame[0].f_code, frame[1]
    source = linecache.getline(code.co_filename, number, frame[0].f_globals).strip()
    return [f'  File "{code.co_filename}", line {number}, in {code.co_name}', *([f"    {source}"] if source else [])]
