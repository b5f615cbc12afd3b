"""Run as a script by the supervisor: becomes a worker, of the same installation as the supervisor itself.

    python -P boot.py WORKER DESCRIPTOR

`-P` and a path, not `-m`: a folder named dispatcher in the working directory would be taken for this package.
"""

import sys
from pathlib import Path

HOME = str(Path(__file__).resolve().parents[3])

if __name__ == "__main__":
    if HOME not in sys.path:
        sys.path.insert(0, HOME)
    from dispatcher.infra import early_stop

    early_stop.end_with(0, 0, silent=True)  # the supervisor's log has it, each line in its format
    from dispatcher.service.workers.worker import main

    main(sys.argv[1], int(sys.argv[2]))
