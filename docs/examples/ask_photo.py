"""Ask about a photograph in words: print what the model says, and save the photograph with masks drawn in.

python docs/examples/ask_photo.py [IMAGE [QUESTION]]
"""

import sys
from pathlib import Path

import ullava
from ullava.text.tokens import strip_grounding

PHOTOS = Path(__file__).parents[2] / "datasets" / "photo_examples" / "images"
image = sys.argv[1] if len(sys.argv) > 1 else PHOTOS / "000000343937.jpg"
question = sys.argv[2] if len(sys.argv) > 2 else "Segment the person."

model = ullava.load("photo")
answer = model.answer(image, question)

print(strip_grounding(answer.text))  # text has a [SEG] where a mask was made, and a [LOC] where a box was
for found in answer.objects:
    # mask: bool [height, width] of the image; box_xyxy_px: half-open pixels. Either is None where it was not asked for.
    print(f"{found.phrase}: score {found.score:.2f}, {found.mask.sum() if found.mask is not None else 0} pixels")
for phrase in answer.not_found:
    print(f"{phrase}: not in the image")

answer.to_pil().save("answer.png")
print("drawn: answer.png")
