"""The processor: text and images to rows, answers back to pixels."""
