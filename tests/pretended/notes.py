"""What a pretended GPU keeps account of: who used which memory on which stream, and where the host would wait.

A stream has a vector clock: how far along each other stream was, of which it is known that it has come so far. A use of
memory is a race where an earlier use by another stream is not known to be done.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

OURS = ("/sslpipe/", "/benchmarks/", "/timm/", "/tests/")  # folders whose lines say where something happened


@dataclass(frozen=True, order=True)
class Note:
    """Something a GPU would suffer from."""

    kind: str  # wait: the host waits for the device; pageable: a copy from memory that is not pinned; race
    what: str
    where: str  # the innermost lines of the project's own code
    phase: str  # the part of the program, as `Gpu.phase` named it

    def __str__(self) -> str:
        return f"{self.kind}{f' in {self.phase}' if self.phase else ''}: {self.what} at {self.where}"


class Stream:
    """A queue of work on a device: a count of what was put there, and a vector clock."""

    def __init__(self, gpu: Gpu, device: int, name: str) -> None:
        self.gpu, self.device_index, self.name = gpu, device, name
        self.device = torch.device("cuda", device)
        self.tick, self.clock = 0, dict[Stream, int]()

    def __repr__(self) -> str:
        return self.name

    def knows(self, other: Stream, tick: int) -> bool:
        """Whether what `other` had done at `tick` is done before what comes next here."""
        return other is self or self.clock.get(other, 0) >= tick

    def learn(self, clock: dict[Stream, int]) -> None:
        for stream, tick in clock.items():
            self.clock[stream] = max(self.clock.get(stream, 0), tick)

    def record_event(self, event: Event | None = None) -> Event:
        event = event or Event(self.gpu)
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        self.learn(event.clock)

    def wait_stream(self, stream: Stream) -> None:
        self.wait_event(stream.record_event())

    def synchronize(self) -> None:
        self.gpu.note("wait", "stream.synchronize()")
        self.gpu.host_learns(self)

    def query(self) -> bool:
        return True


class Event:
    """A point of a stream."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu, self.clock = gpu, dict[Stream, int]()

    def record(self, stream: Stream | None = None) -> None:
        stream = stream or self.gpu.current()
        self.clock = {**stream.clock, stream: stream.tick}

    def wait(self, stream: Stream | None = None) -> None:
        (stream or self.gpu.current()).wait_event(self)

    def synchronize(self) -> None:
        self.gpu.note("event", "event.synchronize()")  # what was recorded steps ago has long happened
        for stream, tick in self.clock.items():
            self.gpu.host[stream] = max(self.gpu.host.get(stream, 0), tick)

    def query(self) -> bool:
        return True

    def elapsed_time(self, other: Event) -> float:
        return 1.0


@dataclass(frozen=True)
class Use:
    """What a stream did with some memory."""

    stream: Stream
    tick: int
    what: str  # the operation, and where it was called

    def done_for(self, stream: Stream) -> bool:
        return stream.knows(self.stream, self.tick)


class Memory:
    """Memory of a device: the stream that it goes back to, and who used it last."""

    def __init__(self, gpu: Gpu, device: int) -> None:
        self.gpu, self.stream = gpu, gpu.current(device)
        self.write: Use | None = None
        self.reads: dict[Stream, Use] = {}
        self.recorded: set[Stream] = (
            set()
        )  # streams that torch's allocator waits for before it gives it out again
        self.made = where()

    def __del__(self) -> None:
        if self.gpu.over:
            return
        last = {**({self.write.stream: self.write} if self.write else {}), **self.reads}
        for use in last.values():
            if use.stream not in self.recorded and not use.done_for(self.stream):
                said = f"memory of {self.stream}, made at {self.made}, is freed while {use.stream} may still use it"
                self.gpu.add(Note("race", f"{said}: {use.what}", "", self.gpu.here.phase))


class Here(threading.local):
    """The current device and streams, which each thread has for itself."""

    def __init__(self) -> None:
        self.device, self.phase = 0, ""
        self.streams: dict[int, Stream] = {}


