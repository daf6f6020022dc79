"""Prune a student's vocabulary to the word pieces that its training texts show.

Word embeddings are most of a small student: 30,522 rows of 128 are 89 % of ``tiny``. A row whose
piece no training text shows gets no gradient, so it can go, and its piece with it. For a training
text nothing changes: WordPiece, as BERT's released code applies it (Devlin et al. 2019), cuts a
word from the left and takes the longest piece that fits; the pieces that it took are all kept, so
they are still the longest. A new word that shows a pruned piece is cut into smaller kept pieces;
where, cut from the left, it comes to a place that no kept piece fits, the whole word becomes the
unknown token.

Abdaoui et al. 2020 (arXiv:2010.05609) prune multilingual models like this, language by language.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distill_lab.errors import UserError
from distill_lab.models import processor_fingerprint, word_embeddings
from distill_lab.quiet import quiet_transformers

PRUNED_FROM = "pruned_from"  # in tokenizer_config.json: the fingerprint of the full tokenizer
TEXTS_AT_ONCE = 1000


class PrunedVocabulary(NamedTuple):
    """A tokenizer with a part of another's entries.

    Attributes:
        tokenizer: Of the kept entries, numbered anew from 0.
        kept: int64 [new vocabulary]; the old id of each new id, rising.
    """

    tokenizer: PreTrainedTokenizerBase
    kept: Tensor


# --- tokenizers --------------------------------------------------------------------------------


def prune_to_texts(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int
) -> PrunedVocabulary:
    """Prune a tokenizer to what it makes of texts; it makes the same of them afterwards.

    Args:
        tokenizer: A fast WordPiece tokenizer.
        texts: Those of the training, all of them.
        max_length: Where they are cut, in tokens, special tokens counted.

    Raises:
        UserError: The tokenizer is of another kind, or cuts a text otherwise once it is pruned.
    """
    pruned = prune_vocabulary(tokenizer, used_ids(tokenizer, texts, max_length))
    full = _encode(tokenizer, texts, max_length)
    if changed := _count_changed(pruned, full, _encode(pruned.tokenizer, texts, max_length)):
        raise UserError(
            f"pruned, the tokenizer would cut {changed:,} of {len(texts):,} training texts "
            "otherwise; leave out --prune-vocabulary"
        )
    return pruned


def used_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int) -> set[int]:
    """Give the ids that the cutting of texts depends on.

    Beside those that a model is fed, these are the pieces of a word that ``max_length`` cuts in
    two, without which its first piece would be another, and the pieces of an unknown word up to
    the place that no piece fits, without which a piece might be found for that place.

    Raises:
        UserError: The tokenizer is no fast WordPiece tokenizer.
    """
    state = _state(tokenizer)
    vocabulary, prefix = state["model"]["vocab"], state["model"]["continuing_subword_prefix"]
    used: set[int] = set()
    unknown: set[str] = set()
    for part in _parts(texts):
        batch = tokenizer(part, truncation=True, max_length=max_length)
        for text, encoding in zip(part, batch.encodings or (), strict=True):
            used.update(encoding.ids)
            if encoding.overflowing:
                words = set(encoding.word_ids) - {None}
                used.update(
                    i
                    for rest in encoding.overflowing
                    for i, word in zip(rest.ids, rest.word_ids, strict=True)
                    if word in words
                )
            if tokenizer.unk_token_id in encoding.ids:
                unknown.update(
                    text[slice(*span)]
                    for i, span in zip(encoding.ids, encoding.offsets, strict=True)
                    if i == tokenizer.unk_token_id
                )
    for text in unknown:
        for word in _words(tokenizer, text):
            used.update(vocabulary[piece] for piece in _longest_pieces(word, vocabulary, prefix))
    return used


def _parts(texts: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        yield list(texts[start : start + TEXTS_AT_ONCE])


def _encode(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int
) -> Iterator[list[int]]:
    """Give each text's ids."""
    for part in _parts(texts):
        yield from tokenizer(part, truncation=True, max_length=max_length)["input_ids"]


def _count_changed(
    pruned: PrunedVocabulary, full: Iterable[list[int]], new: Iterable[list[int]]
) -> int:
    """Count the texts that a pruned tokenizer cuts otherwise, given ids by both tokenizers."""
    old = pruned.kept.tolist()
    return sum(before != [old[i] for i in after] for before, after in zip(full, new, strict=True))


def _words(tokenizer: PreTrainedTokenizerBase, text: str) -> list[str]:
    """Give the words of a text as the WordPiece model is given them."""
    backend = tokenizer.backend_tokenizer
    text = backend.normalizer.normalize_str(text) if backend.normalizer else text
    if backend.pre_tokenizer is None:
        return [text]
    return [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(text)]


def _longest_pieces(word: str, vocabulary: Iterable[str], prefix: str) -> Iterator[str]:
    """Cut a word from the left, the longest piece first, up to its end or where none fits."""
    start = 0
    while start < len(word):
        for end in range(len(word), start, -1):
            piece = (prefix if start else "") + word[start:end]
            if piece in vocabulary:
                yield piece
                start = end
                break
        else:
            return


