"""What a demonstration and the tests play with: a small shop to visit, and a model that knows its lines."""
