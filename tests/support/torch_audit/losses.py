"""Losses and distances."""

import numpy as np
import torch
import torch.nn.functional as F

from .operation import op

N, K = 64, 40
CLASSES = torch.arange(N) % K
PIXELS = torch.from_numpy(np.random.default_rng(1).integers(0, 7, (2, 9, 8)))
IGNORED = torch.where(torch.arange(N) % 5 == 0, -100, CLASSES)
SIGNS = 1.0 - 2.0 * (torch.arange(N) % 2)


def _logits(rng):
    return 3 * rng.normal(size=(N, K))


def _probabilities(rng):
    return rng.uniform(0.02, 0.98, (N, K))


def _positive(rng):
    return rng.uniform(0.1, 4, (N, K))


def _distribution(rng):
    e = np.exp(rng.normal(size=(N, K)))
    return e / e.sum(1, keepdims=True)


def _near(rng):
    return rng.normal(size=(N, K))


def _ctc(x):
    targets = torch.arange(2 * 9).view(2, 9) % 19 + 1
    return F.ctc_loss(x.log_softmax(-1), targets, torch.tensor([30, 27]), torch.tensor([9, 7]))


LOSSES = {
    "cross_entropy": op(lambda x: F.cross_entropy(x, CLASSES), x=_logits),
    "cross_entropy sum": op(lambda x: F.cross_entropy(x, CLASSES, reduction="sum"), x=_logits),
    "cross_entropy none": op(lambda x: F.cross_entropy(x, CLASSES, reduction="none"), x=_logits),
    "cross_entropy ignore": op(lambda x: F.cross_entropy(x, IGNORED), x=_logits),
    "cross_entropy smoothing": op(lambda x: F.cross_entropy(x, CLASSES, label_smoothing=0.1), x=_logits),
    "cross_entropy weight": op(lambda x: F.cross_entropy(x, CLASSES, torch.arange(1, K + 1).to(x) / K), x=_logits),
    "cross_entropy maps": op(lambda x: F.cross_entropy(x, PIXELS), x=(2, 7, 9, 8)),
    "cross_entropy soft": op(lambda x, t: F.cross_entropy(x, t), x=_logits, t=_distribution),
    "nll_loss": op(lambda x: F.nll_loss(x.log_softmax(1), CLASSES), x=_logits),
    "mse_loss": op(F.mse_loss, input=_near, target=_near),
    "mse_loss none": op(lambda a, b: F.mse_loss(a, b, reduction="none"), a=_near, b=_near),
    "l1_loss": op(F.l1_loss, input=_near, target=_near),
    "smooth_l1_loss": op(F.smooth_l1_loss, input=_near, target=_near),
    "huber_loss": op(lambda a, b: F.huber_loss(a, b, delta=0.7), a=_near, b=_near),
    "bce": op(F.binary_cross_entropy, input=_probabilities, target=_probabilities),
    "bce logits": op(F.binary_cross_entropy_with_logits, input=_logits, target=_probabilities),
    "bce logits weighted": op(
        lambda x, t: F.binary_cross_entropy_with_logits(x, t, pos_weight=torch.arange(1, K + 1).to(x) / 8),
        x=_logits,
        t=_probabilities,
    ),
    "kl_div": op(lambda x, t: F.kl_div(x.log_softmax(1), t, reduction="batchmean"), x=_logits, t=_distribution),
    "kl_div log": op(
        lambda x, t: F.kl_div(x.log_softmax(1), t.log_softmax(1), reduction="sum", log_target=True),
        x=_logits,
        t=_logits,
    ),
    "poisson_nll": op(F.poisson_nll_loss, input=_near, target=_positive),
    "poisson_nll full": op(lambda x, t: F.poisson_nll_loss(x, t, full=True), x=_near, t=_positive),
    "gaussian_nll": op(lambda x, t, v: F.gaussian_nll_loss(x, t, v), x=_near, t=_near, v=_positive),
    "hinge_embedding": op(lambda x: F.hinge_embedding_loss(x, SIGNS.to(x)[:, None].expand_as(x)), x=_near),
    "soft_margin": op(lambda x: F.soft_margin_loss(x, SIGNS.to(x)[:, None].expand_as(x)), x=_near),
    "margin_ranking": op(
        lambda a, b: F.margin_ranking_loss(a, b, SIGNS.to(a)[:, None].expand_as(a), margin=0.1), a=_near, b=_near
    ),
    "multi_margin": op(lambda x: F.multi_margin_loss(x, CLASSES), x=_logits),
    "multilabel_margin": op(lambda x: F.multilabel_margin_loss(x, torch.tensor([[3, 0, -1, 1]] * 8)), x=(8, 4)),
    "multilabel_soft_margin": op(F.multilabel_soft_margin_loss, input=_logits, target=_probabilities),
    "triplet_margin": op(F.triplet_margin_loss, anchor=_near, positive=_near, negative=_near),
    "cosine_embedding": op(lambda a, b: F.cosine_embedding_loss(a, b, SIGNS.to(a), margin=0.1), a=_near, b=_near),
    "cosine_similarity": op(lambda a, b: F.cosine_similarity(a, b, -1), a=_near, b=_near),
    "pairwise_distance": op(F.pairwise_distance, x1=_near, x2=_near),
    "cdist": op(torch.cdist, x1=(2, 17, 8), x2=(2, 13, 8)),
    "pdist": op(F.pdist, input=(17, 8)),
    "ctc_loss": op(_ctc, x=(30, 2, 20)),
}
