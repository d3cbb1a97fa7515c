"""Model folders made of others without a model in memory: an adapter over its base, an average, a ZeRO checkpoint."""

from polylens.engine.merge.adapter import merge_adapter as merge_adapter
from polylens.engine.merge.average import average_models as average_models
from polylens.engine.merge.folder import Merged as Merged
from polylens.engine.merge.zero import merge_zero as merge_zero
