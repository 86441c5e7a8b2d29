"""Decoding with fixed shapes draws what the model as it stands draws, and a step can be recorded and compiled."""

from __future__ import annotations

import pytest
import torch
from recording import recorder
from small_models import KINDS, make_model
from torch import nn
from transformers import MambaConfig, MambaForCausalLM

from r1lit.assets.tiny import load_tiny  # noqa: F401
