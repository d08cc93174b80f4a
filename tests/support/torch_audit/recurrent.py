"""Recurrent layers, attention, transformer layers."""

import torch
import torch.nn.functional as F
from torch import nn

from .operation import layer, op

MASK = torch.tril(torch.ones(17, 17, dtype=torch.bool))
PADDING = torch.arange(17)[None] >= torch.tensor([17, 11, 5, 14])[:, None]


def _additive(q, k, v):
    bias = torch.zeros(17, 17, dtype=q.dtype).masked_fill(~MASK, float("-inf"))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


def _encoder(**options):
    return nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True, **options)


QKV = {"q": (2, 4, 17, 8), "k": (2, 4, 17, 8), "v": (2, 4, 17, 8)}
LONG = {"query": (1, 2, 96, 16), "key": (1, 2, 130, 16), "value": (1, 2, 130, 16)}
WORDS = (4, 17, 32)

RECURRENT = {
    "rnn": layer(lambda: nn.RNN(16, 24, batch_first=True), (4, 13, 16)),
    "rnn relu": layer(lambda: nn.RNN(16, 24, nonlinearity="relu"), (13, 4, 16)),
    "lstm": layer(lambda: nn.LSTM(16, 24, batch_first=True), (4, 13, 16)),
    "lstm bidirectional": layer(lambda: nn.LSTM(16, 12, 2, bidirectional=True), (9, 4, 16)),
    "lstm projection": layer(lambda: nn.LSTM(16, 24, proj_size=8), (9, 4, 16)),
    "gru": layer(lambda: nn.GRU(16, 24, batch_first=True), (4, 13, 16)),
    "gru two": layer(lambda: nn.GRU(16, 12, 2, bidirectional=True), (9, 4, 16)),
    "rnn cell": layer(lambda: nn.RNNCell(16, 24), (8, 16), (8, 24)),
    "lstm cell": layer(lambda: nn.LSTMCell(16, 24), (8, 16)),
    "gru cell": layer(lambda: nn.GRUCell(16, 24), (8, 16), (8, 24)),
    "attention": op(F.scaled_dot_product_attention, query=(2, 4, 17, 8), key=(2, 4, 17, 8), value=(2, 4, 17, 8)),
    "attention causal": op(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), **QKV),
    "attention mask": op(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=MASK), **QKV),
    "attention additive": op(_additive, **QKV),
    "attention scale": op(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, scale=0.2), **QKV),
    "attention grouped": op(
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True),
        q=(2, 4, 17, 8),
        k=(2, 2, 17, 8),
        v=(2, 2, 17, 8),
    ),
    "attention long": op(
        F.scaled_dot_product_attention, query=(1, 2, 96, 16), key=(1, 2, 130, 16), value=(1, 2, 130, 16)
    ),
    "multi_head": layer(lambda: nn.MultiheadAttention(32, 4, batch_first=True), WORDS, WORDS, WORDS),
    "multi_head padding": layer(
        lambda: nn.MultiheadAttention(32, 4, batch_first=True), WORDS, WORDS, WORDS, key_padding_mask=PADDING
    ),
    "multi_head dims": layer(
        lambda: nn.MultiheadAttention(32, 4, kdim=24, vdim=20, batch_first=True), WORDS, (4, 9, 24), (4, 9, 20)
    ),
    "encoder layer": layer(_encoder, WORDS),
    "encoder layer norm first": layer(lambda: _encoder(norm_first=True, activation="gelu"), WORDS),
    "encoder layer eval": layer(_encoder, WORDS, evaluation=True),
    "decoder layer": layer(lambda: nn.TransformerDecoderLayer(32, 4, 64, dropout=0.0, batch_first=True), WORDS, WORDS),
}
