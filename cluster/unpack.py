"""`__main__` of the one file that `ray submit` copies to a cluster's head: unpacks it and submits the job there.

It runs before anything of this project can be imported.
"""

import json
import os
import sys
import zipfile
from pathlib import Path

JOBS = "spansweep-jobs"
"""In the home directory of the head."""


def main() -> None:
    """Unpacks the archive that this file is in, removes it, and becomes `python -m cluster`."""
    archive = Path(__file__).parent
    with zipfile.ZipFile(archive) as packed:
        job = json.loads(packed.read("job.json"))
        directory = Path.home() / JOBS / job["id"]
        packed.extractall(directory)
    archive.unlink()
    os.environ.setdefault("RAY_ADDRESS", "http://127.0.0.1:8265")
    os.chdir(directory)
    os.execv(sys.executable, [sys.executable, "-m", "cluster", *job["arguments"]])


if __name__ == "__main__":
    main()
