"""The connectors of TinyLLaVA by their published names."""

from __future__ import annotations

from torch import nn

from polylens.errors import InputError
from polylens.modeling.connectors import build_connector, mlp
from polylens_tinyllava.configuration import MOF, TinyLlavaConfig

NAMES = ("identity", "linear", "mlp1x_gelu to mlp99x_gelu", "resampler", "qformer", "mof_mlp")
DEFAULT_QUERIES, DEFAULT_LAYERS = 128, 3


def connector_for(config: TinyLlavaConfig, vision: int, hidden: int) -> nn.Module:
    """The connector that ``connector_type`` names; weights have the names that follow ``connector._connector.``.

    Args:
        vision: width of a tower's features.
        hidden: width of the language model.

    Raises:
        InputError: there is no such connector, or it does not fit the tower.
    """
    name = config.connector_type
    if (name == "mof_mlp") != (config.tower == MOF):
        raise InputError(
            f"config.json: the connector {name!r} does not fit the vision tower {config.tower!r}: mof_mlp joins the "
            "two towers of a mixture of features, and nothing else does"
        )
    found = build_connector(name, vision, hidden) or _own(name, config, vision, hidden)
    if found is None:
        raise InputError(f"config.json: /connector_type is {name!r}; it may be {', '.join(NAMES)}")
    return found


def _own(name: str, config: TinyLlavaConfig, vision: int, hidden: int) -> nn.Module | None:
    from polylens_tinyllava.connectors.qformer import QFormer
    from polylens_tinyllava.connectors.resampler import Resampler

    if name == "mof_mlp":
        return nn.ModuleDict({"clip": mlp(2, vision, hidden), "dinov2": mlp(2, vision, hidden)})
    if name == "resampler":
        return Resampler(vision, hidden, query_count(config), config.num_resampler_layers or DEFAULT_LAYERS)
    if name == "qformer":
        return QFormer(vision, hidden, query_count(config), config.qformer_values, config._attn_implementation)
    return None


def query_count(config: TinyLlavaConfig) -> int:
    """Visual tokens that a resampler makes of a picture."""
    return config.num_queries or DEFAULT_QUERIES
