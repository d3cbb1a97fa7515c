"""Token embeddings of MiniCPM."""

from __future__ import annotations

from torch import Tensor, nn


class ScaledEmbedding(nn.Embedding):
    """Embeddings times ``scale``. The factor lies in the module, so that training and every step of generation
    apply it to text, and visual tokens, which the original does not scale, never meet it."""

    def __init__(self, tokens: int, dim: int, scale: float) -> None:
        super().__init__(tokens, dim)
        self.scale = scale

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * self.scale
