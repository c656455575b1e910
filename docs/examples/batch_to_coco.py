"""Ask the same about a folder of images, and write what was found as a COCO file with masks.

python docs/examples/batch_to_coco.py [FOLDER [QUESTION]]

A run that was broken off goes on where it stopped when it is started again.
"""

import json
import subprocess
import sys
from pathlib import Path

PHOTOS = Path(__file__).parents[2] / "datasets" / "photo_examples" / "images"
folder = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else PHOTOS.resolve()
question = sys.argv[2] if len(sys.argv) > 2 else "Segment the person."
out = Path("people")


def ullava(*arguments: object) -> None:
    """Run the command line of the environment that runs this script; it says itself what is wrong."""
    done = subprocess.run([sys.executable, "-m", "ullava", *map(str, arguments)], check=False)
    if done.returncode:
        sys.exit(done.returncode)


out.mkdir(exist_ok=True)
images = sorted(path for path in folder.iterdir() if path.suffix.lower() in {".jpg", ".jpeg", ".png", ".webp"})
lines = [json.dumps({"image": str(path), "prompt": question, "id": path.stem}) for path in images]
(out / "questions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")

ullava("predict", "--model", "photo", "--input", out / "questions.jsonl", "--out", out / "answers", "--batch-size", 4)
ullava("export", out / "answers", "--to", "coco", "--out", out / "coco", "--min-score", 0.5)

coco = json.loads((out / "coco" / "instances.json").read_text(encoding="utf-8"))
names = {category["id"]: category["name"] for category in coco["categories"]}
for image in coco["images"]:
    found = [item for item in coco["annotations"] if item["image_id"] == image["id"]]
    print(image["file_name"], [f"{names[item['category_id']]} {item['score']:.2f}" for item in found])
