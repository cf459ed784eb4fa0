#!/usr/bin/env python3
"""Fetch weights, windows, genomes and annotation from their publishers, check them, and put them where configs look.

    python data/fetch.py list                       # what there is, its size and licence, and whether it is here
    python data/fetch.py list hg19                  # the URLs of one, and where its files go by hand
    python data/fetch.py chr19 introns genes regions   # real human DNA, through pip; status 3 where it reaches no index
    python data/fetch.py splicebert spliceator hg19 hg38
    python data/fetch.py check spliceator           # rows, classes, duplicates of what has arrived
    python data/fetch.py check genes                # records, introns, and how many of these are GT-AG

A download goes on where it was cut off. What arrives is compared with the publisher's own checksums and noted in
data/fetch.lock.json; a later arrival that differs from the note is refused. A file put into data/downloads by hand is
used as if it had been downloaded. data/README.md says more, mirrors included.
"""

from __future__ import annotations

import argparse
import difflib
import filecmp
import hashlib
import json
import os
import posixpath
import re
import shutil
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import requests
import urllib3
from tqdm import tqdm

# Run as a file, Python looks for modules in data/ only; utils/ and data/ itself lie in the folder above.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from data.packages import Unreachable, download_package  # noqa: E402
from data.sources import DATA_SETS, Source, unpack  # noqa: E402
from simcsp.core.errors import InputError  # noqa: E402
from simcsp.core.files import mend_folder, replacing, write_text  # noqa: E402
from utils.script import run_script  # noqa: E402

TRIES = 3  # times that a connection is taken up again after it broke, as long as each brings something
BLOCK = 1 << 16  # bytes read at a time: what a server that falls silent can cost
UNREACHABLE = 3  # exit status where pip reaches no index: what can do without may go on
MOST_UNANNOUNCED = 10**10  # bytes of an answer that does not say how long it is
ANNOTATED = {
    "chr19": [("chr19.fa.gz", "chr19.gff3.gz")],
    "introns": [(f"introns/{name}.fa", f"introns/{name}.gtf") for name in ("human", "multispecies")],
    "genes": [(f"genes/{name}.fa", f"genes/{name}.gtf") for name in ("chr1", "chr3", "unplaced")],
}
GT_AG = bytes([8, 9, 6, 8])  # as ids
REPORT_SECONDS = 30  # between lines of progress where there is no terminal


# --- where it goes, and what has arrived --------------------------------------------------------------------------


@dataclass(frozen=True)
class Options:
    data: Path
    mirror: str | None
    timeout: float
    """Seconds without an answer after which a server counts as gone."""

    @property
    def downloads(self) -> Path:
        return self.data / "downloads"

    @property
    def lock(self) -> Path:
        return self.data / "fetch.lock.json"

    def address(self, url: str) -> str:
        """The URL to ask: the publisher's own, or the same host and path below the mirror."""
        parts = urlsplit(url)
        return f"{self.mirror.rstrip('/')}/{parts.netloc}{parts.path}" if self.mirror else url