def prune_vocabulary(tokenizer: PreTrainedTokenizerBase, used: Iterable[int]) -> PrunedVocabulary:
    """Make a tokenizer of the used entries of another; that one is left as it is.

    Kept are the used entries, all special and added tokens, and what stands before the padding
    token, so that it keeps its id: some architectures count positions from there. The order is
    kept. The new tokenizer knows which it was pruned from, after saving and loading too
    (``parent_fingerprint``).

    Raises:
        UserError: The tokenizer is no fast WordPiece tokenizer.
    """
    state = _state(tokenizer)
    kept = {*used, *tokenizer.all_special_ids, *(t["id"] for t in state["added_tokens"])}
    kept.update(range(tokenizer.pad_token_id or 0))
    vocabulary = {token: i for token, i in tokenizer.get_vocab().items() if i in kept}
    old = sorted(vocabulary.values())
    new = {i: k for k, i in enumerate(old)}
    state["model"]["vocab"] = {
        token: new[i] for token, i in state["model"]["vocab"].items() if i in new
    }
    for token in state["added_tokens"]:
        token["id"] = new[token["id"]]
    _renumber(state["post_processor"], {token: new[i] for token, i in vocabulary.items()})
    with TemporaryDirectory(prefix="distill_lab-") as place:
        folder = Path(place)
        tokenizer.save_pretrained(folder)
        _write(folder / "tokenizer.json", state)
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        _write(
            folder / "tokenizer_config.json",
            config | {PRUNED_FROM: processor_fingerprint(tokenizer)},
        )
        with quiet_transformers():
            pruned = type(tokenizer).from_pretrained(folder)
    return PrunedVocabulary(pruned, torch.tensor(old))


def _state(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Give what ``tokenizer.json`` holds.

    Raises:
        UserError: The tokenizer is no fast WordPiece tokenizer.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    state: dict[str, Any] = json.loads(backend.to_str()) if backend else {}
    kind = state.get("model", {}).get("type", "slow")
    if kind != "WordPiece":
        raise UserError(
            f"only the vocabulary of a fast WordPiece tokenizer can be pruned, and "
            f"{type(tokenizer).__name__} is {kind}; leave out --prune-vocabulary"
        )
    return state


def _renumber(part: Any, ids: dict[str, int]) -> None:
    """Set the ids in a post-processor, which adds special tokens, anew by their tokens."""
    if isinstance(part, list):
        for inner in part:
            _renumber(inner, ids)
    elif isinstance(part, dict):
        for key, value in part.items():
            if key in ("cls", "sep"):  # BertProcessing: a token and its id
                part[key] = [value[0], ids[value[0]]]
            elif key == "special_tokens":  # TemplateProcessing
                for token in value.values():
                    token["ids"] = [ids[t] for t in token["tokens"]]
            else:
                _renumber(value, ids)


def _write(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")


def parent_fingerprint(processor: Any) -> str | None:
    """Give the fingerprint of the tokenizer that this one was pruned from, if it was."""
    found = getattr(processor, "init_kwargs", {}).get(PRUNED_FROM)
    return None if found is None else str(found)


# --- models ------------------------------------------------------------------------------------


def prune_embeddings(model: PreTrainedModel, kept: Tensor) -> None:
    """Leave a model the word embeddings of the kept ids, in their order. In place.

    Nothing else changes: for new ids the model gives what it gave for the old ones.

    Args:
        model: Any classifier with word embeddings.
        kept: int64 [new vocabulary], as in ``PrunedVocabulary``.
    """
    table, new = word_embeddings(model), {i: k for k, i in enumerate(kept.tolist())}
    trained = table.weight.requires_grad
    table.weight = nn.Parameter(table.weight.detach()[kept.to(table.weight.device)], trained)
    table.num_embeddings = len(new)
    table.padding_idx = new.get(table.padding_idx) if table.padding_idx is not None else None
    config = model.config
    config.vocab_size = len(new)
    for name, value in config.to_dict().items():
        if name.endswith("_token_id") and isinstance(value, int):
            setattr(config, name, new.get(value))


# --- what it costs -----------------------------------------------------------------------------


def describe_pruning(
    tokenizer: PreTrainedTokenizerBase,
    pruned: PrunedVocabulary,
    texts: Sequence[str],
    max_length: int,
) -> dict[str, Any]:
    """Measure on new texts what pruning does; for the report.

    Returns:
        ``kept`` of ``of`` entries; ``unknown_test_tokens`` and ``unknown_test_tokens_unpruned``,
        shares of unknown tokens among the tokens of texts, other special ones left out;
        ``changed_test_examples``, the share of texts that are cut otherwise.
    """
    full, new = (list(_encode(t, texts, max_length)) for t in (tokenizer, pruned.tokenizer))
    return {
        "kept": len(pruned.kept),
        "of": len(tokenizer),
        "unknown_test_tokens": _unknown_share(pruned.tokenizer, new),
        "unknown_test_tokens_unpruned": _unknown_share(tokenizer, full),
        "changed_test_examples": _count_changed(pruned, full, new) / len(full),
    }


def _unknown_share(tokenizer: PreTrainedTokenizerBase, texts: Iterable[list[int]]) -> float:
    unknown, others = tokenizer.unk_token_id, set(tokenizer.all_special_ids)
    counts = Counter(i for ids in texts for i in ids)
    total = sum(n for i, n in counts.items() if i == unknown or i not in others)
    return counts[unknown] / max(total, 1)
