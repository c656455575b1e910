"""Hand an answer to supervision (pip install 'ullava[supervision]'): Detections, annotators, filters.

python docs/examples/to_supervision.py [IMAGE [QUESTION]]
"""

import sys
from pathlib import Path

import supervision as sv
from PIL import Image

import ullava

PHOTOS = Path(__file__).parents[2] / "datasets" / "photo_examples" / "images"
path = sys.argv[1] if len(sys.argv) > 1 else PHOTOS / "000000343937.jpg"
question = sys.argv[2] if len(sys.argv) > 2 else "Segment the person."

detections = ullava.load("photo").answer(path, question).to_supervision()
detections = detections[detections.confidence >= 0.5]
print(f"{len(detections)}: {', '.join(detections['phrase'])}, {detections.area} pixels")

scene = Image.open(path).convert("RGB")
labels = [f"{name} {score:.2f}" for name, score in zip(detections["phrase"], detections.confidence, strict=True)]
scene = sv.MaskAnnotator().annotate(scene, detections)
sv.LabelAnnotator().annotate(scene, detections, labels=labels).save("supervision.png")
print("drawn: supervision.png")
