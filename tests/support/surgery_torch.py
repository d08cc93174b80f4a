"""Inputs and states for the tests of surgery on torch networks."""

import torch


def image(seed=1, n=2, size=12):
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def copied(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


def same_state(net, state):
    own = net.state_dict()
    return list(own) == list(state) and all(torch.equal(own[name], state[name]) for name in own)
