"""``ullava show``: where a model, dataset or config is, and all that its YAML says, defaults included.

Of a key of these files, what it means; of a kind of file, with ``--schema``, the JSON Schema.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ullava import resources
from ullava.config.described import DOCUMENTS
from ullava.config.json_schema import json_schema
from ullava.config.key_search import find_keys, key_names
from ullava.config.load import dump_config, load_config
from ullava.config.nodes import read_file
from ullava.config.recipes import config_class
from ullava.config.schema import ModelConfig
from ullava.config.site import Site
from ullava.errors import UserError, did_you_mean

HELP = "print where a model, dataset or config is, and its full YAML; or what a key of these files means"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ullava show``."""
    parser.add_argument(
        "name", nargs="?", help="a name that 'ullava list' prints, the path of a YAML file, or a key (augment.crop)"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings to lay over the file")
    parser.add_argument(
        "--sizes",
        action="store_true",
        help="of a model: parameters of its parts and visual tokens of images, with or without its weights",
    )
    parser.add_argument(
        "--schema",
        choices=tuple(DOCUMENTS),
        help="instead of a name: the JSON Schema of files of this kind, which editors complete and check YAML by",
    )


def run(args: argparse.Namespace) -> int:
    """Print the absolute path as a comment, then the merged YAML; with ``--sizes`` a model's figures.

    Raises UserError where neither a name nor ``--schema`` is given, or both are.
    """
    if args.schema is not None:
        if args.name is not None or args.sizes:
            raise UserError(f"--schema {args.schema} is that of a kind of file: leave out {args.name or '--sizes'}")
        print(json.dumps(json_schema(args.schema), indent=2, ensure_ascii=False))
        return 0
    if args.name is None:
        raise UserError("say what to show: a name, the path of a YAML file, or --schema (see 'ullava show --help')")
    if not _is_file(args.name) and (found := find_keys(args.name)):
        if args.overrides or args.sizes:
            raise UserError(f"{args.name} is a key: leave out {' '.join(args.overrides) or '--sizes'}")
        print("\n\n".join("\n".join(key.lines()) for key in found))
        return 0
    path = locate(args.name)
    cls = config_class(path)
    if args.sizes:
        return _show_sizes(path, args.overrides)
    text = read_file(path) if cls is None else dump_config(load_config(cls, path, args.overrides))
    print(f"# {path}")
    print(text, end="")
    return 0


def _is_file(name: str) -> bool:
    """Whether a model, dataset or config is called that, or several are."""
    return Path(name).exists() or any(name in known(kind) for kind in resources.KINDS)


def known(kind: resources.Kind) -> set[str]:
    """Return the names of a kind, and their last parts."""
    names = resources.names(kind)
    return {*names, *(name.rsplit("/", 1)[-1] for name in names)}


def _show_sizes(path: Path, overrides: list[str]) -> int:
    """Print what a model is made of."""
    from ullava.modeling.construction.outline import outline

    if config_class(path) is not ModelConfig:
        raise UserError(f"{path}: --sizes are those of a model")
    print(f"# {path}")
    for line in outline(load_config(ModelConfig, path, overrides), path.parent, site=Site(path)).lines():
        print(line)
    return 0


def locate(name: str) -> Path:
    """Return the YAML file of a model, dataset or config called ``name``.

    Raises:
        UserError: nothing is called that, or more than one thing.
    """
    found: dict[resources.Kind, Path] = {}
    reasons: list[str] = []
    for kind in resources.KINDS:
        try:
            found[kind] = resources.find(kind, name)
        except UserError as error:
            reasons.extend(error.problems)
    # `tiny` is the model of that name before it is the recipe configs/train/tiny.yaml.
    exact = {kind: path for kind, path in found.items() if name in resources.names(kind)}
    paths = sorted(set((exact or found).values()))
    if len(paths) > 1:
        raise UserError([f"'{name}' means several things; write one of these paths:", *map(str, paths)])
    if not paths:
        ambiguous = [reason for reason in reasons if "could be any of" in reason]
        names = {other for kind in resources.KINDS for other in known(kind)}
        near = did_you_mean(name, [*names, *key_names()])
        raise UserError(ambiguous or f"no model, dataset, config or key '{name}'{near}")
    return paths[0]
