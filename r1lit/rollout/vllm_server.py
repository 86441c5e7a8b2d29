"""A vLLM server in another process or on another host, started by `r1lit.rollout.vllm_serve`."""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from dataclasses import replace
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen
from uuid import uuid4

import torch
import torch.distributed as dist
from transformers import PreTrainedModel

from r1lit.distributed.failing import all_or_none
from r1lit.distributed.plan import computing_device
from r1lit.distributed.ranks import ALONE, Ranks
from r1lit.rollout.settings import ServerSettings
from r1lit.rollout.vllm_sampler import Ask, OnSaid, Said
from r1lit.rollout.vllm_shape import shape_of, shape_problem
from r1lit.rollout.vllm_shares import spread_problem
from r1lit.rollout.vllm_transfer import Channel
from r1lit.rollout.vllm_weights import Held, NamedTensors, Received, together
from r1lit.rollout.vllm_worker import LOGPROBS
from r1lit.settings import ConfigError, UserError

START = "start it with python -m r1lit.rollout.vllm_serve MODEL --port PORT"
SHOWN = 300

PREFIX = "generate-tokens-"
"""What vLLM puts before the name that a request is given."""

GRACE_SECONDS = 10.0
"""How long the server's own account of a failure is waited for, before the transport's is given."""


class ServerError(UserError):
    """A server that is not there, died, or refuses what it is asked."""


