"""Subscriptions of the library's applications on SQLite, which the library itself does not have."""

from collections.abc import Sequence
from threading import Event, Thread
from typing import Any, TypeVar

from eventsourcing.persistence import ApplicationRecorder, ListenNotifySubscription

_Recorder = TypeVar("_Recorder", bound=ApplicationRecorder)
_LOOK_SECONDS = 0.01


class SQLiteSubscription(ListenNotifySubscription[_Recorder]):
    """Looks every 10 ms whether the log has grown, by whichever process."""

    def __init__(self, recorder: _Recorder, gt: int | None = None, topics: Sequence[str] = ()) -> None:
        super().__init__(recorder=recorder, gt=gt, topics=topics)
        self._stopped = Event()
        self._looking = Thread(target=self._look, name="deployledger-subscription", daemon=True)
        self._looking.start()

    def _look(self) -> None:
        seen: int | None = None
        try:
            while not self._stopped.wait(_LOOK_SECONDS):
                end = self._recorder.max_notification_id()
                if end != seen:
                    seen = end
                    self._has_been_notified.set()
        except BaseException as error:  # as the library does: the reader gets it
            self._thread_error = self._thread_error or error
            self.stop()

    def __exit__(self, *args: object, **kwargs: Any) -> None:
        self._stopped.set()
        self._looking.join()
        super().__exit__(*args, **kwargs)
