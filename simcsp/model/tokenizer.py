"""The tokenizer that lies in every checkpoint, so that `AutoTokenizer` gives the ids that the model was trained on.

The project itself reads bases with the table of `encode`, which is the reference; here is the same table in the terms
of the `tokenizers` library. Bases may be spaced, in lower case, or RNA.
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from simcsp.text.alphabet import CLS, ENCODE, SEP, VOCAB, N

_SPECIAL, _BASES = VOCAB[:N], VOCAB[N:]
_ROLES = {f"{role}_token": f"[{role.upper()}]" for role in ("pad", "unk", "cls", "sep", "mask")}


def build_tokenizer() -> Tokenizer:
    """[CLS] bases [SEP], one id a base; any other character becomes [UNK], where `encode` raises an error."""
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(VOCAB)}, unk_token="[UNK]"))
    letters = {base: "".join(map(chr, (VOCAB.index(base) == ENCODE).nonzero()[0])) for base in _BASES}
    replaced = [normalizers.Replace(Regex(f"[{letters[base]}]"), base) for base in _BASES]
    tokenizer.normalizer = normalizers.Sequence([normalizers.Replace(Regex(r"\s+"), ""), *replaced])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)],
    )
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in _SPECIAL])
    return tokenizer


def save_tokenizer(folder: Path, max_length: int) -> None:
    """Write tokenizer.json and tokenizer_config.json, the same bytes each time.

    max_length: the model's positions, [CLS] and [SEP] among them; longer input is cut where truncation is asked for.
    """
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "model_input_names": ["input_ids", "attention_mask"],  # one sequence: no segments
        "clean_up_tokenization_spaces": False,
        **_ROLES,
        "written_by": "simcsp",  # by this, `sha256_folder` tells these files from those of other checkpoints
    }
    (folder / "tokenizer.json").write_text(build_tokenizer().to_str(pretty=True) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
