"""GPT-2 in PyTorch: the original that every exported and quantized variant is compared with.

Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners". Parameter names
and layouts are those of OpenAI's release as transformers stores it: weights load without a table.

Letters in the shape comments: B batch, S new tokens, P past tokens, T = P + S, E embedding,
N heads, D head dim, V vocabulary.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import GPT2Config


class KeyValue(NamedTuple):
    """One layer's attention cache: key and value, each (B, N, T, D)."""

    key: Tensor
    value: Tensor


class Linear(nn.Module):
    """x @ weight + bias with weight (in, out), as GPT-2's checkpoints store it ("Conv1D")."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_in, n_out))
        self.bias = nn.Parameter(torch.zeros(n_out))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            # One call: under autocast the bias of a sum would turn the 16-bit product into float32.
            flat = torch.addmm(self.bias, x.flatten(0, -2), self.weight)
            return flat.reshape(*x.shape[:-1], flat.shape[-1])
        return x @ self.weight + self.bias


class Attention(nn.Module):
    def __init__(self, config: GPT2Config, dropout: float) -> None:
        super().__init__()
        self.n_head, self.head_dim, self.dropout = config.n_head, config.head_dim, dropout
        self.c_attn = Linear(config.n_embd, 3 * config.n_embd)
        self.c_proj = Linear(config.n_embd, config.n_embd)

    def forward(
        self, x: Tensor, past: KeyValue | None, bias: Tensor | None
    ) -> tuple[Tensor, KeyValue]:
        query, key, value = (  # each (B, N, S, D)
            part.unflatten(-1, (self.n_head, self.head_dim)).transpose(1, 2)
            for part in self.c_attn(x).split(x.size(-1), dim=-1)
        )
        if past is not None:
            key = torch.cat((past.key, key), dim=2)  # (B, N, T, D)
            value = torch.cat((past.value, value), dim=2)
        if bias is None or self.training:
            dropout = self.dropout if self.training else 0.0
            mixed = F.scaled_dot_product_attention(
                query, key, value, attn_mask=bias, is_causal=bias is None, dropout_p=dropout
            )
        else:
            # Written out, so that it exports as two MatMuls and a Softmax and nothing else.
            scale = self.head_dim**-0.5
            scores = (query * scale) @ key.transpose(2, 3) + bias  # (B, N, S, T)
            mixed = scores.softmax(-1) @ value  # (B, N, S, D)
        return self.c_proj(mixed.transpose(1, 2).flatten(2)), KeyValue(key, value)


class MLP(nn.Module):
    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.c_fc = Linear(config.n_embd, config.inner_dim)
        self.c_proj = Linear(config.inner_dim, config.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        # GELU, tanh form (Hendrycks & Gimpel 2016, section 2): the form GPT-2 was trained with.
        hidden: Tensor = self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))
        return hidden


class Block(nn.Module):
    def __init__(self, config: GPT2Config, dropout: float) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.attn = Attention(config, dropout)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.mlp = MLP(config)
        self.drop = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, past: KeyValue | None, bias: Tensor | None
    ) -> tuple[Tensor, KeyValue]:
        attended, present = self.attn(self.ln_1(x), past, bias)
        x = x + self.drop(attended)
        x = x + self.drop(self.mlp(self.ln_2(x)))
        return x, present


class GPT2(nn.Module):
    """The whole model. `state_dict()` keys are transformers' without the `transformer.` prefix."""

    def __init__(self, config: GPT2Config, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.drop = nn.Dropout(dropout)
        self.h = nn.ModuleList(Block(config, dropout) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.wte.weight

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past: list[KeyValue] | None = None,
        num_logits_to_keep: int = 0,
        documents: Tensor | None = None,
    ) -> tuple[Tensor, list[KeyValue]]:
        """Logits for every new token, and the cache to go on from.

        input_ids (B, S) int64. attention_mask (B, T) of 0 and 1, None: nothing is masked.
        position_ids (B, S), None: derived from the mask as transformers does, so that a padded
        row is numbered from its first real token. num_logits_to_keep: only the last so many
        positions; 0 means all. documents (B, S) int64, for training: which document of its row a
        token belongs to; each is read as if it stood alone, without mask or past.
        Returns logits (B, S, V) float and one KeyValue a layer.
        """
        past_length = past[0].key.size(2) if past else 0
        length = input_ids.size(1)
        if documents is not None and position_ids is None:
            position_ids = document_positions(documents)
        if position_ids is None:
            position_ids = self._positions(input_ids, attention_mask, past_length)
        bias = None if documents is None else document_bias(documents, self.wte.weight)
        if past_length or attention_mask is not None:
            bias = attention_bias(attention_mask, past_length, length, self.wte.weight)
        x, present = self.hidden(input_ids, position_ids, past, bias)
        return self.lm_head(x[:, -num_logits_to_keep:]), present  # [-0:] is everything

    def hidden(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        past: list[KeyValue] | None,
        bias: Tensor | None,
    ) -> tuple[Tensor, list[KeyValue]]:
        """The normalised last hidden state (B, S, E) and the present cache."""
        x = self.drop(self.wte(input_ids) + self.wpe(position_ids))
        present = []
        for i, block in enumerate(self.h):
            x, layer = block(x, past[i] if past else None, bias)
            present.append(layer)
        return self.ln_f(x), present

    @staticmethod
    def _positions(input_ids: Tensor, attention_mask: Tensor | None, past_length: int) -> Tensor:
        length = input_ids.size(1)
        if attention_mask is None:
            return torch.arange(past_length, past_length + length, device=input_ids.device)[None]
        positions = (attention_mask.cumsum(1) - 1).clamp(min=0)
        return positions[:, past_length:]


def attention_bias(
    attention_mask: Tensor | None, past_length: int, length: int, like: Tensor
) -> Tensor:
    """What is added to attention scores: 0 where a query may look, the lowest number elsewhere.

    Returns (B or 1, 1, S, T) in the dtype of `like`: causal, shifted by the past, and closed at
    masked keys. The lowest finite number, not -inf: a row that sees nothing must not become NaN.
    """
    total = past_length + length
    keys = torch.arange(total, device=like.device)
    queries = torch.arange(past_length, total, device=like.device)
    allowed = (keys <= queries[:, None])[None, None]  # (1, 1, S, T)
    if attention_mask is not None:
        allowed = allowed & attention_mask[:, None, None, :].bool()
    zero = torch.zeros((), dtype=like.dtype, device=like.device)
    return torch.where(allowed, zero, torch.finfo(like.dtype).min)


def document_positions(documents: Tensor) -> Tensor:
    """The place of each token in its document, (B, S)."""
    places = torch.arange(documents.size(1), device=documents.device).expand_as(documents)
    begins = torch.ones_like(documents, dtype=torch.bool)
    begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
    return places - places.where(begins, 0).cummax(1).values


def document_bias(documents: Tensor, like: Tensor) -> Tensor:
    """`attention_bias` that is closed between documents, too: (B, 1, S, S) from (B, S)."""
    same = documents[:, None, :, None] == documents[:, None, None, :]
    allowed = same & torch.ones_like(same[:1, :1]).tril()
    zero = torch.zeros((), dtype=like.dtype, device=like.device)
    return torch.where(allowed, zero, torch.finfo(like.dtype).min)


@torch.no_grad()
def initialize(model: GPT2, *, seed: int) -> GPT2:
    """Fill the weights as GPT-2 was initialised (Radford et al. 2019, section 2.3).

    N(0, 0.02) for matrices and embeddings; the projections back into the residual stream scaled
    by 1/sqrt(2 n_layer), as there are two of them a layer; biases 0, norms 1.
    """
    generator = torch.Generator().manual_seed(seed)
    std = model.config.initializer_range
    residual_std = std / math.sqrt(2 * model.config.n_layer)
    for name, parameter in model.named_parameters():  # a tied weight comes once
        if parameter.dim() > 1:
            scale = residual_std if name.endswith("c_proj.weight") else std
            parameter.normal_(0.0, scale, generator=generator)
        elif name.endswith("bias"):
            parameter.zero_()
        else:
            parameter.fill_(1.0)
    return model
