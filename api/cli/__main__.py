"""`python -m api.cli`, as the local stack starts its parts."""

import sys

from api.cli.main import main

sys.exit(main())