class RemoteEngine:
    """A vLLM server's engine: token ids over HTTP, weights by broadcast.

    Of several processes each asks it for completions, and the first sends it weights.

    Args:
        policy: what the server must have the shape of.
        settings: where it is.
        ranks: the run's processes, which are to meet it together.

    Raises:
        ServerError: where nothing answers, or no server of r1lit's.
        ConfigError: where it serves another model, or in a way that its samples could not be learnt from.
    """

    def __init__(self, policy: PreTrainedModel, settings: ServerSettings, ranks: Ranks = ALONE):
        self._settings, self.receives = settings, ranks.first
        self._key = os.environ.get(settings.key_env, "") if settings.key_env else ""
        self._device = computing_device(policy)
        workers = self._call("r1lit_describe")
        served, self._workers = workers[0] | self._get("/get_world_size"), len(workers)
        _require_fit(policy, settings.url, served)
        self.dtype, self.room = getattr(torch, served["dtype"]), served["max_model_len"]
        self._backend = _backend(settings, served["device"], self._device)
        with all_or_none(ranks):
            self._channel = self._meet() if self.receives else None
        self.description = (
            f"vLLM {self._get('/version')['version']} at {settings.url}, {served['dtype']} weights on "
            f"{served['device']}, {_spread(self._workers)}pushed by {self._backend}"
        )

    def complete(self, asks: Sequence[Ask], on_said: OnSaid) -> None:
        """Ask for all groups, some at a time, and tell of each as it comes."""
        names = [uuid4().hex for _ in asks]
        with ThreadPoolExecutor(self._settings.concurrency) as threads:
            futures = {threads.submit(self._ask, ask, names[prompt]): prompt for prompt, ask in enumerate(asks)}
            try:
                for future in as_completed(futures):
                    for number, said in enumerate(future.result()):
                        on_said(futures[future], number, said)
            except BaseException:
                self._give_up(threads, names)
                raise

    def receive(self, weights: NamedTensors, version: str) -> Received:
        """Send weights, have the keys and values of others forgotten, and ask what is held then."""
        with ThreadPoolExecutor(1) as thread:
            answer = thread.submit(self._call, "r1lit_receive", version)
            try:
                self._channel.send(weights)
            except RuntimeError as error:
                with suppress(FutureTimeoutError):
                    answer.result(GRACE_SECONDS)
                raise ServerError(f"{self._settings.url} took no more weights: {error}; {self._remedy}") from error
            held = together([Held(**one) for one in answer.result()])
        beside = "" if self._post("/reset_prefix_cache").get("success") else ", beside a prefix cache of older ones"
        self._post("/update_weight_version", {"new_version": version})
        return replace(held, version=f"{held.version}{beside}")

    def sleep(self) -> None:
        """Nothing: a server does not share the trainer's memory."""

    def wake(self, what: str) -> None:
        """Nothing, likewise."""

    @property
    def _remedy(self) -> str:
        return "look at what the server printed, start it again, and go on with resume=RUN"

    def _meet(self) -> Channel:
        address = self._settings.address
        # Left to itself the store would listen on every interface.
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listener = socket.create_server((address, 0), family=family)
        store = dist.TCPStore(
            address,
            listener.getsockname()[1],
            is_master=True,
            wait_for_workers=False,
            master_listen_fd=listener.detach(),
        )
        common = {
            "workers": self._workers,
            "host": address,
            "port": store.port,
            "backend": self._backend,
            "timeout": self._settings.timeout,
        }
        with ThreadPoolExecutor(1) as thread:
            answer = thread.submit(self._call, "r1lit_connect", json.dumps(common))
            try:
                channel = Channel(rank=0, device=self._device, store=store, **common)
            except RuntimeError as error:
                raise ServerError(
                    f"{self._settings.url} does not reach this process under rollout.server.address={address}: "
                    f"{error}; set it to an address of this host that the server can open"
                ) from error
            answer.result()
        return channel

    def _ask(self, ask: Ask, name: str) -> list[Said]:
        # vLLM gives one greedy completion a request, and all of a prompt's are the same.
        size = ask.size if ask.sampling.temperature > 0 else 1
        body = {
            "request_id": name,
            "token_ids": list(ask.ids),
            "sampling_params": {
                "n": size,
                "seed": ask.seed,
                "temperature": ask.sampling.temperature,
                "top_p": ask.sampling.top_p,
                "max_tokens": ask.sampling.max_tokens,
                "logprobs": 0,
                "detokenize": False,
                "ignore_eos": True,
                "stop_token_ids": list(ask.stops),
            },
        }
        choices = sorted(self._post("/inference/v1/generate", body)["choices"], key=lambda choice: choice["index"])
        if len(choices) != size or any(choice["finish_reason"] not in ("stop", "length") for choice in choices):
            reasons = sorted({str(choice["finish_reason"]) for choice in choices})
            raise ServerError(
                f"{self._settings.url} ended {len(choices)} of {size} completions of a prompt "
                f"({', '.join(reasons)}); {self._remedy}"
            )
        return [_said(choice) for choice in choices] * (ask.size // size)

    def _give_up(self, threads: ThreadPoolExecutor, names: Sequence[str]) -> None:
        threads.shutdown(wait=False, cancel_futures=True)
        # What is still being asked for would be waited for. Others may be asking too.
        with suppress(ServerError):
            self._post("/abort_requests", {"request_ids": [f"{PREFIX}{name}" for name in names]})

    def _call(self, method: str, *arguments: str) -> list[dict[str, Any]]:
        """What every worker of the server answers, in their order."""
        results = self._post("/collective_rpc", {"method": method, "args": list(arguments)})["results"]
        failed = [f"worker {one['worker']} failed: {one['failed']}" for one in results if "failed" in one]
        if failed:
            raise ServerError(f"{self._settings.url}: {'; '.join(failed)}; {self._remedy}")
        if [one.get("worker") for one in results] != [*range(len(results))]:
            raise ServerError(f"{self._settings.url}: its workers did not answer {method} in turn; {self._remedy}")
        return results

    def _get(self, path: str) -> Any:
        return self._exchange(Request(self._settings.url + path, headers=self._headers))

    def _post(self, path: str, body: Any = None) -> Any:
        data = b"" if body is None else json.dumps(body).encode()
        return self._exchange(Request(self._settings.url + path, data, self._headers, method="POST"))

    @property
    def _headers(self) -> dict[str, str]:
        key = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        return {"Content-Type": "application/json", "User-Agent": "r1lit", **key}

    def _exchange(self, request: Request) -> Any:
        url, path = self._settings.url, request.full_url.removeprefix(self._settings.url)
        try:
            with urlopen(request, timeout=self._settings.timeout) as response:
                text = response.read()
            return json.loads(text) if text else {}
        except HTTPError as error:
            with error:
                said = " ".join(error.read().decode(errors="replace").split())[:SHOWN]
            if error.code in (403, 404):
                raise ServerError(f"{url} does not offer {path}, so it is no server of r1lit's; {START}") from error
            raise ServerError(f"{url}{path} answered {error.code}: {said}; {self._remedy}") from error
        except TimeoutError as error:
            raise ServerError(
                f"{url}{path} gave no answer in {self._settings.timeout:g} s; raise rollout.server.timeout, or "
                f"{self._remedy}"
            ) from error
        except (URLError, http.client.HTTPException, OSError, ValueError) as error:
            raise ServerError(
                f"rollout.server.url={url}, but no vLLM server answers there ({getattr(error, 'reason', error)}); "
                f"{START}, set its address, or go on with resume=RUN if it died"
            ) from error


def _require_fit(policy: PreTrainedModel, url: str, served: dict[str, Any]) -> None:
    """Refuse a server whose samples could not be learnt from, before weights are sent to it."""
    problems = [problem] if (problem := shape_problem(url, served["shape"], shape_of(policy.config))) else []
    if served["logprobs_mode"] != LOGPROBS:
        problems.append(
            f"rollout.server.url={url} gives {served['logprobs_mode']}, not log-probs of the "
            f"distribution that it draws from; {START}"
        )
    if odd := spread_problem(served["spread"], served["world_size"]):
        problems.append(
            f"rollout.server.url={url} spreads its model with {odd}, under which pushed weights have not been "
            "proven; start it with --tensor-parallel-size N alone, on one host, or with no such option"
        )
    if problems:
        raise ConfigError(problems)


def _spread(workers: int) -> str:
    return f"spread over {workers} workers, " if workers > 1 else ""


def _backend(settings: ServerSettings, served: str, mine: torch.device) -> str:
    if settings.transfer != "auto":
        return settings.transfer
    return "nccl" if served == mine.type == "cuda" else "gloo"


def _said(choice: dict[str, Any]) -> Said:
    content = choice["logprobs"]["content"]
    versions = frozenset(span["version"] for span in choice["weight_versions"] or ())
    return Said(choice["token_ids"], [token["logprob"] for token in content], versions)
