"""The same network in PyTorch; batches are padded before they are timed, and no loss is read back.

`torch` packs its batches; `torch sparse` does too, and updates the words of the batch alone, without a penalty, which
SparseAdam lacks; `torch unpacked` lets the backward direction read the padding, which is another network.
"""

import itertools
import math
from typing import Any

import numpy as np
import torch  # type: ignore[import-not-found, unused-ignore]
from torch import nn  # type: ignore[import-not-found, unused-ignore]
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence  # type: ignore[import-not-found, unused-ignore]
from work import CHECKED_STEPS, SEED, Setup, Work, load_work, train_until

from bilstm_attention.data.dataset import Rows, by_length, pad
from bilstm_attention.data.tokens import SPECIALS, UNK

EPSILON = 1e-7  # that of Keras


def contender(setup: Setup) -> tuple[Any, list[float]]:
    """A pass, and the losses of the first steps."""
    torch.set_num_threads(setup.threads)
    torch.manual_seed(SEED)
    work, packed = load_work(setup), setup.contender != "torch unpacked"
    network, train = Network(setup, work, dropping=True), work.data.train
    step, check = (training_step(setup, each) for each in (network, Network(setup, work, dropping=False)))
    batches = [] if setup.until else [load(train, batch, packed) for batch in work.batches]
    cells = int(train.lengths.sum()) if packed else sum(tokens.numel() for tokens, _, _ in batches)
    # the others are other networks
    checked = CHECKED_STEPS if setup.contender == "torch" else 0
    losses = [float(check(*load(train, work.mixed, packed))) for _ in range(checked)]
    if setup.until:
        take = lambda batches: [step(*load(train, batch, packed)) for batch in batches]  # noqa: E731
        return lambda: train_until(setup, work, take, lambda rows: predict(network, rows, packed)), losses
    return lambda: [step(*batch) for batch in batches] and {"steps": len(batches), "cells": cells}, losses


def load(rows: Rows, batch: Any, packed: bool) -> tuple[Any, Any, Any]:
    """Word ids `(T, B)`, lengths or None, and labels."""
    tokens, labels = pad(rows, batch).T.astype(np.int64), rows.labels[batch].astype(np.int64)
    lengths = torch.from_numpy(rows.starts[batch + 1] - rows.starts[batch]) if packed else None
    return torch.from_numpy(tokens), lengths, torch.from_numpy(labels)


def predict(network: nn.Module, rows: Rows, packed: bool) -> Any:
    """Scores of the classes, `(N, C)`; words that training does not show are unknown."""
    found, words = np.empty((len(rows), network.output.out_features), np.float32), network.embedding.num_embeddings
    network.eval()
    with torch.no_grad():
        for batch in by_length(rows, 256):
            tokens, lengths, _ = load(rows, batch, packed)
            found[batch] = network(torch.where(tokens < words, tokens, SPECIALS.index(UNK)), lengths)
    network.train()
    return found


class Network(nn.Module):  # type: ignore[misc, unused-ignore]
    """Embedding, bidirectional LSTM with its directions added, attention of Zhou et al. 2016, linear layer."""

    def __init__(self, setup: Setup, work: Work, dropping: bool):
        super().__init__()
        weights = {name: torch.from_numpy(value.copy()) for name, value in work.weights.items()}
        rates = setup.params.model.dropout.model_dump().values()
        self.drops = nn.ModuleList(nn.Dropout(dropping * rate) for rate in rates)
        self.embedding = nn.Embedding.from_pretrained(
            torch.from_numpy(work.vectors.copy()), freeze=False, sparse=setup.contender == "torch sparse"
        )
        self.lstm = nn.LSTM(setup.dimension, setup.units, bidirectional=True)
        for direction, suffix in enumerate(("", "_reverse")):
            getattr(self.lstm, f"weight_ih_l0{suffix}").data = weights["kernel"][direction].T.contiguous()
            getattr(self.lstm, f"weight_hh_l0{suffix}").data = weights["recurrent"][direction].T.contiguous()
            getattr(self.lstm, f"bias_ih_l0{suffix}").data = weights["bias"][direction]
            # the second bias would only be learned twice as fast
            getattr(self.lstm, f"bias_hh_l0{suffix}").requires_grad_(False).zero_()
        self.attention = nn.Parameter(weights["attention"])
        self.output = nn.Linear(*work.weights["output"].shape)
        self.output.weight.data, self.output.bias.data = weights["output"].T.contiguous(), weights["output_bias"]

    def forward(self, tokens: Any, lengths: Any) -> Any:
        """Logits `(B, C)` of word ids `(T, B)`; without lengths the LSTM reads the padding."""
        states = self.drops[0](self.embedding(tokens))
        if lengths is not None:
            states = pack_padded_sequence(states, lengths, enforce_sorted=False)
        states, _ = self.lstm(states)
        states = states if lengths is None else pad_packed_sequence(states)[0]
        states = self.drops[1](sum(states.chunk(2, dim=-1)))
        scores = (torch.tanh(states) @ self.attention).masked_fill((tokens == 0).unsqueeze(-1), -1e30)
        pooled = torch.einsum("tbk,tbh->bh", scores.softmax(dim=0), states)
        return self.output(self.drops[2](torch.tanh(pooled)))


def training_step(setup: Setup, network: Network) -> Any:
    """One step of Adam on a batch; returns its loss."""
    learned = [(name, weight) for name, weight in network.named_parameters() if weight.requires_grad]
    table, params, count = network.embedding, setup.params, itertools.count(1)
    kernels = [weight for name, weight in learned if "bias" not in name and weight is not table.weight]
    biases = [weight for name, weight in learned if "bias" in name]
    # a penalty l2 * sum(w^2) has the gradient 2 * l2 * w
    decay, rate = {"weight_decay": 2 * params.model.l2}, params.train.learning_rate
    dense = [
        {"params": kernels, **decay},
        {"params": biases},
        *([] if table.sparse else [{"params": [table.weight], **decay}]),
    ]
    optimizers = [torch.optim.Adam(dense, lr=rate, fused=True)]
    optimizers += [torch.optim.SparseAdam([table.weight], lr=rate, eps=EPSILON)] if table.sparse else []

    def step(tokens: Any, lengths: Any, labels: Any) -> Any:
        for optimizer in optimizers:
            optimizer.zero_grad()
        # Keras and SparseAdam add epsilon before the second moment is corrected for its start, Adam after that
        epsilon = EPSILON / math.sqrt(1 - 0.999 ** next(count))
        for group in optimizers[0].param_groups:
            group["eps"] = epsilon
        loss = nn.functional.cross_entropy(network(tokens, lengths), labels)
        loss.backward()
        clip(table, [*kernels, *biases], params.train.clip_norm)
        for optimizer in optimizers:
            optimizer.step()
        return loss.detach()

    return step


def clip(table: Any, others: list[Any], limit: float) -> None:
    """Clips the global norm; PyTorch's own does not take the gradient of a sparse table."""
    if not table.sparse:
        nn.utils.clip_grad_norm_([table.weight, *others], limit)
        return
    table.weight.grad = table.weight.grad.coalesce()
    gradients = [table.weight.grad.values(), *(weight.grad for weight in others)]
    nn.utils.clip_grads_with_norm_(others, limit, norm := nn.utils.get_total_norm(gradients))
    gradients[0].mul_(torch.clamp(limit / (norm + 1e-6), max=1.0))
