"""Model folders made of others without a model in memory: an adapter or a difference over its base, an average, a ZeRO
checkpoint, another layout."""

from polylens.engine.merge.adapter import merge_adapter as merge_adapter
from polylens.engine.merge.average import average_models as average_models
from polylens.engine.merge.convert import convert_model as convert_model
from polylens.engine.merge.delta import merge_delta as merge_delta
from polylens.engine.merge.folder import Merged as Merged
from polylens.engine.merge.zero import merge_zero as merge_zero
