"""Run under torchrun: one process is late; each writes when it was done and when it had left the others.

``python leaving_probe.py FOLDER``; times are of one clock for all processes of the machine.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from hhrnet_deploy.train.distributed import joined


def main(folder: Path) -> None:
    with joined() as world:
        time.sleep(world.rank)
        done = time.monotonic()
    (folder / f"{world.rank}.json").write_text(json.dumps({"done": done, "left": time.monotonic()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
