"""`python -m sweeps`."""

import sys

from qa_train.openmp import let_threads_sleep

let_threads_sleep()  # before anything imports PyTorch

from sweeps.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
