"""Drawing images in several processes.

The workers are fresh interpreters (``python -m hhrnet_deploy.data.synth_workers``) that take their order on stdin and
answer with one line of JSON per image. A forked process would inherit OpenCV's threads in name only and hang in its
first parallel call; ``multiprocessing``'s spawn would import the caller's script again.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

import hhrnet_deploy
from hhrnet_deploy.data.synth_image import Drawn, Order, draw_image
from hhrnet_deploy.data.synth_poses import read_poses
from hhrnet_deploy.signals import children_spared


def draw_images(order: Order, images: int, workers: int) -> Iterator[Drawn]:
    """Draw images 0 to ``images - 1`` and yield them in order, whatever the number of workers.

    Raises:
        OSError: an image could not be written, or a worker died.
    """
    count = min(workers, images)
    if count == 1:
        poses = None if order.poses is None else read_poses(order.poses)
        yield from (draw_image(order, poses, index) for index in range(images))
        return
    with ExitStack() as stack:
        streams = [stack.enter_context(_Worker(order, range(first, images, count))) for first in range(count)]
        for index in range(images):
            yield streams[index % count].next_image()


class _Worker:
    """One process that draws the images of a range; it waits while nobody reads what it has drawn."""

    def __init__(self, order: Order, indices: range) -> None:
        self._task = {"order": asdict(order), "range": [indices.start, indices.stop, indices.step]}

    def __enter__(self) -> _Worker:
        root = str(Path(hhrnet_deploy.__file__).parents[1])
        known = os.environ.get("PYTHONPATH")
        path = root if not known else os.pathsep.join((root, known))
        with children_spared(signal.SIGINT):  # whoever waits for the images ends this process
            self._process = subprocess.Popen(
                # -P: without the current folder, whose files would be taken for modules of the same names.
                [sys.executable, "-P", "-m", "hhrnet_deploy.data.synth_workers"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                encoding="utf-8",
                env={**os.environ, "PYTHONPATH": path},
            )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(self._task))
        self._process.stdin.close()
        return self

    def next_image(self) -> Drawn:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise OSError(f"a drawing process ended early with exit code {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise OSError(*answer["error"])
        return Drawn(**answer)

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


def work(task: dict[str, Any], out: TextIO) -> None:
    """Draw the images of a task and answer each with a line of JSON; a failure to write is the last answer."""
    order = Order(**task["order"])
    poses = None if order.poses is None else read_poses(order.poses)
    try:
        for index in range(*task["range"]):
            print(json.dumps(asdict(draw_image(order, poses, index))), file=out, flush=True)
    except OSError as error:
        print(json.dumps({"error": [error.errno, error.strerror or str(error)]}), file=out, flush=True)


def main() -> None:
    """Entry point of a worker process."""
    import cv2

    cv2.setNumThreads(1)
    try:
        work(json.load(sys.stdin), sys.stdout)
    except BrokenPipeError:  # nobody waits any more
        os._exit(1)


if __name__ == "__main__":
    main()
