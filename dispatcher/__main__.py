"""The program: `dispatcher`, and `python -m dispatcher`. Watches for signals before anything is loaded."""

import sys

from dispatcher.infra import descriptors, early_stop

descriptors.open_closed_standard_streams()
early_stop.end_on_signals(sys.argv[1:])

from dispatcher.cli import main  # noqa: E402 -- it takes a third of a second

if __name__ == "__main__":
    main()
