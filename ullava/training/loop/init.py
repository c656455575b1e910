"""Where a run begins: a model built afresh, the weights that ``init`` names, or a LoRA run that goes on."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ullava.config.load import load_config, place
from ullava.config.schema import HeadsConfig, LossConfig, ModelConfig, TrainRecipe
from ullava.config.site import Site
from ullava.errors import ConfigError
from ullava.inference.load import names_saved_model, weights_folder
from ullava.modeling.construction.auto import load_folder, load_unmerged_folder
from ullava.modeling.construction.build import build_model, to_model_config
from ullava.modeling.construction.fresh_heads import build_fresh_box, build_fresh_heads
from ullava.modeling.construction.fresh_regions import add_regions
from ullava.modeling.construction.language_base import is_adapted
from ullava.modeling.construction.stage_settings import change_conversation, change_vision
from ullava.resources import find
from ullava.training.optim.lora import attach_adapters, base_folder, is_adapter, load_adapter, read_run

LOSS_KEY = "loss_weights"
"""Where ``config.json`` of a trained model keeps the loss weights that it was trained with."""
STAGE_KEY = "trained_stage"
"""Where it keeps the stage; after ``align`` the heads are not trained yet."""


@dataclass(frozen=True)
class Start:
    """A model before its first step. ``base``: the folder that its frozen weights are in, where there is one.

    ``fresh_heads``: the heads are not those of ``base``. ``source``: where there is no base, the folder that its
    frozen weights are in: of a system without its language model, or an adapter that stands for itself.
    """

    model: Any
    processor: Any
    adapters: Any
    loss: LossConfig
    base: Path | None
    fresh_heads: bool = False
    source: Path | None = None


def start_model(recipe: TrainRecipe, recipe_path: Path) -> Start:
    """Make the model as ``recipe`` says. Raises UserError for what does not fit together, before any step is taken."""
    adapter = Path(recipe.init)
    goes_on = is_adapter(adapter) or is_adapted(adapter)
    spelt_out = recipe.system is not None or not names_saved_model(recipe.model)
    begins = not goes_on and recipe.init != "scratch" and not isinstance(recipe.reinit_heads, HeadsConfig)
    if recipe.fresh_regions and not (begins and spelt_out):
        raise ConfigError(
            f"{place(recipe_path, 'fresh_regions')}: fresh_regions: only where init names weights to start from, and "
            "model a model.yaml with vision.regions"
        )
    if goes_on:
        start = _going_on(recipe, recipe_path, adapter)
        _as_the_stage_sees(start.model, start.processor, recipe, recipe_path)
        return start
    base = None if recipe.init == "scratch" else weights_folder(recipe.init)
    model, processor = _plain_model(recipe, recipe_path, base)
    _as_the_stage_sees(model, processor, recipe, recipe_path)
    loss = _loss(recipe, model.config)
    adapters = attach_adapters(model.core.adapted()[1], recipe.lora, str(recipe_path)) if recipe.lora else None
    return Start(model, processor, adapters, loss, base, recipe.reinit_heads != "none")


def _as_the_stage_sees(model: Any, processor: Any, recipe: TrainRecipe, recipe_path: Path) -> None:
    """Take up what the recipe does otherwise than the model says."""
    if recipe.vision:
        change_vision(model, processor, recipe.vision, f"{place(recipe_path, 'vision')}: vision")
    if recipe.conversation is not None:
        change_conversation(model, processor, recipe.conversation)


def note_in_config(model: Any, recipe: TrainRecipe, loss: LossConfig) -> None:
    """Write into the model's config what a later run goes on with: loss weights and stage.

    Where masks end (``mask_cut``) stays as it was chosen, so that before and after are cut alike.
    """
    setattr(model.config, LOSS_KEY, asdict(loss))
    setattr(model.config, STAGE_KEY, recipe.stage)
    model.config.presence_scale, model.config.presence_shift = 1.0, 0.0  # fitted to other weights, if at all


def _going_on(recipe: TrainRecipe, recipe_path: Path, adapter: Path) -> Start:
    """Take up the adapters, and all else that a LoRA run trained, on the same base."""
    where = f"{place(recipe_path, 'init')}: init"
    attention = recipe.attn_implementation
    without_language = is_adapted(adapter)
    if recipe.reinit_heads != "none" and not (without_language and recipe.reinit_heads == "box"):
        raise ConfigError(f"{where}: a LoRA run goes on with its own heads; leave 'reinit_heads' out")
    if without_language:
        model, processor, adapters = load_unmerged_folder(adapter.parent, attn_implementation=attention)
        if recipe.reinit_heads == "box":
            config, folder, site = _model_config(recipe, recipe_path)
            build_fresh_box(model, processor, config.box, folder, attn_implementation=attention, site=site.of("box"))
    else:
        model, processor, adapters = load_adapter(adapter, attn_implementation=attention, trainable=True)
    there = _lora_of(adapters)
    if recipe.lora is None:
        raise ConfigError(f"{where}: {adapter} has adapters; say so with lora: {there}, or merge them first")
    ours = asdict(recipe.lora) | {"target": sorted(recipe.lora.target)}
    wrong = [f"lora.{key} {there[key]}, not {ours[key]}" for key in ours if ours[key] != there[key]]
    if wrong:
        raise ConfigError(f"{where}: {adapter} has {', '.join(wrong)}")
    if without_language:  # everything is saved again: the base is a language model alone
        return Start(model, processor, adapters, _loss(recipe, model.config), None, source=adapter.parent)
    run = read_run(adapter)
    base = base_folder(run, adapter)
    fresh = base is not None and _has_heads(adapter)
    source = adapter if base is None else None
    return Start(model, processor, adapters, _loss(recipe, model.config), base, fresh, source)


def _has_heads(adapter: Path) -> bool:
    """Return whether the adapter carries frozen head weights too, because its base has other heads."""
    from safetensors import safe_open

    from ullava.training.optim.lora import TRAINED_FILE

    with safe_open(str(adapter / TRAINED_FILE), framework="pt") as stream:
        return any(name.startswith("mask_head.sam.vision_encoder.") for name in stream.keys())


def _lora_of(adapters: Any) -> dict[str, Any]:
    """Return the ``lora`` table that these adapters were made with."""
    settings = adapters.peft_config["default"]
    sizes = {"r": settings.r, "alpha": settings.lora_alpha, "dropout": settings.lora_dropout}
    return sizes | {"target": sorted(settings.target_modules)}


def _loss(recipe: TrainRecipe, config: Any) -> LossConfig:
    """Return the recipe's loss weights; without any, those that the weights of ``init`` were trained with."""
    if recipe.loss is not None:
        return recipe.loss
    inherited = getattr(config, LOSS_KEY, None)
    loss = LossConfig(**inherited) if isinstance(inherited, dict) else LossConfig()
    return replace(loss, box_divide_twice=True) if recipe.compat == "ullava_v1" else loss


