"""Weight files: reading them safely and strictly, and converting released checkpoints to ours."""
