"""The tiny base model's tokenizer: bytes, the corpus's words whole, single digits, and the template in two tokens."""

from __future__ import annotations

import re
from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from r1lit.text.templates import R1_ZERO

EOS, PAD = "<|endoftext|>", "<|pad|>"
OPENING, CLOSING = R1_ZERO.split("{prompt}")
MARKS = ("<think>", "</think>", "<answer>", "</answer>", OPENING, CLOSING)

# A word with the blank before it, one digit, one Chinese character, one mark, or a run of blanks.
PIECES = r" ?[A-Za-z]+| ?[0-9]|\p{Han}| ?[^\sA-Za-z0-9\p{Han}]|\s+(?=\S)|\s+"

CHAT_TEMPLATE = f"""{{%- for message in messages -%}}
{{%- if message.role == 'assistant' -%}}{{{{ '{CLOSING}' + message.content + '{EOS}' }}}}
{{%- elif message.role == 'user' -%}}{{{{ '{OPENING}' + message.content }}}}
{{%- else -%}}{{{{ raise_exception('this model knows the roles user and assistant, not ' + message.role) }}}}
{{%- endif -%}}
{{%- endfor -%}}
{{%- if add_generation_prompt -%}}{{{{ '{CLOSING}' }}}}{{%- endif -%}}"""


def pieces(texts: Iterable[str]) -> list[str]:
    """The distinct pieces of some texts outside the marks, spelt in the byte alphabet, in order of their spelling."""
    marks, split = re.compile("|".join(map(re.escape, MARKS))), _splitter()
    parts = {part for text in texts for part in marks.split(text)}
    return sorted({piece for part in parts for piece, _ in split.pre_tokenize_str(part)})


def build(texts: Iterable[str], max_length: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer that knows every piece of the texts whole, and spells all else in bytes.

    The pieces are listed rather than merged (``ignore_merges``), so the vocabulary holds no fragments of words.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(piece for piece in pieces(texts) if piece not in set(alphabet))]
    core = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=[], ignore_merges=True))
    core.pre_tokenizer = _splitter()
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (EOS, PAD)])
    core.add_tokens([AddedToken(token, special=False, normalized=False) for token in MARKS])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=EOS,
        pad_token=PAD,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=max_length,
        chat_template=CHAT_TEMPLATE,
    )


def _splitter() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
