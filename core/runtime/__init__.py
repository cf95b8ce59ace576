"""What runs agents: the seam, and the runtimes of this machine."""
