"""Makes a build lean: `python -m tools.layers .aws-sam/build`."""

import sys
from pathlib import Path

from tools.layers import LayerError, make_lean

if __name__ == "__main__":
    try:
        make_lean(Path(sys.argv[1]))
    except LayerError as error:
        sys.exit(str(error))
