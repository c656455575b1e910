"""Use the model as a pipeline of transformers: words by transformers' own task, masks by ours.

python docs/examples/transformers_pipeline.py [IMAGE]
"""

import sys
from pathlib import Path

from transformers import pipeline

import ullava  # from here on transformers knows our models, and the task "referring-segmentation"

PHOTOS = Path(__file__).parents[2] / "datasets" / "photo_examples" / "images"
image = sys.argv[1] if len(sys.argv) > 1 else str(PHOTOS / "000000343937.jpg")

# `photo` is put together of pretrained parts and adapters, which ullava.load does. A folder that is whole, such as what
# `ullava train` writes, can be named: pipeline("referring-segmentation", model="run/model").
photo = ullava.load("photo", dtype="float32")

segment = pipeline("referring-segmentation", model=photo.model, processor=photo.processor)
for found in segment(image, text="the person", threshold=0.5):
    print(f"{found['phrase']}: score {found['score']:.2f}, box {found['box']}")
    found["mask"].save("mask.png")  # a Pillow image of 0 and 255

ask = pipeline("image-text-to-text", model=photo.model, processor=photo.processor)
question = {"type": "text", "text": "Describe the image."}
messages = [{"role": "user", "content": [{"type": "image", "path": image}, question]}]
(result,) = ask(text=messages, max_new_tokens=40)
print(result["generated_text"][-1]["content"])
