"""Images a second from shards to batches, and into shards, beside what people use; all in one run.

    python benchmarks/data.py                    reading, sharding and a million samples: some minutes on two cores
    python benchmarks/data.py --parts read       only that part; --quick: fewer rounds

Reading: photographs as JPEGs of 256 pixels a side, the same files for everyone, one epoch into uint8 batches of 64 in
an order of its own (ours and FFCV's shuffled, too). Contenders take turns, round by round; medians over rounds and the
spread between the quartiles; ratios within a round, since a shared machine's pace changes from one to the next.
"Decoder alone" is the one ours uses, by two threads over the same bytes in memory: no reader can be faster. Everyone
has as many threads or processes as there are cores.

Sharding: the same photographs, larger, scaled down to 256 pixels and written.

A million: small PNGs in shards, made and deleted here: time to the first batch of a shuffled epoch, memory over it.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import gc
import io
import itertools
import multiprocessing
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sslpipe.core.threads import cores
from sslpipe.sharding.shard import Config, shard
from sslpipe.sharding.sources import Config as SourceConfig
from sslpipe.sharding.sources import open_source

# No torch up here: processes that make shards import this file, too.
from sslpipe.shards import index, jpeg, manifest

SIDE, BATCH = 256, 64
Epoch = Callable[[], int]  # reads an epoch; how many images came


def main() -> None:
    """Print the tables."""
    options = _parse()
    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        os.chdir(folder)
        (Path(folder) / "dvc.yaml").touch()  # a project's root: its scratch lies here
        machine = f"{cores()} cores, {platform.machine()}, {platform.system()}"
        print(f"{time.strftime('%F')}; {machine}")
        if {"read", "shard"} & set(options.parts):
            photographs(Path("photos"), options.images)
        if "read" in options.parts:
            reading(options.rounds)
        if "shard" in options.parts:
            sharding(options.rounds)
        if "million" in options.parts:
            million(options.samples)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--parts", nargs="+", default=["read", "shard", "million"], choices=["read", "shard", "million"]
    )
    parser.add_argument("--images", type=int, default=2048, help="photographs; default: 2048")
    parser.add_argument("--samples", type=int, default=1_000_000, help="small samples; default: a million")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--quick", action="store_true", help="three rounds of 512 photographs, 50 000 samples"
    )
    parser.add_argument("--scratch", help="folder for the files, about 3 GB; default: the system's")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.images, options.samples = 3, 512, 50_000
    return options


def photographs(folder: Path, count: int) -> None:
    """Pictures with the detail of photographs: fields of colour of many sizes, 256 to 384 pixels a side, as JPEGs."""
    random = np.random.default_rng(0)
    for number in range(count):
        side = SIDE if number % 2 else SIDE * 3 // 2
        field = np.zeros((side, side, 3), np.float32)
        for size, weight in ((3, 1.0), (8, 0.6), (24, 0.4), (64, 0.3), (128, 0.25)):
            coarse = Image.fromarray(random.integers(0, 256, (size, size, 3), dtype=np.uint8))
            field += weight * np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), np.float32)
        path = folder / ("train" if number % 8 else "test") / f"class{number % 10}" / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((field / 2.55).clip(0, 255).astype(np.uint8)).save(path, quality=90)


def _sharded(out: str, **settings: Any) -> Path:
    source = open_source(SourceConfig(source="folder", root="photos"), 0)
    shard(Config(resolution=SIDE, shard_size=128, duplicates=False, **settings), source, Path(out), 0)
    return Path(out)


# Reading


def reading(rounds: int) -> None:
    """The table of readers."""
    from sslpipe.data.resident import Resident
    from sslpipe.data.streaming import Streaming

    tars = _sharded("tars")
    betons, pixels = _sharded("betons", format="ffcv"), _sharded("pixels", format="ffcv", pixels=True)
    contenders: dict[str, Epoch] = {
        "decoder alone, threads": _decoder(tars),
        "ours, streaming, webdataset": _ours(Streaming(tars, "train")),
        "ours, streaming, ffcv": _ours(Streaming(betons, "train")),
        "ours, streaming, ffcv as pixels": _ours(Streaming(pixels, "train")),
        "ours, resident": _ours(Resident(tars, "train")),
        "ours, resident, mapped cache": _ours(Resident(tars, "train", cache=Path("cache.u8"))),
        "torchvision, ImageFolder": _torchvision(tars),
        "webdataset": _webdataset(tars),
        **_optional("FFCV's loader, jpeg", lambda: _ffcv(betons)),
        **_optional("FFCV's loader, pixels", lambda: _ffcv(pixels)),
        **_optional("lightly's loader", lambda: _lightly(tars)),
    }
    rates = _rounds(contenders, rounds)
    count = len(Streaming(tars, "train"))
    print(f"\n## Reading {count} images of {SIDE} pixels into batches of {BATCH}, n = {rounds} rounds\n")
    _table(rates, "of the decoder alone", "decoder alone, threads")


def _optional(name: str, make: Callable[[], Epoch]) -> dict[str, Epoch]:
    """A contender, if what it needs is installed."""
    try:
        return {name: make()}
    except ImportError as error:
        print(f"{name}: left out, {error}", file=sys.stderr)
        return {}


def _rounds(contenders: dict[str, Epoch], rounds: int) -> dict[str, list[float]]:
    for epoch in contenders.values():
        epoch()  # processes, caches and compilation
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, epoch in contenders.items():
            gc.collect()
            start = time.perf_counter()
            count = epoch()
            rates[name].append(count / (time.perf_counter() - start))
    return rates


def _table(rates: dict[str, list[float]], to: str, base: str) -> None:
    """Rates and their ratios to one contender's of the same round."""
    print(f"| | images/s | quartiles | {to} | quartiles |\n|---|---:|---:|---:|---:|")
    for name, values in rates.items():
        ratios = [value / other for value, other in zip(values, rates[base], strict=True)]
        print(f"| {name} | {_spread(values, ',.0f')} | {_spread(ratios, '.2f')} |")


