"""The sound of a video that is written anew (PyAV, extra ``video``)."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_AAC_RATE = 48_000  # samples per second


class Sound:
    """The first sound track of a file, brought into a container that is being written; silent where there is none.

    Packets are copied where the container takes their codec, and encoded as AAC where not (PCM in MP4). Times count
    from the first picture, as those of `VideoReader` do: recordings of broadcasts start anywhere.

    Args:
        container: of PyAV, open for writing, with its other streams added.
        audio_from: the file; None for silence.
    """

    def __init__(self, container: Any, audio_from: str | None) -> None:
        self._container = container
        self._input: Any = None
        self._packets: Iterator[Any] = iter(())
        self._waiting: Any = None
        self._out: Any = None
        if audio_from is None or not Path(audio_from).is_file():
            return
        import av

        try:
            self._input = av.open(audio_from)
        except av.error.FFmpegError:  # OpenCV reads it, by another library perhaps
            return
        if not self._input.streams.audio:
            return
        track, pictures = self._input.streams.audio[0], self._input.streams.video
        begin = pictures[0].start_time * pictures[0].time_base if pictures and pictures[0].start_time else 0
        self._begin = round(begin / track.time_base)
        copied = _takes(container.format.name, audio_from)
        if copied is None:
            return
        self._copied = copied
        self._out = container.add_stream_from_template(track) if copied else container.add_stream("aac", _AAC_RATE)
        self._packets = self._input.demux(track)

    def bring_to(self, time: float) -> None:
        """Write what is heard until ``time`` in seconds."""
        while (packet := self._next()) is not None:
            if packet.dts is not None and float((packet.dts - self._begin) * packet.time_base) > time:
                return
            self._waiting = None
            if packet.dts is not None and packet.dts >= self._begin:
                self._write(packet)

    def _next(self) -> Any:
        import av

        if self._waiting is None:
            try:
                self._waiting = next(self._packets, None)
            except av.error.FFmpegError:  # the sound of a damaged file ends where it can be read no further
                self._packets = iter(())
        return self._waiting

    def _write(self, packet: Any) -> None:
        import av

        if self._copied:
            packet.dts -= self._begin
            packet.pts = None if packet.pts is None else packet.pts - self._begin
            packet.stream = self._out
            self._container.mux(packet)
            return
        encoded = []
        try:
            for frame in packet.decode():
                frame.pts = None if frame.pts is None else frame.pts - self._begin
                encoded += self._out.encode(frame)
        except av.error.FFmpegError:  # a damaged packet is a gap
            pass
        self._container.mux(encoded)

    def finish(self) -> None:
        """Write what the encoder still holds, and close the input."""
        if self._input is None:
            return
        if self._out is not None and not self._copied:
            self._container.mux(self._out.encode(None))
        self._input.close()


def _takes(container: str, path: str) -> bool | None:
    """Whether a container of this kind takes the first sound track of a file as it is; None where that is empty.

    Tried with a packet, in memory: some codecs are refused when the stream is added, some only when the container is
    closed.
    """
    import av

    with av.open(path) as source:
        track = source.streams.audio[0]
        try:
            packet = next((packet for packet in source.demux(track) if packet.dts is not None), None)
        except av.error.FFmpegError:
            packet = None
        if packet is None:
            return None
        try:
            with av.open(io.BytesIO(), "w", format=container) as trial:
                packet.stream = trial.add_stream_from_template(track)
                trial.mux(packet)
        except (av.error.FFmpegError, ValueError):
            return False
    return True
