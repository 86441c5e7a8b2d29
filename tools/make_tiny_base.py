"""Make an embedded tiny base model from nothing: corpus, tokenizer, weights, figures and model card.

    python tools/make_tiny_base.py [--model tiny|tiny-student] [--out DIR] [--steps N] [--seed S]
"""

from __future__ import annotations

import argparse
import os
import time
from itertools import islice
from pathlib import Path

# Before torch starts its threads: spinning at barriers makes a busy machine ten times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from tiny import card, corpus, measuring, training, vocabulary
from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from r1lit.data import talk
from r1lit.models.files import EMBEDDED

ASSETS = Path(__file__).resolve().parents[1] / "r1lit" / "assets"
SIZES = {
    "tiny": training.Size(hidden=128, ffn=512, steps=3200),
    # After 3,200 steps it answered 46 % right, where the larger model did 48 %: nothing left to distil.
    "tiny-student": training.Size(hidden=64, ffn=256, steps=1200),
}
MAX_LENGTH = 512
TWO_DIGITS = range(-99, 100)


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(2)
    torch.manual_seed(arguments.seed)
    mixture, started = corpus.Mixture(), time.perf_counter()
    tokenizer = make_tokenizer(mixture)
    model = training.new_model(tokenizer, MAX_LENGTH, SIZES[arguments.model])
    training.train(model, tokenizer, corpus.samples(mixture, arguments.seed), arguments.steps)
    minutes = (time.perf_counter() - started) / 60
    out = arguments.out or ASSETS / EMBEDDED[arguments.model]
    save(model.eval(), tokenizer, out)

    asked = measuring.held_out(arguments.problems, seed=arguments.seed)
    figures = measuring.figures(measuring.sample(model, tokenizer, asked, seed=arguments.seed))
    rows = measuring.held_out_talk()
    replied = measuring.sample_talk(model, tokenizer, rows, measuring.TALK_TIMES, seed=arguments.seed)
    talk_figures = measuring.talk_figures(replied)
    print(card.table(figures), card.talk_table(talk_figures), sep="\n\n")
    text = card.write(
        model,
        tokenizer,
        mixture,
        figures,
        talk_figures,
        name=arguments.model,
        command=f"python tools/make_tiny_base.py --model {arguments.model} --steps {arguments.steps} "
        f"--seed {arguments.seed}",
        steps=arguments.steps,
        batch=training.BATCH,
        minutes=minutes,
    )
    (out / "README.md").write_text(text, encoding="utf-8")
    print(f"wrote {out}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Make an embedded tiny base model from nothing.")
    parser.add_argument("--model", choices=list(SIZES), default="tiny", help="which of them")
    parser.add_argument("--out", type=Path, help="folder to write the model to; by default the one it ships in")
    parser.add_argument("--steps", type=int, help="training steps; by default as many as the model shipped had")
    parser.add_argument("--seed", type=int, default=0, help="of the weights, the corpus and the measurement")
    parser.add_argument("--problems", type=int, default=1000, help="held-out problems of each kind to measure with")
    arguments = parser.parse_args()
    if arguments.steps is None:
        arguments.steps = SIZES[arguments.model].steps
    return arguments


def make_tokenizer(mixture: corpus.Mixture) -> PreTrainedTokenizerFast:
    """The tokenizer of a mixture; it depends on nothing else, so that every seed and size shares it."""
    texts = [text for pair in islice(corpus.samples(mixture, seed=0), 20_000) for text in pair]
    texts += [row[column] for row in talk.distinct() for column in ("prompt", "chosen", "rejected")]
    words = [corpus.number_words(number, language) for number in TWO_DIGITS for language in ("en", "zh")]
    return vocabulary.build([*texts, *words], MAX_LENGTH)


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the model directory, before a measurement leaves its padding in the tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)


if __name__ == "__main__":
    main()
