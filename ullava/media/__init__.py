"""Images and videos, decoded safely into arrays: the one way in for data, processor and predictor."""