class Gpu:
    """One or more GPUs that are not there, and what was noted of them."""

    def __init__(self, count: int) -> None:
        self.count, self.here, self.over = count, Here(), False
        self.notes: Counter[Note] = Counter()
        self.operations: Counter[str] = Counter()  # by name: launches, more or less
        self.streams_made: Counter[str] = Counter()  # by where
        self.seeded: Counter[int] = Counter()  # by device
        self.copied: Counter[str] = Counter()  # bytes, by direction
        self.host: dict[Stream, int] = {}  # what the host has waited for
        self.pinned: dict[int, Any] = {}  # the storages of pinned memory, kept so that no address comes twice
        self.lock = threading.RLock()
        self.default = [Stream(self, k, f"default stream of cuda:{k}") for k in range(count)]

    def of(self, *kinds: str, phase: str | None = None) -> list[str]:
        """The notes of these kinds, as text with counts, the most frequent first."""
        found = [
            (note, count) for note, count in self.notes.most_common()
            if note.kind in kinds and (phase is None or note.phase == phase)
        ]  # fmt: skip
        return [f"{count} × {note}" for note, count in found]

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Name a part of the program, for what this thread does meanwhile."""
        before, self.here.phase = self.here.phase, name
        try:
            yield
        finally:
            self.here.phase = before

    def note(self, kind: str, what: str) -> None:
        self.add(Note(kind, what, where(), self.here.phase))

    def add(self, note: Note) -> None:
        with self.lock:
            self.notes[note] += 1

    def index(self, device: Any = None) -> int:
        """The number of a device: the current one where it does not say."""
        if device is None or isinstance(device, int):
            return self.here.device if device is None else device
        number = torch.device(device).index
        return self.here.device if number is None else number

    def current(self, device: int | None = None) -> Stream:
        """This thread's stream of a device."""
        device = self.here.device if device is None else device
        return self.here.streams.get(device) or self.default[device]

    def new_stream(self, device: Any = None) -> Stream:
        self.streams_made[where()] += 1
        number = self.index(device)
        return Stream(self, number, f"side stream {self.streams_made.total()} of cuda:{number}")

    @contextlib.contextmanager
    def on(self, stream: Stream | None) -> Iterator[None]:
        """As `torch.cuda.stream`."""
        here = self.here
        before = here.device, dict(here.streams)
        if stream is not None:
            here.device = stream.device_index
            here.streams[stream.device_index] = stream
        try:
            yield
        finally:
            here.device, here.streams = before

    def host_learns(self, stream: Stream) -> None:
        """The host has waited for all that a stream was given."""
        for each, tick in {**stream.clock, stream: stream.tick}.items():
            self.host[each] = max(self.host.get(each, 0), tick)

    def work(self, device: int, name: str, reads: list[Memory], writes: list[Memory]) -> None:
        """Note a piece of work on this thread's stream; a race where it uses what another may still use."""
        with self.lock:
            stream, place = self.current(device), where()
            stream.tick += 1
            stream.learn(self.host)  # whatever comes next comes after what the host has waited for
            use = Use(stream, stream.tick, f"{name} at {place}")
            for memory in writes:
                self._check([memory.write, *memory.reads.values()], use, "writes")
            for memory in reads:
                self._check([memory.write], use, "reads")
                memory.reads[stream] = use
            for memory in writes:
                memory.write, memory.reads = use, {}

    def _check(self, before: list[Use | None], use: Use, verb: str) -> None:
        for earlier in before:
            if earlier is not None and not earlier.done_for(use.stream):
                said = f"{use.stream} {verb} what {earlier.stream} may not be done with"
                said = f"{said}: {use.what} after {earlier.what}"
                self.add(Note("race", said, "", self.here.phase))


_PLACES: dict[Any, str] = {}  # of code objects: the short name of a file of ours, empty for others


def where(depth: int = 2) -> str:
    """The innermost lines of the project's own code."""
    found: list[str] = []
    frame = sys._getframe(1)
    while frame is not None and len(found) < depth:
        code = frame.f_code
        place = _PLACES.get(code)
        if place is None:
            place = _PLACES[code] = _short(code.co_filename)
        if place:
            found.append(f"{place}:{frame.f_lineno} {code.co_name}")
        frame = frame.f_back  # type: ignore[assignment]
    return " < ".join(found)


def _short(file: str) -> str:
    folder = next((each for each in OURS if each in file and "/pretended/" not in file), None)
    return file[file.rindex(folder) + 1 :] if folder else ""
