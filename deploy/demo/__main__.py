"""Command line of the demo: `python -m monolith_demo`."""

import sys

from monolith_demo.driver.run import main

if __name__ == "__main__":
    sys.exit(main())
