"""The cluster of our own: that it comes up, serves, breaks where it is told to, and leaves nothing."""
