"""What a training run needs of memory, told before it starts."""
