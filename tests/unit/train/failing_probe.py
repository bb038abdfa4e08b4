"""Run under torchrun: the first process fails after its last step; the others write what they are told.

``python failing_probe.py FOLDER``
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from hhrnet_deploy.errors import HHRNetError
from hhrnet_deploy.train.distributed import joined

_PATIENCE = 60.0  # seconds


def main(folder: Path) -> None:
    told = folder / "told.txt"
    try:
        with joined() as world:
            if world.leads:
                raise OSError("the disk is full")
    except OSError:
        # The launcher ends the others when one exits.
        until = time.monotonic() + _PATIENCE
        while not told.exists() and time.monotonic() < until:
            time.sleep(0.1)
    except HHRNetError as error:
        told.write_text(str(error))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
