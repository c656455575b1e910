"""Ask a server with OpenAI's client (pip install openai): words as they come, then masks.

python docs/examples/http_openai.py [ADDRESS]

ADDRESS is where `ullava serve --model photo` listens, such as http://127.0.0.1:8000; without it one is started here.
"""

import base64
import sys
from pathlib import Path

from _local_server import server_at
from openai import OpenAI
from pycocotools import mask as rle

IMAGE = Path(__file__).parents[2] / "datasets" / "photo_examples" / "images" / "000000343937.jpg"

with server_at(sys.argv[1] if len(sys.argv) > 1 else None, "photo") as address:
    client = OpenAI(base_url=f"{address}/v1", api_key="none")  # with --api-key KEY on the server: that key
    url = "data:image/jpeg;base64," + base64.b64encode(IMAGE.read_bytes()).decode()
    content = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": "Segment the person."},
    ]
    asked = [{"role": "user", "content": content}]

    found = []
    for chunk in client.chat.completions.create(model="photo", messages=asked, stream=True):
        for choice in chunk.choices:
            print(choice.delta.content or "", end="", flush=True)
            found += getattr(choice.delta, "grounding", None) or []  # in the last piece
    print()
    for item in found:
        mask = rle.decode(item["mask"]).astype(bool)  # [height, width] of the image
        print(f"{item['phrase']}: score {item['score']:.2f}, {mask.sum()} of {mask.size} pixels")
