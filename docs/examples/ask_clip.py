"""Ask about a clip (mp4, mov, avi, gif): answers about clips are words.

python docs/examples/ask_clip.py [CLIP [QUESTION]]

Without arguments a clip of moving shapes is drawn first; `tiny` knows nothing else. MP4 and AVI need the extra `video`.
"""

import sys
import tempfile
from pathlib import Path

import ullava
from ullava.synthetic.write_clips import draw_video_world

if len(sys.argv) > 1:
    clip = Path(sys.argv[1])
else:
    world = draw_video_world(Path(tempfile.mkdtemp()) / "clips", videos=1, seed=2026, split="seen", progress=False)
    clip = next((world / "videos").iterdir())
questions = sys.argv[2:] or ["How many shapes are there?", "What happens in the video?"]

chat = ullava.load("tiny").chat(video=clip)  # the clip is read once for all questions
for question in questions:
    print(question)
    for piece in chat.stream(question):
        if isinstance(piece, str):  # at last comes the whole answer
            print(piece, end="", flush=True)
    print()
