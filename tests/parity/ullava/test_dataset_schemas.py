"""Every annotation schema of the original, read through the project's own descriptors; masks and boxes exactly."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from ullava.config.load import dump_config
from ullava.config.schema import DatasetEntry, SplitConfig
from ullava.data.build import build_dataset
from ullava.data.descriptor import load_descriptor
from ullava.data.readers.base import TaskDataset

OURS = {"paco_lvis": "paco_lvis", "refcoco+": "refcoco_plus", "llava_cc3m": "llava_cc3m"}
GROUNDED = ("refcoco", "refcoco+", "refcocog", "refclef", "ade20k", "cocostuff", "paco_lvis", "pascal_part", "msra_10k",
            "msra_b", "dut_omron", "duts_te", "ecssd")  # fmt: skip
IN_WORDS = ("llava_cc3m", "llava_instruct", "sqa", "llava_seg")