def _plain_model(recipe: TrainRecipe, recipe_path: Path, base: Path | None) -> tuple[Any, Any]:
    if base is None:
        config, folder, site = _model_config(recipe, recipe_path)
        if recipe.reinit_heads != "none":
            raise ConfigError(
                f"{place(recipe_path, 'reinit_heads')}: heads: only where init names weights to start from"
            )
        return build_model(config, folder, attn_implementation=recipe.attn_implementation, site=site)
    model, processor = load_folder(base, torch.float32, attn_implementation=recipe.attn_implementation)
    if isinstance(recipe.reinit_heads, HeadsConfig):
        written = Site(recipe_path, "reinit_heads")
        return build_fresh_heads(
            model,
            processor,
            recipe.reinit_heads,
            Path("."),
            attn_implementation=recipe.attn_implementation,
            site=written,
        )
    if recipe.system is None and names_saved_model(recipe.model):
        return model, processor
    config, folder, site = _model_config(recipe, recipe_path)
    _settle_regions(recipe, recipe_path, config, model, processor)
    wanted = to_model_config(config, folder, processor.tokenizer, site)
    _compare(recipe, recipe_path, wanted, model.config)
    if recipe.reinit_heads == "box":
        return build_fresh_box(
            model, processor, config.box, folder, attn_implementation=recipe.attn_implementation, site=site.of("box")
        )
    if recipe.reinit_heads == "all":
        heads = HeadsConfig(
            mask=config.mask, box=config.box, image_aspect_ratio=config.vision.image_aspect_ratio, text=config.text
        )
        return build_fresh_heads(
            model, processor, heads, folder, attn_implementation=recipe.attn_implementation, site=site
        )
    return model, processor


