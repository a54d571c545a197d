"""TensorBoard's event files, made from log.jsonl and from nothing else."""

import time
from collections.abc import Iterable
from pathlib import Path

from cxrlib.errors import CxrError

TAGS = {
    "loss": "train/loss",
    "lr": "train/lr",
    "grad_norm": "train/grad_norm",
    "images_per_s": "speed/images_per_s",
    "data_wait": "speed/data_wait",
    "mfu": "speed/mfu",
}
"""Field of a step's line -> name of its curve. Any other number becomes train/NAME: pre-training notes some of its own."""

EPOCH_TAGS = {"loss": "epoch/loss", "val_macro_auroc": "validation/macro_auroc"}
"""The same for an epoch's line. The curves lie over steps too, so that all have one axis."""

SUFFIX = ".cxrlib"


def scalars(line: dict) -> dict[str, float]:
    """The curves that a line of the log adds a point to, with its height. What is null adds none."""
    if line.get("event") == "epoch":
        named = {EPOCH_TAGS[name]: value for name, value in line.items() if name in EPOCH_TAGS}
    elif line.get("event") == "step":
        named = {TAGS.get(name, f"train/{name}"): value for name, value in line.items() if name not in ("event", "step", "time")}
    else:
        named = {}
    return {tag: value for tag, value in named.items() if isinstance(value, int | float) and not isinstance(value, bool)}


class EventFile:
    """One event file that holds what a log holds.

    A new one is written whenever a run goes on, and it begins by telling TensorBoard to forget the one before: steps that the
    log has dropped are gone from the curves too. The name of the file is ours, because TensorBoard's own writer puts the name
    of the computer into it.
    """

    def __init__(self, folder: Path, lines: Iterable[dict] = ()):
        """Begins a new event file with what the log holds so far.

        Args:
            folder: Where `tensorboard --logdir` will look. Event files of others in it stay.
            lines: The log's lines.

        Raises:
            CxrError: TensorBoard is not installed.
        """
        try:
            from tensorboard.compat.proto.event_pb2 import Event, SessionLog
            from tensorboard.compat.proto.summary_pb2 import Summary
            from tensorboard.summary.writer.record_writer import RecordWriter
        except ImportError:
            raise CxrError(
                'TensorBoard is not installed: pip install "cxrlib[tracking]" (or: pip install tensorboard), or leave it out'
            ) from None
        self._event, self._summary = Event, Summary
        folder.mkdir(parents=True, exist_ok=True)
        # A TensorBoard that looks on reads the files in the order of their names, and never leaves one that is gone: the newest stays.
        for old in sorted(folder.glob(f"events.out.tfevents.*{SUFFIX}"))[:-1]:
            old.unlink()
        self.path = folder / f"events.out.tfevents.{time.time_ns()}{SUFFIX}"
        self._writer = RecordWriter(open(self.path, "wb"))
        self._write(Event(file_version="brain.Event:2", wall_time=time.time()))
        self._write(Event(session_log=SessionLog(status=SessionLog.START), step=0, wall_time=time.time()))
        for line in lines:
            self.add(line)

    def add(self, line: dict) -> None:
        """Adds a line of the log; it can be seen at once."""
        values = [self._summary.Value(tag=tag, simple_value=value) for tag, value in scalars(line).items()]
        if values:  # lines of older runs do not say when they were written
            when = line.get("time") or time.time()
            self._write(self._event(step=line["step"], wall_time=when, summary=self._summary(value=values)))

    def _write(self, event) -> None:
        self._writer.write(event.SerializeToString())
        self._writer.flush()

    def close(self) -> None:
        """Closes the file; nothing can be added any more."""
        self._writer.close()
