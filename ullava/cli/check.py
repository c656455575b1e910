"""``ullava check``: validates YAML, and for a recipe also what it needs: model, datasets, words, data, counts.

Needs neither weights nor an accelerator, and reads a few samples of each dataset, not all.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from ullava import resources
from ullava.cli.recipes import entry_problems, name_problems, read_recipe, sections
from ullava.config.comparison import CompareRecipe
from ullava.config.load import hints, load_config, place
from ullava.config.recipes import config_class
from ullava.config.schema import DatasetConfig, DatasetEntry, EvalRecipe, ModelConfig, TrainRecipe
from ullava.config.site import Site
from ullava.errors import ConfigError, HubUnreachableError, UserError
from ullava.given_files import check_plain
from ullava.structures import Clip

HELP = "validate YAML files; for a recipe also its model, datasets and data"

SAMPLES_READ = 8


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ullava check``."""
    parser.add_argument("recipe", nargs="?", help="name or path of a YAML; without it, every YAML that ullava knows")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the recipe")
    memory = parser.add_argument_group("memory", "what training as a recipe says takes, computed from sizes alone")
    memory.add_argument("--memory", action="store_true", help="print weights, gradients, optimizer and activations")
    memory.add_argument("--processes", type=int, default=1, help="how many processes train (default: 1)")
    memory.add_argument("--tokens", type=int, help="tokens of a row (default: the most that the model takes)")


def run(args: argparse.Namespace) -> int:
    """Print what was found to be right; raise UserError with a line for each thing that is not."""
    if args.memory:
        for line in _memory_lines(args):
            print(line)
        return 0
    if args.recipe is not None:
        path = resources.find("configs", args.recipe) if "/" not in args.recipe else _path(args.recipe)
        for line in check_recipe(path, args.overrides):
            print(line)
        return 0
    checked = check_all()
    print(", ".join(f"{count} {kind}" for kind, count in checked.items()) + ": all valid")
    return 0


def _memory_lines(args: argparse.Namespace) -> list[str]:
    """The table of ``--memory``. Raises UserError for what is no recipe of a training, or a count below 1."""
    if args.recipe is None:
        raise UserError("--memory: name the recipe of a training")
    wrong = [name for name in ("processes", "tokens") if getattr(args, name) is not None and getattr(args, name) < 1]
    if wrong:
        raise UserError([f"--{name}: has to be 1 or more, not {getattr(args, name)}" for name in wrong])
    path = resources.find("configs", args.recipe)
    if config_class(path) is not TrainRecipe:
        raise UserError(f"--memory: {path} is no recipe of a training")
    recipe, path = read_recipe(TrainRecipe, args.recipe, args.overrides)
    from ullava.training.memory.estimate import estimate
    from ullava.training.memory.table import table

    return table(estimate(recipe, path, processes=args.processes, length=args.tokens))


def check_all() -> dict[str, int]:
    """Validate every model, dataset and config there is, without their data; return how many of each.

    Raises:
        UserError: with every problem of every file.
    """
    problems: list[str] = []
    counts: dict[str, int] = {}
    for kind in resources.KINDS:
        names = resources.names(kind)
        counts[kind] = len(names)
        for name in names:
            path = resources.find(kind, f"{name}.yaml" if kind == "configs" else name)
            problems.extend(_problems_of(check_file, path))
    for path in sorted((resources.folder("datasets") / "templates").glob("*.json")):
        if resources.is_stray(path):
            continue
        problems.extend(_problems_of(_check_template, path))
    if problems:
        raise UserError(problems)
    return counts


def check_file(path: Path, overrides: list[str] | None = None) -> object:
    """Validate one YAML file and the names in it; return what was read (None for the settings of a launcher).

    Raises:
        UserError: with every problem.
    """
    cls = config_class(path)
    if cls is None:
        _check_launcher(path)
        return None
    config = load_config(cls, path, overrides or [])
    problems: list[str] = []
    if isinstance(config, ModelConfig):
        problems.extend(_problems_of(_check_model, config, path))
    elif isinstance(config, DatasetConfig):
        problems.extend(_problems_of(_check_descriptor, config, path))
    elif isinstance(config, CompareRecipe):
        problems.extend(_problems_of(_check_comparison, config, path))
    else:
        problems.extend(name_problems(config, path, overrides or []))
    if problems:
        raise UserError(problems)
    return config


def check_recipe(path: Path, overrides: list[str]) -> list[str]:
    """Validate a recipe (or any other YAML) and its data; return lines that say what was found.

    The data of a dataset that knows its own ``root`` is looked at too; a model is built without its weights and told
    in figures.

    Raises:
        UserError: with every problem.
    """
    config = check_file(path, overrides)
    cls = config_class(path)
    lines = [f"{path}: valid", *(f"hint: {line}" for line in (hints(cls, path) if cls is not None else ()))]
    problems: list[str] = []
    if isinstance(config, DatasetConfig) and config.root is not None:
        for split in config.splits:
            try:
                lines.append(f"{split}: {_check_data(str(path), DatasetEntry(split=split), path.parent)}")
            except UserError as error:
                problems.extend(f"{place(path, f'splits.{split}')}: {problem}" for problem in error.problems)
    if isinstance(config, ModelConfig):
        from ullava.modeling.construction.outline import outline

        try:
            lines += outline(config, path.parent, site=Site(path)).lines()
        except HubUnreachableError as error:  # the YAML is right all the same
            lines += [f"no figures: {problem}" for problem in error.problems]
    if isinstance(config, TrainRecipe | EvalRecipe):
        for section, entries in sections(config).items():
            for name, entry in entries.items():
                where = place(path, f"{section}.{name}")
                try:
                    lines.append(f"{section}.{name}: {_check_data(name, entry, Path(config.data_root))}")
                except UserError as error:
                    problems.extend(f"{where}: {section}.{name}: {problem}" for problem in error.problems)
    if problems:
        raise UserError(problems)
    return lines