def _settle_regions(recipe: TrainRecipe, recipe_path: Path, config: ModelConfig, model: Any, processor: Any) -> None:
    """Give the weights of ``init`` regions where the recipe says so; refuse it where it has to, and does not."""
    wanted, found = config.vision.regions, model.config.region_grid
    if not recipe.fresh_regions:
        if wanted is not None and found is None:
            raise ConfigError(
                f"{place(recipe_path, 'init')}: init: {recipe.init} takes no regions, model {recipe.model} does; "
                "fresh_regions: true begins them afresh"
            )
        return
    where = f"{place(recipe_path, 'fresh_regions')}: fresh_regions"
    if wanted is None:
        raise ConfigError(f"{where}: model {recipe.model} has no vision.regions")
    if found is not None:
        raise ConfigError(f"{where}: {recipe.init} takes regions already")
    if recipe.lora is not None:
        raise ConfigError(f"{where}: regions do not begin beside adapters; train them without lora first")
    add_regions(model, processor, wanted.grid)


def _model_config(recipe: TrainRecipe, recipe_path: Path) -> tuple[ModelConfig, Path, Site]:
    """The model of a recipe, the folder that its paths start at, and where it was written."""
    if recipe.system is not None:
        return recipe.system, Path("."), Site(recipe_path, "system")
    path = find("models", recipe.model)
    return load_config(ModelConfig, path), path.parent, Site(path)


def _compare(recipe: TrainRecipe, recipe_path: Path, wanted: Any, found: Any) -> None:
    ours, theirs = _shape(wanted, str(recipe.reinit_heads)), _shape(found, str(recipe.reinit_heads))
    problems = [
        f"{recipe_path}: init: {recipe.init} has {key} {theirs[key]!r}, model {recipe.model} asks for {ours[key]!r}"
        for key in ours
        if ours[key] != theirs[key]
    ]
    if problems:
        raise ConfigError(problems)


def _shape(config: Any, heads: str) -> dict[str, Any]:
    """Return the choices in which weights and a model.yaml have to agree; ``heads`` as in the recipe."""
    names = ["core_kind", "strategy", "vision_feature_layer", "projector", "spatial_merge_size", "region_grid"]
    parts = {"language": config.text_config, "tower": config.vision_config}
    if heads != "all":
        names += ["image_aspect_ratio", "head_state", "mask_kind", "mask_encoder"]
        if config.mask_encoder != "vision":  # weights on the tower's maps fit images of any size; the saved one stays
            names.append("sam_side")
        encoder = getattr(config.mask_part, "vision_config", config.mask_part)
        parts["mask head"] = getattr(encoder, "backbone_config", encoder)
    if heads == "none":
        names += ["box_kind", "box_width", "box_frame", "box_sigmoid"]
    shape = {name: getattr(config, name) for name in names}
    if heads == "none":
        sizes = ("model_type", "d_model", "num_queries", "encoder_layers", "decoder_layers")
        shape |= {f"detector {name}": getattr(config.detector_config, name, None) for name in sizes}
    for part, sizes in parts.items():
        named = ("model_type", "hidden_size", "num_hidden_layers", "hidden_sizes", "depths", "blocks_per_stage")
        shape |= {f"{part} {name}": getattr(sizes, name, None) for name in named}
    return shape
