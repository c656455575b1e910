"""The HTTP API: models behind a queue that makes batches, and the shapes that clients of other servers know."""
