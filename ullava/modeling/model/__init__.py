"""The network itself: forward, generation, and how visual tokens enter the language model."""