def shown(path: Path) -> str:
    """A path as short as it can be said from here."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def read_lock(options: Options) -> dict[str, dict]:
    try:
        return json.loads(options.lock.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise InputError(f"{shown(options.lock)}: damaged ({error}): mend or remove it") from None


def record(options: Options, key: str, entry: dict) -> None:
    """Note an arrival in the lock file; another fetch may have written since, so read it again first."""
    lock = read_lock(options) | {key: entry | {"date": datetime.now(UTC).strftime("%Y-%m-%d")}}
    write_text(options.lock, json.dumps(lock, indent=1, sort_keys=True) + "\n")


def is_here(entry: dict | None, options: Options) -> bool:
    """The files that an entry of the lock stands for are all in place, by their sizes."""
    return entry is not None and all(
        (options.data / path).is_file() and (options.data / path).stat().st_size == size
        for path, size in entry["installed"].items()
    )


def sizes(folder: Path) -> dict[str, int]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


# --- downloads ----------------------------------------------------------------------------------------------------


def recognise(path: Path, name: str, where: str) -> None:
    """Refuse what is plainly not the file called `name`. where: a URL or path for the message."""
    with open(path, "rb") as handle:
        start = handle.read(512)
    if not start:
        raise InputError(f"{where} is empty")
    if start.startswith(b"version https://git-lfs"):
        raise InputError(f"{where} is a Git LFS pointer, not the file it points to: get the file itself")
    if start.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise InputError(f"{where} is an HTML page (of a login or a proxy?), not {name}")
    if name.endswith(".gz") and not start.startswith(b"\x1f\x8b"):
        raise InputError(f"{where} is not a gzip file, as {name} must be")


@dataclass
class ResumingDownloader:
    """Streams into `part` and, if that is there from last time, asks for the rest only.

    A server that has no ranges sends the whole, and so it starts over. Whether the parts make up the right file is for
    the checksum to say; `part` is named by it, so that no part of another file is built upon.
    Raises InputError, one line that says what to do; the part stays for the next time.
    """

    part: Path
    name: str
    timeout: float
    advice: str
    """What to do where the network does not help."""

    def __call__(self, url: str) -> None:
        for left in reversed(range(TRIES)):
            before = self.size()
            try:
                self.receive(url)
                break
            except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
                if self.size() > before and left:
                    continue
                here = f"; {self.size()} bytes are here: rerun the same command to resume" if self.size() else ""
                raise InputError(f"{url} cannot be downloaded ({plain(error)}){here}: {self.advice}") from None
        try:
            recognise(self.part, self.name, f"what {url} sent")
        except InputError:
            self.part.unlink()
            raise

    def size(self) -> int:
        return self.part.stat().st_size if self.part.is_file() else 0

    def receive(self, url: str) -> None:
        have = self.size()
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        with requests.get(url, headers=headers, stream=True, timeout=self.timeout) as response:
            if have and response.status_code == 416:  # no bytes after these: all had come when the run ended
                return
            response.raise_for_status()
            have = have if response.status_code == 206 else 0
            total = have + int(response.headers.get("Content-Length", 0)) or None
            bar = tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=self.name, disable=None)
            spoken = time.monotonic()
            with bar, open(self.part, "ab" if have else "wb") as out:
                # not decoded: some servers call a .gz file gzip-encoded, and it must not be unzipped on the way
                for block in response.raw.stream(BLOCK, decode_content=False):
                    out.write(block)
                    bar.update(len(block))
                    if total is None and out.tell() > MOST_UNANNOUNCED:
                        raise InputError(f"{url} sends no end of {self.name}: {self.advice}")
                    if bar.disable and time.monotonic() - spoken > REPORT_SECONDS:
                        print(f"{self.name}: {out.tell() / 1e6:9.1f} of {(total or 0) / 1e6:.1f} MB", flush=True)
                        spoken = time.monotonic()


def plain(error: Exception) -> str:
    """The innermost reason of a network error, without addresses of objects."""
    while isinstance(getattr(error, "reason", None) or (error.args and error.args[0]), Exception):
        error = getattr(error, "reason", None) or error.args[0]
    return re.sub(r"^.*?object at 0x\w+>:? ?|^\w+\([^)]*\): | for url: .*$", "", str(error)) or type(error).__name__


def by_hand(source: Source, options: Options) -> str:
    what = f"`pip download --no-deps {source.requirement}`" if source.requirement else source.url
    return f"get {what} some other way and put it at {shown(options.downloads / source.name)}"


def published_sum(source: Source, options: Options) -> tuple[str | None, str]:
    """'md5:...', 'sha256:...' or 'git:...' of a file, and where it was read; or None, and why there is none."""
    if source.sha256 or source.git:
        return f"sha256:{source.sha256}" if source.sha256 else f"git:{source.git}", "data/sources.py"
    if source.checksums is None:
        return None, "no checksum of it is recorded"
    url = options.address(source.checksums)
    try:
        response = requests.get(url, timeout=options.timeout)
        response.raise_for_status()
        if md5 := find_md5(response.text, source.name):
            return f"md5:{md5}", url
        problem = f"{url} lists no MD5 sum of {source.name}"
    except requests.RequestException as error:
        problem = f"{url} cannot be downloaded ({plain(error)})"
    if source.md5:
        print(f"{source.name}: {problem}; using the sum kept in data/sources.py")
        return f"md5:{source.md5}", "data/sources.py"
    return None, problem


def hash_of(path: Path, kind: str) -> str:
    """md5, sha256, or git: the sha1 by which a tree of git names a file, of a header and its bytes."""
    header = f"blob {path.stat().st_size}\0".encode() if kind == "git" else b""
    digest = hashlib.new("sha1" if kind == "git" else kind, header, usedforsecurity=False)
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, lambda: digest).hexdigest()


def find_md5(text: str, name: str) -> str | None:
    """MD5 sum of a file in a publisher's list: the JSON of a Zenodo record, or lines of `sum  [*][./folder/]name`."""
    try:
        files = json.loads(text)["files"]
        sums = {file["key"]: file["checksum"].removeprefix("md5:") for file in files}
    except (ValueError, KeyError, TypeError):
        lines = re.findall(r"^([0-9a-fA-F]{32})\s+\*?(\S+)\s*$", text, re.MULTILINE)
        sums = {posixpath.basename(path): md5 for md5, path in lines}
    md5 = sums.get(name, "")
    return md5.lower() if re.fullmatch("[0-9a-fA-F]{32}", md5) else None


