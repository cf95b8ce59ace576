"""The seccomp profile of an agent's pod, and the program that writes it."""
