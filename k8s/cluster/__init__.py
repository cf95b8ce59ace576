"""A real Kubernetes on one Linux machine, for tests and rehearsal: no registry, no virtual machine, nothing left."""