def arrive(source: Source, options: Options, locked: dict | None) -> tuple[Path, dict]:
    """The file of a source, downloaded or put there by hand, and checked; and its entry for the lock.

    Raises InputError when it cannot be had, or is not what the publisher or the lock says.
    """
    path = options.downloads / source.name
    places = [*([options.data / source.to] if source.to else []), path]
    given = next((place for place in places if place.is_file()), None)
    if given:
        path, checked = given, check_given(given, source, options, locked)
    else:
        checked = download(path, source, options, locked)
    sha256 = hash_of(path, "sha256")
    if locked and sha256 != locked["sha256"]:
        if not given:
            path.unlink()
        raise InputError(
            f"{shown(given) if given else options.address(source.url)}: sha256 {sha256[:12]}..., but "
            f"{locked['sha256'][:12]}... came on {locked['date']}: to accept the new file, delete the entry "
            f"{source.name!r} of {shown(options.lock)}" + (" and run this again" if given else " and fetch again")
        )
    entry = {"url": source.url, "sha256": sha256, "size": path.stat().st_size, "checked": checked}
    return path, entry


def check_given(path: Path, source: Source, options: Options, locked: dict | None) -> str:
    """Check a file that was put there by hand; returns what it was checked against."""
    recognise(path, source.name, shown(path))
    if locked:
        return locked["checked"]  # the lock holds a stronger hash of it, compared by the caller
    known, where = published_sum(source, options)
    if known is None:
        print(f"{shown(path)}: taken as it is, unchecked ({where})")
        return "nothing"
    kind, _, expected = known.partition(":")
    if (own := hash_of(path, kind)) != expected:
        raise InputError(f"{shown(path)}: {kind} {own}, but {where} says {expected}: remove it and fetch it again")
    return where


def download(path: Path, source: Source, options: Options, locked: dict | None) -> str:
    """Download a source to `path`; returns what it was checked against."""
    if source.requirement:
        print(f"{source.name}: {source.requirement}, through pip", flush=True)
        download_package(source.requirement, source.sha256, path, options.timeout)
        return "data/sources.py"
    return download_url(path, source, options, locked)


def download_url(path: Path, source: Source, options: Options, locked: dict | None) -> str:
    """The same of a source that has an address."""
    url = options.address(source.url)
    known, where = published_sum(source, options)
    if known is None and locked is None and source.checksums:
        raise InputError(f"{where}, so {url} could not be checked: {by_hand(source, options)}")
    options.downloads.mkdir(parents=True, exist_ok=True)
    print(f"{source.name}: from {url}" + ("" if known or locked else f", unchecked ({where})"), flush=True)
    advice = f"use --mirror, or {by_hand(source, options)}"
    if known is None and locked:
        known, where = f"sha256:{locked['sha256']}", shown(options.lock)
    part = path.with_name(f"{path.name}.{known.partition(':')[2][:8] if known else 'unchecked'}.part")
    for other in set(options.downloads.glob(f"{path.name}.*.part")) - {part}:
        other.unlink()
    ResumingDownloader(part, path.name, options.timeout, advice)(url)
    kind, _, expected = (known or "").partition(":")
    if known and hash_of(part, kind) != expected:
        part.unlink()
        raise InputError(
            f"{url}: what arrived does not have the checksum {known} of {where}, and was removed: fetch again, or use "
            "another mirror"
        )
    os.replace(part, path)
    return locked["checked"] if where == shown(options.lock) else where if known else "nothing"


# --- archives -----------------------------------------------------------------------------------------------------


