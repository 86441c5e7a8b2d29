"""Make the embedded tiny base model from nothing: corpus, tokenizer, weights, figures and model card.

    python tools/make_tiny_base.py [--out DIR] [--steps N] [--seed S]
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

DEFAULT_OUT = Path(__file__).resolve().parents[1] / "r1lit" / "assets" / "tiny"
MAX_LENGTH = 512
TWO_DIGITS = range(-99, 100)


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(2)
    torch.manual_seed(arguments.seed)
    mixture, started = corpus.Mixture(), time.perf_counter()
    tokenizer = make_tokenizer(mixture)
    model = training.new_model(tokenizer, MAX_LENGTH)
    training.train(model, tokenizer, corpus.samples(mixture, arguments.seed), arguments.steps)
    minutes = (time.perf_counter() - started) / 60
    save(model.eval(), tokenizer, arguments.out)

    asked = measuring.held_out(arguments.problems, seed=arguments.seed)
    figures = measuring.figures(measuring.sample(model, tokenizer, asked, seed=arguments.seed))
    print(card.table(figures))
    text = card.write(
        model,
        tokenizer,
        mixture,
        figures,
        command=f"python tools/make_tiny_base.py --steps {arguments.steps} --seed {arguments.seed}",
        steps=arguments.steps,
        batch=training.BATCH,
        minutes=minutes,
    )
    (arguments.out / "README.md").write_text(text, encoding="utf-8")
    print(f"wrote {arguments.out}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Make the embedded tiny base model from nothing.")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="folder to write the model to")
    parser.add_argument("--steps", type=int, default=2800, help="training steps")
    parser.add_argument("--seed", type=int, default=0, help="of the weights, the corpus and the measurement")
    parser.add_argument("--problems", type=int, default=1000, help="held-out problems of each kind to measure with")
    return parser.parse_args()


def make_tokenizer(mixture: corpus.Mixture) -> PreTrainedTokenizerFast:
    """The tokenizer of a mixture; it depends on nothing else, so that every seed shares it."""
    texts = [text for pair in islice(corpus.samples(mixture, seed=0), 20_000) for text in pair]
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
