"""Settings of the sampling while training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from r1lit.settings import Settings
from r1lit.types import Sampling

Decoding = Literal["eager", "static", "compiled"]


class EngineSettings(Settings):
    """What a vLLM engine in the training process may use (``rollout.kind=vllm``).

    Attributes:
        dtype: of its weights; ``auto`` is the arithmetic that the policy is trained in.
        gpu_memory_utilization: the share of the device's memory that weights and cache may take; on a CPU, of the RAM.
        kv_cache_gb: the cache's size, in GiB; null: what the share leaves.
        max_model_len: the longest prompt and completion together; null: the model's positions.
        enforce_eager: neither compile the model nor capture CUDA graphs: slower, and up at once.
        sleep: free the cache and move the weights aside while the policy is updated, where the platform can.
    """

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    gpu_memory_utilization: float = Field(0.3, gt=0, le=1)
    kv_cache_gb: float | None = Field(None, gt=0)
    max_model_len: int | None = Field(None, ge=2)
    enforce_eager: bool = False
    sleep: bool = True


class ServerSettings(Settings):
    """A vLLM server that samples (``rollout.kind=vllm_server``), started by ``python -m r1lit.rollout.vllm_serve``.

    Attributes:
        url: where it answers.
        key_env: the environment variable that holds its key, if it wants one; vLLM asks for no key where weights are
            updated, so that only the network keeps others from it.
        timeout: seconds that a group, or a push of weights, may take.
        concurrency: groups asked for at a time, by each of the run's processes.
        transfer: what carries the weights: ``gloo``, through the hosts' memory, or ``nccl``, between GPUs; ``auto`` is
            nccl where both sides are on CUDA.
        address: under which the server reaches the process that sends the weights, the first.
    """

    url: str = "http://127.0.0.1:8000"
    key_env: str | None = None
    timeout: float = Field(1800.0, gt=0)
    concurrency: int = Field(64, ge=1)
    transfer: Literal["auto", "gloo", "nccl"] = "auto"
    address: str = "127.0.0.1"

    @field_validator("url")
    @classmethod
    def _without_a_slash(cls, value: str) -> str:
        return value.rstrip("/")


class RolloutSettings(Settings):
    """How completions are drawn while training, and how many rows are decoded together.

    Attributes:
        kind: ``transformers``, from the very weights that are trained; ``vllm``, an engine in this process, or in each
            of several; ``vllm_server``, one in another process or on another host, for all of them.
        temperature: above 0: GRPO compares different completions of one prompt.
        top_p: 1 keeps the whole distribution.
        max_tokens: T, longest completion, EOS included.
        staleness: S: while a step is learnt from, the rollout of S steps later is sampled from the weights as they were
            before it; 0: sampling and learning take turns, and every rollout is the present policy's own. On one GPU
            the sampler in this process queues its kernels between those of the training. A policy in
            shards (``trainer=fsdp``) can be sampled from beside its training through vLLM alone.
        max_batch_rows: rows decoded together; it changes memory and speed, never what is sampled. A server has its
            own ``--max-num-seqs``.
        decode: of ``kind=transformers``, how a step of decoding is computed: ``eager``, by the model as it stands;
            ``static``, with fixed shapes, which on CUDA are recorded as graphs; ``compiled``, these compiled too.
        engine: of ``kind=vllm``.
        server: of ``kind=vllm_server``.
    """

    kind: Literal["transformers", "vllm", "vllm_server"] = "transformers"
    temperature: float = Field(1.0, gt=0)
    top_p: float = Field(1.0, gt=0, le=1)
    max_tokens: int = Field(2048, ge=1)
    max_batch_rows: int = Field(256, ge=1)
    staleness: int = Field(0, ge=0)
    decode: Decoding = "eager"
    engine: EngineSettings = Field(default_factory=EngineSettings)
    server: ServerSettings = Field(default_factory=ServerSettings)

    @model_validator(mode="after")
    def _decodes_here(self) -> RolloutSettings:
        if self.decode != "eager" and self.kind != "transformers":
            raise ValueError(
                f"rollout.decode={self.decode} is of the sampler in this process, but rollout.kind={self.kind} decodes "
                "by vLLM; drop rollout.decode, or set rollout=transformers"
            )
        return self

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.temperature, self.top_p, self.max_tokens)
