"""`python -m qa_train`."""

import sys

from qa_train.cli import main

if __name__ == "__main__":
    sys.exit(main())