def _spread(values: list[float], form: str) -> str:
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return f"{middle:{form}} | {low:{form}}–{high:{form}}"


def _decoder(folder: Path) -> Epoch:
    known = manifest.read(folder).splits.train
    rows = index.read(folder, "train", known)
    files = {number: (folder / each.path).read_bytes() for number, each in enumerate(known.shards)}
    images = [
        (
            files[row["shard"]][row["offset"] : row["offset"] + row["bytes"]],
            int(row["height"]),
            int(row["width"]),
        )
        for row in rows
    ]
    canvases = np.zeros((cores(), SIDE, SIDE, 3), np.uint8)
    pool = ThreadPoolExecutor(cores())

    def work(thread: int) -> int:
        some = images[thread :: cores()]
        return sum(jpeg.decode(*image, canvases[thread]) for image in some)

    return lambda: sum(pool.map(work, range(cores())))


def _ours(reader: Any) -> Epoch:
    from sslpipe.data.loader import Loader

    loader = Loader(reader, batch_size=BATCH, seed=0, drop_last=False)
    numbers = iter(range(10**6))
    return lambda: sum(len(batch) for batch in loader.epoch(next(numbers)))


def _files(folder: Path) -> Path:
    """The images in our shards as a folder of files, for those who read folders."""
    out = Path("files")
    if not out.exists():
        known = manifest.read(folder).splits.train
        rows = index.read(folder, "train", known)
        for place, row in enumerate(rows):
            data = (folder / known.shards[row["shard"]].path).read_bytes()[row["offset"] :][: row["bytes"]]
            path = out / f"class{row['label']}" / f"{place:06d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return out


def _tensor(image: Image.Image) -> Any:
    """A picture on a canvas, a uint8 tensor [R, R, 3]: what all contenders end with."""
    import torch

    canvas = torch.zeros(SIDE, SIDE, 3, dtype=torch.uint8)
    canvas[: image.height, : image.width] = torch.from_numpy(np.array(image))
    return canvas