def install_archive(archive: Path, name: str, options: Options) -> dict[str, int]:
    """Unpack aside, then rename into place. Returns {path under data/: size} of what it brought."""
    data_set, aside = DATA_SETS[name], options.data / f".unpack-{name}"
    shutil.rmtree(aside, ignore_errors=True)  # of a run that was killed
    try:
        found, out = aside / "found", aside / "out"
        found.mkdir(parents=True)
        try:
            unpack(archive, found, data_set.is_wanted)
            missing = data_set.arrange(found, out)
        except InputError as error:
            raise InputError(f"{shown(archive)}: {error}") from None
        if missing:
            print(f"{name}: not in {archive.name}: {', '.join(missing)}")
        brought = sizes(out)
        put_in_place(out, DATA_SETS[name].places, options)
        return brought
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def put_in_place(out: Path, places: tuple[str, ...], options: Options) -> None:
    """Rename each place from `out` to data/, all or none; what is there and equal stays, what differs is refused."""
    moves = []
    for place in places:
        source, target = out / place, options.data / place
        if source.exists() and not target.exists():
            moves.append((source, target))
        elif source.exists() and not is_same(source, target):
            raise InputError(f"{shown(target)} is there already and differs: move it away and run this again")
    for source, target in moves:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(source, target)


def is_same(source: Path, target: Path) -> bool:
    """Every file of the source is in the target, byte for byte."""
    if source.is_file():
        return target.is_file() and filecmp.cmp(source, target, shallow=False)
    return all(is_same(path, target / path.name) for path in source.iterdir())


# --- commands -----------------------------------------------------------------------------------------------------


def fetch(name: str, options: Options) -> None:
    """Have a data set in its place under data/, checked; does nothing, without a request, where that is so already."""
    for source in DATA_SETS[name].sources:
        key = DATA_SETS[name].key(source)
        locked = read_lock(options).get(key)
        if is_here(locked, options):
            print(f"{name}: already here: {', '.join(outline(locked))}")
            continue
        path, entry = arrive(source, options, locked)
        if source.to is None:
            entry["installed"] = install_archive(path, name, options)
        else:
            target = options.data / source.to
            if path != target:
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, target)
            entry["installed"] = {source.to: entry["size"]}
        record(options, key, entry)
        print(f"{name}: {', '.join(outline(entry))} under {shown(options.data)}, checked against {entry['checked']}")
    data_set = DATA_SETS[name]
    if data_set.build and not (options.data / data_set.places[-1]).exists():
        with replacing(options.data / data_set.places[-1]) as aside:
            data_set.build(options.data, aside)
        print(f"{name}: {data_set.places[-1]} made")


def announce(names: list[str], options: Options) -> None:
    """Say how much is to be downloaded, before any of it is."""
    lock, sizes_of = read_lock(options), {}
    for name in names:
        data_set = DATA_SETS[name]
        absent = [source for source in data_set.sources if not is_here(lock.get(data_set.key(source)), options)]
        if any(not (options.downloads / source.name).is_file() for source in absent):
            sizes_of.setdefault(data_set.sources, (name, re.match(r"[\d.]+(?= MB)", data_set.size)))
    megabytes = sum(float(size[0]) for _, size in sizes_of.values() if size)
    said = [f"{megabytes / 1000:.2f} GB"] if megabytes else []
    said += [f"{name} (size not recorded)" for name, size in sizes_of.values() if not size]
    if said:
        print(f"to download: {', '.join(said)}", flush=True)


def outline(entry: dict) -> list[str]:
    """The files and folders of an entry, two levels deep at most."""
    return sorted({"/".join(PurePosixPath(path).parts[:2]) for path in entry["installed"]})


def state(name: str, options: Options, lock: dict[str, dict]) -> str:
    """Whether a data set is here, in one or two words."""
    entries = [lock.get(DATA_SETS[name].key(source)) for source in DATA_SETS[name].sources]
    here = [is_here(entry, options) for entry in entries]
    if all(here):
        return "yes"
    if any(entry and not is_in_place for entry, is_in_place in zip(entries, here)):
        return "changed"
    if any(here):
        return f"{sum(here)} of {len(here)}"
    return "by hand" if any((options.data / place).exists() for place in DATA_SETS[name].places) else "no"


