"""Bases and ids."""

import numpy as np
import pytest
from conftest import other_strand
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertTokenizer

from simcsp.core.errors import InputError
from simcsp.text.alphabet import COMPLEMENT, ENCODE, UNK, VOCAB, add_special_tokens, decode, encode, reverse_complement

IUPAC = "RYSWKMBDHVN"
DNA = st.text("ACGTN", max_size=60)


def test_ids_are_those_of_splicebert_and_lower_case_u_and_ambiguity_letters_are_accepted():
    assert VOCAB == ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "N", "A", "C", "G", "T")
    assert encode("NACGT").tolist() == [5, 6, 7, 8, 9]
    assert encode("GATTACA").dtype == np.uint8
    assert encode("acgtuU").tolist() == [6, 7, 8, 9, 9, 9]
    assert encode(IUPAC + IUPAC.lower()).tolist() == [5] * 2 * len(IUPAC)


def test_every_other_character_is_an_error():
    good = set("ACGTU" + IUPAC) | set(("ACGTU" + IUPAC).lower())
    for character in map(chr, range(256)):
        if character not in good:
            with pytest.raises(InputError, match="line 7: .* at base 4 is not a nucleotide code"):
                encode(f"ACG{character}A", "windows.csv, line 7")
    assert sum(ENCODE != UNK) == len(good)


@given(DNA)
def test_ids_are_those_of_the_tokenizer_on_spaced_bases(tokenizer, bases):
    assert add_special_tokens(encode(bases)[None])[0].tolist() == tokenizer(" ".join(bases))["input_ids"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false, "tokenizer_class": "BertTokenizer"}')
    return BertTokenizer.from_pretrained(folder)


def test_complement_table_keeps_special_tokens_and_n():
    assert COMPLEMENT.tolist() == [0, 1, 2, 3, 4, 5, 9, 8, 7, 6]


@given(DNA)
def test_ids_are_those_of_the_letters_and_the_reverse_complement_its_own_inverse(bases):
    ids = encode(bases)
    assert decode(ids) == bases
    assert decode(reverse_complement(ids)) == other_strand(bases)
    assert np.array_equal(reverse_complement(reverse_complement(ids)), ids)


def test_reverse_complement_of_a_batch_turns_each_row():
    rows = reverse_complement(np.stack([encode("AACN"), encode("GTTT")]))
    assert [decode(row) for row in rows] == ["NGTT", "AAAC"]
