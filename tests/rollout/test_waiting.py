"""No host sync per token: between its questions the host decodes without any answer of the device."""

from __future__ import annotations

import pytest
import torch
from recording import Reads, Tape
from small_models import KINDS, make_model

from r1lit.rollout import masks, static
from r1lit.rollout.decoding import Drawn, GrowingDecoder, decode
from r1lit.rollout.draw import UniformStream
from r1lit.rollout.prefill import as_it_samples, prefill
from r1lit.rollout.shell import Shell
from r1lit.types import Sampling

TOKENS = 12
PADDED, UNPADDED = [[5, 6, 7], [8]], [[5, 6, 7], [8, 9, 10]]


@torch.no_grad()
def decoder_of(model, prompts, decoding="eager"):
    owners = torch.tensor([0, 0, 1])
    prefilled = prefill(model, prompts, TOKENS, pad=0, whole=decoding != "eager")
    if decoding == "eager":
        return GrowingDecoder(model, prefilled, owners)
    return static.StaticDecoder(model, Shell(model).model, decoding, prefilled, owners)


class Watched:
    """A decoder, and the waits in each of its steps, with the draw that follows."""

    def __init__(self, decoder):
        self.decoder, self.waits = decoder, []
        self._tape, self._reads = Tape(), Reads()

    def __getattr__(self, name):
        return getattr(self.decoder, name)

    def __enter__(self):
        self._tape.__enter__(), self._reads.__enter__()
        return self

    def __exit__(self, *error):
        self.step(None)
        self._reads.__exit__(*error), self._tape.__exit__(*error)

    def step(self, ids):
        """All since the last step is what the host did between the two."""
        self.waits.append(self._tape.waits + self._reads.names)
        self._tape.ran.clear(), self._reads.names.clear()
        if ids is not None:
            self.decoder.step(ids)


@torch.no_grad()
def waits(model, decoder, every, sampling=None):
    """By step, beginning with the draw of the first token; the last is the end, at which all rows are read."""
    rows, stops = torch.arange(3), torch.tensor([99])
    drawn, uniforms = Drawn.empty(3, TOKENS, 0, rows.device), UniformStream(0, 3, rows.device)
    with as_it_samples(model), Watched(decoder) as watched:
        sampling = sampling or Sampling(max_tokens=TOKENS)
        decode(watched, rows, drawn, uniforms, stops, sampling, lambda rows: None, every)
    assert len(watched.waits) == TOKENS
    return watched.waits


NEVER, AT_THE_END = TOKENS + 1, [[]] * (TOKENS - 1) + [["tolist"]]


@pytest.mark.parametrize("prompts", [PADDED, UNPADDED], ids=["padded", "unpadded"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("decoding", ["eager", "static"])
def test_no_step_reads_a_value(kind, prompts, decoding, monkeypatch):
    monkeypatch.setattr(static, "FIRST_SLOTS", 8)
    model = make_model(kind)
    assert waits(model, decoder_of(model, prompts, decoding), NEVER) == AT_THE_END


@pytest.mark.parametrize("sampling", [Sampling(0, 1.0, TOKENS), Sampling(0.7, 0.9, TOKENS)])
def test_neither_does_a_draw(sampling):
    model = make_model("llama")
    assert waits(model, decoder_of(model, PADDED), NEVER, sampling) == AT_THE_END


def test_the_question_which_rows_have_finished_is_seen():
    model = make_model("llama")
    found = waits(model, decoder_of(model, PADDED), every=5)
    assert [step for step, names in enumerate(found) if names] == [4, 9, TOKENS - 1]
    assert set(found[4]) == {"tolist", "aten::index"}


@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
def test_a_mask_that_the_model_makes_itself_is_seen(kind, monkeypatch):
    monkeypatch.setattr(masks, "READY", ())
    model = make_model(kind)
    found = waits(model, decoder_of(model, PADDED), NEVER)
    assert all("aten::_local_scalar_dense" in names for names in found[1:])
