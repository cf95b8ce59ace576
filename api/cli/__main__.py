"""`python -m api.cli`, as the local stack starts its parts."""

from api.cli.main import run

run()
