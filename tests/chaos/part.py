"""A part of Berth with boundaries in it: `python -m tests.chaos.part worker` is `berth worker` that can be held."""

import sys

from tests.chaos.boundaries import install

if __name__ == "__main__":
    install(sys.argv[1])
    from api.cli.main import run

    run()
