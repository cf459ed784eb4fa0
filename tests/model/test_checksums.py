"""Hashes of checkpoint folders."""

import pytest

from simcsp.core.errors import InputError
from simcsp.model.checksums import check_folder, sha256_folder, write_checksums


def test_the_hash_of_a_folder_follows_names_and_bytes(tmp_path):
    hashes = []
    for name, text in (("a", "1"), ("a", "2"), ("b", "1"), ("a", "1")):
        folder = tmp_path / str(len(hashes))
        (folder / "sub").mkdir(parents=True)
        (folder / "sub" / name).write_text(text)
        hashes.append(sha256_folder(folder))
    assert len(set(hashes)) == 3 and hashes[0] == hashes[3]


def test_a_changed_file_of_a_checkpoint_is_refused_and_a_folder_without_a_record_is_not(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    check_folder(tmp_path)
    identity = sha256_folder(tmp_path)
    write_checksums(tmp_path)
    check_folder(tmp_path)
    assert sha256_folder(tmp_path) == identity  # runs that began from it know it still
    (tmp_path / "model.safetensors").write_bytes(b"Weights")
    with pytest.raises(InputError, match="model.safetensors does not match its .* delete .*checksums.json"):
        check_folder(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(InputError, match="model.safetensors does not exist"):
        check_folder(tmp_path)
