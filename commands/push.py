"""push: a checkpoint with its model card to the hub."""

from __future__ import annotations

import sys
from pathlib import Path

from commands.flags import FlagParser
from simcsp.core.errors import InputError
from simcsp.model.card import card_data
from simcsp.model.checksums import CARD, check_folder
from simcsp.model.weights import weight_file_of

FILES = ("*.json", "*.safetensors", "vocab.txt", CARD)
"""What of a checkpoint folder is uploaded."""


def show_push(words: list[str]) -> None:
    """Upload a checkpoint folder, card and all, to a repository of the hub, which is made where there is none."""
    about = "Uploads a checkpoint folder to the hub (or HF_ENDPOINT), as whom `hf auth login` or HF_TOKEN says."
    parser = FlagParser("push", about)
    parser.add_argument("folder", type=Path, help="a checkpoint: config.json, weights, README.md")
    parser.add_argument("repository", help="owner/name")
    parser.add_argument("--public", action="store_true", help="publicly visible (default: private)")
    asked = parser.parse_args(words)
    folder = asked.folder
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist: give a checkpoint folder, such as .../checkpoints/best")
    if not (folder / "bases.json").is_file():
        weight_file_of(folder)
    check_folder(folder)
    data = card_data(folder / CARD) if (folder / CARD).is_file() else None
    if data is None or not data.license:
        raise InputError(
            f"{folder / CARD} is not a model card with a licence in its YAML header: checkpoints get one when their "
            "training ends; write one by hand, or finish training"
        )
    said = f"{asked.repository} ({'public' if asked.public else 'private'})"
    files = sorted({path for pattern in FILES for path in folder.rglob(pattern)})
    for path in files:
        print(f"{path}  {path.stat().st_size / 1e6:.2f} MB", flush=True)
    if sys.stdin.isatty() and input(f"Upload these to {said}? [y/N] ").strip().lower() not in ("y", "yes"):
        raise InputError("push: nothing was uploaded")
    print(upload(folder, [path.relative_to(folder).as_posix() for path in files], asked.repository, asked.public))


def upload(folder: Path, names: list[str], repository: str, public: bool) -> str:
    """The address of what was uploaded. Raises InputError for what the hub, or the way there, refuses, and where the
    repository is there and public, and that was not asked for."""
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        repository = api.create_repo(repository, private=not public, exist_ok=True).repo_id
        if not public and not api.repo_info(repository).private:
            raise InputError(f"push: {repository} is public: say --public, or choose another name")
        done = api.upload_folder(
            repo_id=repository, folder_path=folder, allow_patterns=names, commit_message="Model from SimCSP"
        )
    except InputError:
        raise
    except Exception as error:  # the hub's client also lets through what its HTTP library raises, which has changed
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"push: {repository} cannot be uploaded to {api.endpoint} ({reason}): check the name, the connection and "
            "`hf auth login`"
        ) from None
    return str(done.commit_url)
