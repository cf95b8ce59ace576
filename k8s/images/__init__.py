"""Images without a registry: built here from a Debian made here, loaded into containerd or kind."""
