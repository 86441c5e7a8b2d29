"""Models: loaded, adapted to training, and asked for log-probabilities."""

import logging

# transformers imports torchao where it is installed, which without CUDA warns of kernels that are of no use there.
for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)
