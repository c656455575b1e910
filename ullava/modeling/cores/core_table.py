"""The closed table of cores: ``core.kind`` of model.yaml -> how language and vision meet."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ullava.errors import UserError, did_you_mean
from ullava.modeling.configuration import UllavaConfig
from ullava.modeling.cores.core_contract import Core
from ullava.modeling.cores.core_native import NativeCore
from ullava.modeling.cores.core_spliced import SplicedCore

CORES: Mapping[str, Callable[[UllavaConfig], Core]] = {
    SplicedCore.kind: SplicedCore,
    NativeCore.kind: NativeCore,
}


def build_core(config: UllavaConfig) -> Core:
    """Build the networks of a core. Raises UserError for a kind that is not in the table."""
    if config.core_kind not in CORES:
        raise UserError(f"unknown core '{config.core_kind}'{did_you_mean(config.core_kind, CORES)}")
    return CORES[config.core_kind](config)
