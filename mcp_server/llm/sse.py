"""Take server-sent events out of a byte stream that may be cut anywhere."""

from __future__ import annotations

_BOM = b"\xef\xbb\xbf"
_LONGEST_LINE = 16 * 1024 * 1024


class LineTooLongError(ValueError):
    """A line of the stream exceeds 16 MiB: this is no stream of chunks."""


class EventParser:
    """Gives the `data` of each event; comments and the other fields are skipped.

    Lines end with LF, CRLF or CR (WHATWG HTML, section 9.2.5).
    """

    def __init__(self) -> None:
        self._started = False
        self._after_cr = False
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, received: bytes) -> list[bytes]:
        """Give the data of every event that `received` completes."""
        if self._after_cr and received:
            # The CR has ended the line already: its LF must not end another.
            self._after_cr = False
            received = received.removeprefix(b"\n")
        if b"\r" in received:
            self._after_cr = received.endswith(b"\r")
            received = received.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if not self._rest and not self._data and _is_plain(received):
            self._started = True
            return received[6:-2].split(b"\n\ndata: ")
        lines = (self._rest + received).split(b"\n")
        self._rest = lines.pop()
        if lines and not self._started:
            self._started = True
            lines[0] = lines[0].removeprefix(_BOM)
        if len(self._rest) > _LONGEST_LINE:
            raise LineTooLongError
        return self._events(lines)

    def finish(self) -> list[bytes]:
        """Give the event that the end of the stream cut the blank line of, if there is one."""
        return self.feed(b"\n\n")

    def _events(self, lines: list[bytes]) -> list[bytes]:
        events: list[bytes] = []
        data = self._data
        for line in lines:
            if line.startswith(b"data:"):
                data.append(line[6:] if line.startswith(b"data: ") else line[5:])
            elif not line and data:
                events.append(data[0] if len(data) == 1 else b"\n".join(data))
                data.clear()
        return events


def _is_plain(received: bytes) -> bool:
    """Tell whether this is whole events of one line of data each, as nearly every read is."""
    return (
        received.startswith(b"data: ")
        and received.endswith(b"\n\n")
        and received.count(b"\n") == 2 * received.count(b"\n\ndata: ") + 2
    )