def _epochs(loader: Any) -> Epoch:
    return lambda: sum(len(batch[0]) for batch in loader)


def _torchvision(folder: Path) -> Epoch:
    from torchvision.datasets import ImageFolder

    dataset = ImageFolder(_files(folder), _tensor)
    return _epochs(_workers(dataset, shuffle=True))


def _lightly(folder: Path) -> Epoch:
    from lightly.data import LightlyDataset

    dataset = LightlyDataset(str(_files(folder).resolve()), transform=_tensor)
    return _epochs(_workers(dataset, shuffle=True))


def _workers(dataset: Any, **options: Any) -> Any:
    from torch.utils.data import DataLoader

    return DataLoader(dataset, batch_size=BATCH, num_workers=cores(), persistent_workers=True, **options)


def _webdataset(folder: Path) -> Epoch:
    import webdataset as wds

    urls = sorted(map(str, (folder / "train").glob("*.tar")))
    dataset = wds.WebDataset(urls, shardshuffle=len(urls)).shuffle(500).decode("pil").to_tuple("jpg", "cls")
    return _epochs(_workers(dataset.map_tuple(_tensor)))


def _ffcv(folder: Path) -> Epoch:
    from ffcv.fields.decoders import CenterCropRGBImageDecoder, IntDecoder
    from ffcv.loader import Loader as FFCVLoader
    from ffcv.loader import OrderOption

    # One loader a file: it reads one; its decoders need images of one size or give one.
    loaders = [
        FFCVLoader(
            str(path),
            batch_size=BATCH,
            num_workers=cores(),
            order=OrderOption.RANDOM,
            os_cache=True,
            pipelines={
                "image": [CenterCropRGBImageDecoder((SIDE, SIDE), 1.0)],
                "label": [IntDecoder()],
                "key": None,
            },
        )
        for path in sorted((folder / "train").glob("*.beton"))
    ]
    return lambda: sum(len(batch[0]) for loader in loaders for batch in loader)


# Sharding


def sharding(rounds: int) -> None:
    """The table of writers."""
    _again()
    numbers = iter(range(10**6))

    def ours(**settings: Any) -> Epoch:
        def run() -> int:
            out = Path(f"out{next(numbers)}")
            source = open_source(SourceConfig(source="folder", root="many"), 0)
            result = shard(Config(resolution=SIDE, shard_size=256, **settings), source, out, 0)
            shutil.rmtree(out)
            return result.splits.train.count + result.splits.test.count

        return run

    contenders = {
        "plain writer, one process": _plain_writer,
        "ours, webdataset": ours(duplicates=False, workers=cores()),
        "plain writers, one a core": _plain_writers(),
        "ours, webdataset, one process, threads": ours(duplicates=False, workers=1),
        "ours, webdataset, with duplicates": ours(workers=cores()),
        "ours, ffcv": ours(format="ffcv", duplicates=False, workers=cores()),
        **_optional("FFCV's writer", _ffcv_writer),
    }
    with open(os.devnull, "w") as nothing:
        shown, sys.stderr = sys.stderr, nothing
        try:
            rates = _rounds(contenders, rounds)
        finally:
            sys.stderr = shown
    count = sum(1 for _ in _pictures())
    print(f"\n## Sharding {count} photographs of 256 and 384 pixels at {SIDE}, n = {rounds} rounds\n")
    _table(rates, "to the plain writer", "plain writer, one process")


def _again(times: int = 4) -> None:
    """The photographs under several names each: enough work that processes are worth starting."""
    for path in list(Path("photos").rglob("*.jpg")):
        for number in range(times):
            link = Path("many", *path.parts[1:-1], f"{number}-{path.name}")
            link.parent.mkdir(parents=True, exist_ok=True)
            link.hardlink_to(path)


def _pictures() -> Iterator[tuple[Path, int]]:
    for path in sorted(Path("many").rglob("*.jpg")):
        yield path, int(path.parent.name.removeprefix("class"))