def _path(name: str) -> Path:
    """Return the YAML file that a path means: of a config, a model or a dataset."""
    path = Path(name)
    if path.is_dir():
        for main in ("model.yaml", "dataset.yaml"):
            if (path / main).is_file():
                return path / main
    return resources.find("configs", name)


def _problems_of(check: Callable[..., object], *arguments: object) -> list[str]:
    try:
        check(*arguments)
    except UserError as error:
        return list(error.problems)
    return []


def _check_data(name: str, entry: DatasetEntry, data_root: Path) -> str:
    """Open a dataset, count it, read a few of its samples; return what was found in words."""
    from ullava.data.converters.published.convert import skipped_lines
    from ullava.data.loading.build import build_dataset, open_store
    from ullava.data.loading.descriptor import locate
    from ullava.data.readers.base import Reader
    from ullava.data.readers.boxes import reader_of

    located = locate(entry.dataset or name, entry, data_root)
    dataset = build_dataset(entry.dataset or name, entry, data_root)
    store = open_store(located)
    found, sentences = len(store), store.facts.get("sentences")
    problems: list[str] = []
    if located.count is not None and found != located.count:
        problems.append(f"{located.annotations}: {found} records, {located.count} expected in split {located.split}")
    if located.about is not None and abs(found - located.about) * 10 > located.about:
        problems.append(
            f"{located.annotations}: {found} records, about {located.about} expected in split {located.split}"
        )
    if located.sentences is not None and sentences is not None and sentences != located.sentences:
        problems.append(
            f"{located.annotations}: {sentences} expressions, {located.sentences} expected in split {located.split}"
        )
    for index in sorted({len(dataset) * i // SAMPLES_READ for i in range(SAMPLES_READ)}):
        try:
            samples = dataset.queries(index)
        except UserError as error:
            problems.extend(error.problems)
            continue
        for image in sorted({image for sample in samples for image in sample.images}):
            problems += _absent(image, "image", dataset.sources(index))
        for clip in {clip.path: clip for sample in samples for clip in sample.videos}.values():
            problems += _absent_clip(clip, dataset.sources(index))
    if problems:
        raise UserError(problems)
    form = "; original files" if located.original is not None else ""
    counted = f"{found} records in {located.annotations}, {len(dataset)} samples{form}"
    reader = reader_of(dataset)
    told = reader.told() if isinstance(reader, Reader) else []
    return "; ".join([counted, *told, *skipped_lines(store.facts)])


def _absent(path: Path, what: str, source: str) -> list[str]:
    """Return a line about a file of a record where it is not there, or no plain file."""
    try:
        check_plain(path, what=what)
    except UserError as error:
        return [f"{problem} ({source})" for problem in error.problems]
    return []


def _absent_clip(clip: Clip, source: str) -> list[str]:
    """The same about a video, or the frames of one that is a folder."""
    if not clip.path.is_dir():
        return _absent(clip.path, "video", source)
    from ullava.media.frame_folder import frame_files

    return [f"{problem} ({source})" for problem in _problems_of(frame_files, clip.path)]


def _check_model(config: ModelConfig, path: Path) -> None:
    if config.weights is not None and not (path.parent / config.weights).is_dir():
        raise ConfigError(f"{place(path, 'weights')}: weights: no folder {path.parent / config.weights}")


def _check_descriptor(config: DatasetConfig, path: Path) -> None:
    from ullava.data.loading.descriptor import load_descriptor

    load_descriptor(str(path))
    original = config.original.splits if config.original is not None else {}
    problems = [] if config.splits or original else [f"{place(path, 'splits')}: splits: names no split"]
    for split in config.splits:
        problems.extend(entry_problems(str(path), DatasetEntry(split=split)))
    for split in original:
        problems.extend(entry_problems(str(path), DatasetEntry(split=split, form="original")))
    if problems:
        raise ConfigError(problems)


def _check_comparison(config: CompareRecipe, path: Path) -> None:
    """The evaluation has to be there; the models may still have to be trained."""
    evaluation = resources.find("configs", config.recipe)
    if config_class(evaluation) is not EvalRecipe:
        raise ConfigError(f"{place(path, 'recipe')}: recipe: {evaluation} is no evaluation")


def _check_launcher(path: Path) -> None:
    from ullava.config import nodes

    problems: list[str] = []
    nodes.parse(nodes.read_file(path), str(path), problems)
    if problems:
        raise ConfigError(problems)


def _check_template(path: Path) -> None:
    import json

    from ullava.data.readers.templates import PHRASE_MARKER, Templates
    from ullava.text.tokens import REGION_MARKER

    texts = json.loads(path.read_text(encoding="utf-8"))
    words = "".join(text for text in texts if isinstance(text, str))
    pointed = REGION_MARKER in words
    Templates.load(path, with_phrase=PHRASE_MARKER in words or pointed, may_point=pointed)
