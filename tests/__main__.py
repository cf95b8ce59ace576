"""`python -m tests`: pytest, in a process that ends as those of Berth do, since tests use Temporal's client too."""

import pytest

from core.leaving import leave

if __name__ == "__main__":
    leave(int(pytest.main()))