def _plain_writers() -> Epoch:
    """The same by as many processes as there are cores, already started: what this machine gives for a second one."""
    pool = concurrent.futures.ProcessPoolExecutor(cores(), multiprocessing.get_context("spawn"))
    return lambda: sum(pool.map(_plain_writer, range(cores()), [cores()] * cores()))


def _plain_writer(first: int = 0, step: int = 1) -> int:
    """What one would write: open, scale, encode, put into a tar; files that fit are kept as they are."""
    import webdataset as wds

    count = 0
    with (
        tempfile.TemporaryDirectory(dir=".") as out,
        wds.ShardWriter(f"{out}/%06d.tar", maxcount=256, verbose=0) as writer,
    ):
        for count, (path, label) in enumerate(itertools.islice(_pictures(), first, None, step), start=1):
            data = path.read_bytes()
            image = Image.open(io.BytesIO(data))
            image.load()
            if max(image.size) > SIDE:
                image.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
                buffer = io.BytesIO()
                image.save(buffer, "JPEG", quality=95, subsampling=0)
                data = buffer.getvalue()
            writer.write({"__key__": f"{count:09d}", "jpg": data, "cls": label})
    return count


class _Decoded:
    """What FFCV's writer takes."""

    def __init__(self) -> None:
        self.pictures = list(_pictures())

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, place: int) -> tuple[Image.Image, int]:
        path, label = self.pictures[place]
        return Image.open(path).convert("RGB"), label


def _ffcv_writer() -> Epoch:
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    def run() -> int:
        dataset = _Decoded()
        fields = {"image": RGBImageField("jpg", max_resolution=SIDE, jpeg_quality=95), "label": IntField()}
        DatasetWriter("written.beton", fields, num_workers=cores()).from_indexed_dataset(dataset)
        os.remove("written.beton")
        return len(dataset)

    return run


# A million


def million(count: int) -> None:
    """Time to the first batch and memory over an epoch of many small samples, in a process of its own."""
    folder = Path("million")
    _many(folder, count)
    print(f"\n## {count:,} samples of 8 pixels in shards, streamed\n", flush=True)
    subprocess.run([sys.executable, __file__, "--epoch", str(folder.resolve())], check=True)
    shutil.rmtree(folder)


def _many(folder: Path, count: int) -> None:
    """Shards of small PNGs, by way of a source that draws them."""
    from sslpipe.sharding.source import Pixels, Source

    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (4096, 8, 8), dtype=np.uint8)
    items = [Pixels(f"{n:07d}", n % 10, noise[n % 4096]) for n in range(count)]
    source = Source("noise", tuple("0123456789"), {"train": items, "test": items[:10]})
    start = time.perf_counter()
    shard(Config(resolution=8, shard_size=20_000, duplicates=False, workers=cores()), source, folder, 0)
    print(f"\nmade at {count / (time.perf_counter() - start):,.0f} samples/s")


def _epoch(folder: Path) -> None:
    """Run in a fresh process: open, first batch, an epoch."""
    from sslpipe.data.loader import Loader
    from sslpipe.data.streaming import Streaming

    start = time.perf_counter()
    loader = Loader(Streaming(folder, "train"), batch_size=256, seed=0)
    batches, seen, memory = loader.epoch(0), 0, []
    next(batches)
    first = time.perf_counter() - start
    for number, batch in enumerate(batches, start=1):
        seen += len(batch)
        if number % (loader.steps // 8 or 1) == 0:
            memory.append(_resident_megabytes())
    seconds = time.perf_counter() - start - first
    print(f"first batch after {first:.2f} s from opening the index; then {seen / seconds:,.0f} samples/s")
    print("memory in use over the epoch, MB: " + " ".join(f"{value:.0f}" for value in memory))


def _resident_megabytes() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    if sys.argv[1:2] == ["--epoch"]:
        _epoch(Path(sys.argv[2]))
    else:
        main()
