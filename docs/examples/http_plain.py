"""Ask a server with plain HTTP (pip install requests): a file and a query, and what an error looks like.

python docs/examples/http_plain.py [ADDRESS]

ADDRESS is where `ullava serve --model photo` listens, such as http://127.0.0.1:8000; without it one is started here.
"""

import sys
from pathlib import Path

import requests
from _local_server import server_at
from pycocotools import mask as rle

IMAGE = Path(__file__).parents[2] / "datasets" / "photo_examples" / "images" / "000000343937.jpg"

with server_at(sys.argv[1] if len(sys.argv) > 1 else None, "photo") as address:
    with IMAGE.open("rb") as file:
        reply = requests.post(
            f"{address}/v1/predictions/upload",
            files={"image": file},
            data={"query": "the person"},  # a name or an expression; a whole sentence is asked as it stands
            timeout=120,
        )
    reply.raise_for_status()
    answer = reply.json()
    print(answer["text"], f"({answer['total_time_ms']:.0f} ms)")
    for item in answer["masks"]:
        mask = rle.decode(item["rle"]).astype(bool)  # [height, width] of the image
        print(f"{item['phrase']}: box {item['bbox']}, score {item['score']:.2f}, {mask.sum()} pixels")

    # Whatever is wrong comes with a status, a code and one sentence.
    wrong = requests.get(f"{address}/v1/models/foto", timeout=120)
    print(wrong.status_code, wrong.json()["error"]["message"])
