"""The same network in PyTorch, by `torch.nn.LSTM`.

Presents to it: batches are padded before they are timed, and no loss is read back. `torch` packs its batches; `torch
unpacked` lets the backward direction run over the padding, and so it is another network. Their weight decay joins the
gradient after clipping, not before.
"""

import itertools
import math
from typing import Any

import numpy as np
import torch  # type: ignore[import-not-found, unused-ignore]
from torch.nn.functional import cross_entropy  # type: ignore[import-not-found, unused-ignore]
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence  # type: ignore[import-not-found, unused-ignore]
from work import CHECKED_STEPS, SEED, Contender, Setup, Work, load_work

from bilstm_attention.data.dataset import pad

LAYER_STEPS = 20
# of Adam, Keras's
BETA_2, EPSILON = 0.999, 1e-7


def contender(setup: Setup) -> Contender:
    """What `setup.measure` asks for."""
    if setup.threads:
        torch.set_num_threads(setup.threads)
    torch.manual_seed(SEED)
    if setup.measure == "layer":
        return Contender(layers(setup))
    work = load_work(setup)
    packed = setup.contender == "torch"
    passes = {"packed" if packed else "unpacked": epoch(setup, work, packed)}
    if not packed:
        return Contender(passes)
    network, tensors = Network(setup, work, dropping=False), loaded(work, work.mixed[:1], packed=True)[0]
    step = training_step(setup, network)
    return Contender(passes, [float(step(*tensors)) for _ in range(CHECKED_STEPS)])


class Network(torch.nn.Module):  # type: ignore[misc, unused-ignore]
    """Embedding, bidirectional LSTM with its directions added, attention of Zhou et al. 2016, linear layer."""

    def __init__(self, setup: Setup, work: Work, dropping: bool):
        super().__init__()
        weights = {name: torch.from_numpy(value.copy()) for name, value in work.weights.items()}
        rates = setup.model.dropout
        self.drop_words, self.drop_states, self.drop_sentence = (
            torch.nn.Dropout(dropping * rate) for rate in (rates.embedding, rates.lstm, rates.sentence)
        )
        self.embedding = torch.nn.Embedding.from_pretrained(torch.from_numpy(work.trained_vectors.copy()), freeze=False)
        self.lstm = torch.nn.LSTM(setup.dimension, setup.units, bidirectional=True)
        for direction, suffix in enumerate(("", "_reverse")):
            getattr(self.lstm, f"weight_ih_l0{suffix}").data = weights["kernel"][direction].T.contiguous()
            getattr(self.lstm, f"weight_hh_l0{suffix}").data = weights["recurrent"][direction].T.contiguous()
            getattr(self.lstm, f"bias_ih_l0{suffix}").data = weights["bias"][direction]
            # of its two biases one does nothing: it would only be learned twice as fast
            second = getattr(self.lstm, f"bias_hh_l0{suffix}")
            second.data.zero_()
            second.requires_grad_(False)
        self.attention = torch.nn.Parameter(weights["attention"])
        self.output = torch.nn.Linear(*work.weights["output"].shape)
        self.output.weight.data = weights["output"].T.contiguous()
        self.output.bias.data = weights["output_bias"]

    def forward(self, tokens: Any, lengths: Any) -> Any:
        """Logits `(B, C)` of word ids `(T, B)`; without lengths the LSTM runs over the padding."""
        words = self.drop_words(self.embedding(tokens))
        if lengths is None:
            states, _ = self.lstm(words)
        else:
            packed, _ = self.lstm(pack_padded_sequence(words, lengths, enforce_sorted=False))
            states, _ = pad_packed_sequence(packed)
        forward, backward = states.chunk(2, dim=-1)
        states = self.drop_states(forward + backward)
        scores = torch.tanh(states) @ self.attention
        scores = scores.masked_fill((tokens == 0).unsqueeze(-1), -1e30)
        pooled = torch.einsum("tbk,tbh->bh", scores.softmax(dim=0), states)
        return self.output(self.drop_sentence(torch.tanh(pooled)))


def training_step(setup: Setup, network: Network) -> Any:
    """One step of Adam on a batch; returns its loss."""
    biases = [weight for name, weight in network.named_parameters() if "bias" in name and weight.requires_grad]
    kernels = [weight for name, weight in network.named_parameters() if "bias" not in name]
    # a penalty l2 * sum(w^2) has the gradient 2 * l2 * w
    groups = [{"params": kernels, "weight_decay": 2 * setup.model.l2}, {"params": biases}]
    optimizer = torch.optim.Adam(groups, lr=setup.train.learning_rate, fused=True)
    count = itertools.count(1)

    def step(tokens: Any, lengths: Any, labels: Any) -> Any:
        # Keras adds epsilon before the second moment is corrected for its start, PyTorch after that
        epsilon = EPSILON / math.sqrt(1 - BETA_2 ** next(count))
        for group in optimizer.param_groups:
            group["eps"] = epsilon
        optimizer.zero_grad()
        loss = cross_entropy(network(tokens, lengths), labels)
        loss.backward()
        if setup.clip_norm:
            torch.nn.utils.clip_grad_norm_([*kernels, *biases], setup.clip_norm)
        optimizer.step()
        return loss.detach()

    return step


def loaded(work: Work, batches: Any, packed: bool) -> list[tuple[Any, Any, Any]]:
    """Word ids `(T, B)`, lengths or None, and labels of every batch."""
    train = work.task.train
    lengths = torch.from_numpy(np.asarray(train.lengths))
    return [
        (
            torch.from_numpy(pad(train, batch).T.astype(np.int64)),
            lengths[torch.from_numpy(batch)] if packed else None,
            torch.from_numpy(train.labels[batch].astype(np.int64)),
        )
        for batch in batches
    ]


def epoch(setup: Setup, work: Work, packed: bool) -> Any:
    """A pass over all batches."""
    tensors = loaded(work, work.batches, packed)
    step = training_step(setup, Network(setup, work, dropping=True))
    # packing computes no padding
    cells = int(work.task.train.lengths.sum()) if packed else sum(tokens.numel() for tokens, _, _ in tensors)

    def take() -> dict[str, Any]:
        for each in tensors:
            step(*each)
        return {"steps": len(tensors), "cells": cells}

    return take


def layers(setup: Setup) -> dict[str, Any]:
    """One bidirectional LSTM, forward and backward, by length."""
    lstm = torch.nn.LSTM(setup.dimension, setup.units, bidirectional=True)

    def steps(length: int) -> Any:
        states = torch.randn(length, setup.batch_size, setup.dimension, requires_grad=True)

        def take() -> dict[str, Any]:
            for _ in range(LAYER_STEPS):
                lstm.zero_grad()
                states.grad = None
                lstm(states)[0].sum().backward()
            return {"steps": LAYER_STEPS}

        return take

    return {str(length): steps(length) for length in setup.lengths}