def list_all(options: Options) -> None:
    """One row a data set: name, what it is, size, licence, whether it is here."""
    lock = read_lock(options)
    rows = [("name", "what", "size", "licence", "here?")]
    for name, data_set in DATA_SETS.items():
        rows.append((name, data_set.what, data_set.size, data_set.licence, state(name, options, lock)))
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        print("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths)).rstrip())
    print(f"\nThey go under {shown(options.data)}. `list NAME` gives URLs; sources and terms: data/README.md.")


def list_one(name: str, options: Options) -> None:
    """Where the files of a data set come from, and where they go by hand."""
    lock = read_lock(options)
    print(f"{name}: {DATA_SETS[name].what}, {DATA_SETS[name].size}; here: {state(name, options, lock)}")
    for source in DATA_SETS[name].sources:
        url = f"pip download {source.requirement}" if source.requirement else options.address(source.url)
        kept = f"git {source.git}" if source.git else "not recorded"
        kept = f"sha256 {source.sha256}" if source.sha256 else kept
        print(f"  {url}\n    checksums: {options.address(source.checksums) if source.checksums else kept}")
        print(f"    by hand:   {shown(options.downloads / source.name)}")
        if arrived := lock.get(DATA_SETS[name].key(source)):
            print(f"    arrived:   {arrived['date']}, sha256 {arrived['sha256']}")


def check(names: list[str], folder: Path | None, options: Options) -> None:
    """Print what is in a data set that has arrived: windows, or records, introns and how many of these are GT-AG."""
    if names == ["spliceator"]:
        from data.summary import check_training

        print(check_training(folder or options.data / "spliceator"))
        return
    if len(names) != 1 or names[0] not in ANNOTATED:
        raise InputError(f"check {' '.join(names)}: only spliceator, {', '.join(ANNOTATED)} can be checked")
    from simcsp.text.annotation import introns, read_annotation
    from simcsp.text.store import open_store

    for fasta, annotation in ANNOTATED[names[0]]:
        store = open_store([str(options.data / fasta)], str(options.data / "cache"))
        spans = introns(read_annotation(options.data / annotation, {r.name: r.length for r in store.records}))
        ends = [store.fetch(i.chrom, i.start, i.end, i.strand)[[0, 1, -2, -1]] for i in spans]
        usual = sum(bytes(end) == GT_AG for end in ends)
        print(
            f"{fasta}: {len(store.records):,} records, {sum(r.length for r in store.records):,} nt; {len(spans):,} "
            f"introns, {usual / max(len(spans), 1):.1%} GT-AG"
        )


def checked_name(name: str) -> str:
    if name not in DATA_SETS:
        close = difflib.get_close_matches(name, DATA_SETS, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        if "/" in name:
            hint = "a hub id is fetched when it is first used: name it as model.source of the configuration; "
        raise InputError(f"unknown data set {name!r}: {hint}there are {', '.join(DATA_SETS)}")
    return name


def parse() -> argparse.Namespace:
    description, _, examples = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="+", metavar="NAME", help=f"list, check, or {', '.join(DATA_SETS)}")
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parent, help="where to put them (data/)")
    parser.add_argument(
        "--mirror", metavar="URL", help="ask URL/<host>/<path> instead of https://<host>/<path>, for checksums as well"
    )
    parser.add_argument("--timeout", type=float, default=30, help="seconds without an answer (default %(default)s)")
    parser.add_argument("--folder", type=Path, help="for check: another folder than <data>/spliceator")
    args = parser.parse_args()
    if not args.timeout > 0:
        parser.error(f"--timeout must be above 0, not {args.timeout:g}")
    if args.mirror and urlsplit(args.mirror).scheme not in ("http", "https"):
        parser.error(f"--mirror must be an http or https URL, not {args.mirror}")
    return args


def main() -> None:
    args = parse()
    options = Options(args.data, args.mirror, args.timeout)
    command, *rest = args.names
    if command == "list":
        for name in rest:
            list_one(checked_name(name), options)
        if not rest:
            list_all(options)
    elif command == "check":
        check(rest, args.folder, options)
    else:
        names = [checked_name(name) for name in args.names]
        mend_folder(options.data, options.lock.name)
        announce(names, options)
        try:
            for name in names:
                fetch(name, options)
        except Unreachable as error:
            print(f"{sys.argv[0]}: error: {error}", file=sys.stderr)
            sys.exit(UNREACHABLE)
        except OSError as error:  # disk full, no permission, a folder where a file should be
            raise InputError(f"{error.filename or shown(options.data)}: {error.strerror or error}") from None


if __name__ == "__main__":
    run_script(main)
