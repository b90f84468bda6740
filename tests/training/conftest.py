from __future__ import annotations

import torch

torch.set_num_threads(1)  # the models of the tests are too small for two
