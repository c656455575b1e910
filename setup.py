"""Puts the top-level folders of YAML into the wheel as ``ullava/_resources``; everything else is in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
FOLDERS = ("models", "datasets", "configs")
LEFT_OUT = shutil.ignore_patterns("__pycache__", ".*", "*-cache", "language", "tower")
"""``models/*/{language,tower}`` are made by the set-up, of packages that are on the index themselves."""


class BuildWithResources(build_py):
    """Copies the folders after the code. An editable install reads them where they lie."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / "ullava" / "_resources"
        shutil.rmtree(target, ignore_errors=True)
        for folder in FOLDERS:
            shutil.copytree(ROOT / folder, target / folder, ignore=LEFT_OUT)


setup(cmdclass={"build_py": BuildWithResources})
