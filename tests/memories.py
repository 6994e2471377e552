"""A memory with known keys and values, so that its output can be computed by hand."""

import torch

from models.memory import NormalityMemory


def memory(keys, values):
    net = NormalityMemory(*torch.as_tensor(keys).shape)
    net.load_state_dict({"keys": torch.as_tensor(keys, dtype=torch.float32), "values": torch.as_tensor(values).float()})
    return net
