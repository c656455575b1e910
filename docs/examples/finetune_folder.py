"""Fine-tune `photo` on a folder of images with COCO annotations, by LoRA, and ask what came out.

python docs/examples/finetune_folder.py [IMAGES ANNOTATIONS.json [STEPS]]

Without arguments it takes a few steps on ten photographs, which shows the way and teaches nothing: give it some dozens
of your own and 60 steps or more (docs/your_data.md says what to hold out and how to measure).
"""

import subprocess
import sys
from pathlib import Path

import ullava

EXAMPLES = Path(__file__).parents[2] / "datasets" / "photo_examples"
images, annotations = sys.argv[1:3] if len(sys.argv) > 2 else (EXAMPLES / "images", EXAMPLES / "instances.json")
steps = int(sys.argv[3]) if len(sys.argv) > 3 else 3

RECIPE = f"""
model: photo
init: photo
stage: ground
attn_implementation: eager
lora: {{r: 8, alpha: 16, dropout: 0.0, target: [q_proj, v_proj]}}
loss:
  {{ce: 0.0, bce: 2.0, dice: 1.0, l1: 1.0, giou: 0.5, iou_score: 0.2, presence: 1.5, absent_bce: 2.0,
   mask_plane: lowres}}
dataset:
  mine: {{dataset: ./my_photos, task: res, min_area: 0.005, absent: 0.35, absent_as: empty_mask, turns: 5,
          augment: {{flip: 0.5, crop: 0.5, color: 0.3}}}}
training:
  per_device_train_batch_size: 4
  max_steps: {steps}
  learning_rate: 3.0e-5
  lr_scheduler_type: linear
  logging_steps: 1
  save_strategy: "no"
  eval_strategy: "no"
  seed: 1
"""


def command(*arguments: object) -> None:
    """Run the command line of the environment that runs this script; it says itself what is wrong."""
    done = subprocess.run([sys.executable, "-m", "ullava", *map(str, arguments)], check=False)
    if done.returncode:
        sys.exit(done.returncode)


command("data", "import", "coco", "--images", images, "--annotations", annotations, "--out", "my_photos")
Path("mine.yaml").write_text(RECIPE, encoding="utf-8")
command("check", "mine.yaml")  # what the recipe would show to the model, and everything that is wrong with it
command("train", "mine.yaml", "--out", "run")

photo = sorted(Path(images).glob("*.jpg"))[0]
print(ullava.load("run/model").answer(photo, "Segment the person.").text)
