"""Being told that a directory has changed, and being woken.

Directories are watched and not files: a watch on a file stays with the old one when the log is rotated. An event means
no more than "go and look". Where the kernel offers no watches, nothing rings, and the follower's periodic check does
all the work.
"""

import logging
import os
import select
from collections.abc import Callable, Sequence
from contextlib import suppress
from io import FileIO

from watchdog.events import FileCreatedEvent, FileModifiedEvent, FileMovedEvent, FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver, ObservedWatch

# An emitter that is being stopped while it reports an event says so as an error; it is none.
logging.getLogger("watchdog.observers.inotify").addFilter(lambda record: "thread is inactive" not in str(record.msg))


class Bell:
    """Wakes one waiting thread. A pipe and not a lock, because :meth:`ring` must be safe inside a signal handler."""

    def __init__(self) -> None:
        reader, writer = os.pipe()
        for fd in (reader, writer):
            os.set_blocking(fd, False)
        self._reader = FileIO(reader, "rb")
        self._writer = FileIO(writer, "wb")
        self._poll = select.poll()
        self._poll.register(reader, select.POLLIN)

    def ring(self) -> None:
        """From any thread or signal handler. A full pipe is fine (it will wake anyway), and so is a closed one."""
        with suppress(ValueError):
            self._writer.write(b"\0")

    def wait(self, seconds: float) -> None:
        """Until the bell rings, or has rung since the last wait, or the time is up."""
        if self._poll.poll(max(0.0, seconds) * 1000):
            self._reader.read(65536)

    def close(self) -> None:
        self._writer.close()
        self._reader.close()


class DirectoryWatch:
    """Rings the bell when something happens to a log, or to a file named like one (its older generations)."""

    def __init__(self, paths: Sequence[str], bell: Bell, on_notice: Callable[[str], None]) -> None:
        self._paths = paths
        self._handler = _Ringer(paths, bell)
        self._on_notice = on_notice
        self._watched: dict[str, tuple[tuple[int, int], ObservedWatch]] = {}
        self._refused: set[str] = set()
        self._observer: BaseObserver | None = None
        try:
            observer = Observer()
            observer.daemon = True
            observer.start()
        except OSError as error:
            on_notice(f"the kernel offers no file watches ({error.strerror}); looking at the logs periodically instead")
            return
        self._observer = observer
        self.check()

    def check(self) -> None:
        """Watch directories that have appeared, and those that were replaced by others of the same name."""
        if self._observer is None:
            return
        for directory in self._directories():
            try:
                status = os.stat(directory)
                identity = status.st_dev, status.st_ino
                if directory in self._watched:
                    if self._watched[directory][0] == identity:
                        continue
                    self._observer.unschedule(self._watched.pop(directory)[1])
                self._watched[directory] = identity, self._schedule(self._observer, directory)
                self._refused.discard(directory)
            except FileNotFoundError:
                continue
            except OSError as error:
                if directory not in self._refused:
                    self._refused.add(directory)
                    self._on_notice(f"cannot watch {directory} ({error.strerror}); looking at it periodically instead")

    def close(self) -> None:
        if self._observer is not None:
            self._observer.stop()
            self._observer.join()
            self._observer = None

    def _schedule(self, observer: BaseObserver, directory: str) -> ObservedWatch:
        return observer.schedule(self._handler, directory, event_filter=[FileModifiedEvent, FileCreatedEvent, FileMovedEvent])

    def _directories(self) -> set[str]:
        """Where the names are, and where the files are if the names are symlinks."""
        found = set()
        for path in self._paths:
            found.add(os.path.realpath(os.path.dirname(os.path.abspath(path))))
            found.add(os.path.dirname(os.path.realpath(path)))
        return found


class _Ringer(FileSystemEventHandler):
    def __init__(self, paths: Sequence[str], bell: Bell) -> None:
        names = {os.path.basename(name) for path in paths for name in (path, os.path.realpath(path))}
        self._stems = tuple(os.path.splitext(name)[0] for name in names)
        self._bell = bell

    def dispatch(self, event: FileSystemEvent) -> None:
        for path in (event.src_path, event.dest_path):
            if os.path.basename(os.fsdecode(path)).startswith(self._stems):
                self._bell.ring()
                return
