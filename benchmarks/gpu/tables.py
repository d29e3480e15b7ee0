"""The JSON of a subcommand as Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.gpu.ledger import Ledger, Result
from benchmarks.gpu.size import Size
from benchmarks.gpu.step import Arm, arms, best_name, sweep_name
from pretrain.bench.throughput import PARTS


def page(what: str, ledger: Ledger, size: Size) -> str:
    """Everything that was measured so far."""
    told = ", ".join(f"{name} {value}" for name, value in ledger.environment.items())
    lines = [f"# {what}", "", told, ""]
    lines += {"smoke": _smoke, "step": _step, "data": _data, "train": _train}[what](ledger, size)
    failed = {name: cell for name, cell in ledger.cells.items() if cell["state"] not in ("done", "begun")}
    if failed:
        lines += ["", "Cells without a result:", ""]
        lines += [f"- {name}: {cell['state']} ({_last(cell)})" for name, cell in failed.items()]
    return "\n".join(lines) + "\n"


def _last(cell: Result) -> str:
    return cell.get("error", "").strip().splitlines()[-1][:200] if cell.get("error") else ""


def _table(head: str, rows: Iterator[list[Any]] | list[list[Any]]) -> list[str]:
    columns = head.split(" | ")
    return [f"| {head} |", "|" + len(columns) * "---|", *("| " + " | ".join(map(str, row)) + " |" for row in rows), ""]


def _smoke(ledger: Ledger, size: Size) -> list[str]:
    lines = [*_values(ledger, "rates"), *_values(ledger, "tests of the suite"), ""]
    rows = [
        [
            name,
            *(f"{100 * found[key]:.2f} %" for key in ("visible_equal", "visible_tokens_equal", "targets_equal")),
            f"{100 * found['greatest_difference']:.3f} %",
            f"{found['seconds_first']:.1f}",
            f"{found['seconds_later']:.4f}",
        ]
        for name, found in _found(ledger)
        if "visible_equal" in found
    ]
    head = (
        "objective, compiled | images seen alike | tokens alike | targets alike | loss apart | s first step | s later"
    )
    lines += _table(head, rows)
    for name, _ in _found(ledger):
        if name.startswith(("no waiting", "resume")):
            lines += _values(ledger, name)
    return lines


def _values(ledger: Ledger, name: str) -> list[str]:
    """A cell as one line."""
    values = [f"{key.replace('_', ' ')} {_number(value)}" for key, value in ledger.result(name).items()]
    return [f"- {name}: {', '.join(values)}"] if values else []


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _found(ledger: Ledger) -> list[tuple[str, Result]]:
    return [(name, cell["result"]) for name, cell in ledger.cells.items() if cell["state"] == "done"]


_NO_TIMES = ("images", "greatest_difference_from_cpu")


def _step(ledger: Ledger, size: Size) -> list[str]:
    peak = ledger.result("peak").get("tflops")
    lines = [f"Peak of bf16 matrix products: {peak:.0f} TFLOP/s.", ""] if peak else []
    timed = {name: found for name, found in _found(ledger) if "images_per_second" in found}
    modes = [[name, *_rate(found, peak)] for name, found in timed.items() if ", compiled " in name]
    head = "images/s | MFU | ms/step (min-max) | optimiser | peak GiB"
    lines += _table(f"how ({size.encoders[0]}, batch {size.mode_batch}) | {head}", modes)
    sweep = [[name, found["compiled"], *_rate(found, peak)] for name, found in timed.items() if ", batch " in name]
    lines += _table(f"sweep | compiled | {head}", sweep)
    lines += _table(
        "encoder | SelectiveMAE | best batch | images/s | MFU | MAE: best batch | images/s | MFU | ratio of images/s",
        list(_ratios(timed, size, peak)),
    )
    lines += _table(
        f"Scale-MAE, batch | {head}", [[n, *_rate(f, peak)] for n, f in timed.items() if n.startswith("scale")]
    )
    for name in ("attention", "hog", "laplacian"):
        found = ledger.result(name)
        times = {key: v for key, v in found.items() if key not in _NO_TIMES}
        cells = [[key, f"{1e3 * v:.3f}" if isinstance(v, float) else v] for key, v in times.items()]
        told = ", ".join(f"{key.replace('_', ' ')} {_number(found[key])}" for key in _NO_TIMES if key in found)
        lines += _table(f"{name}{f' ({told})' if told else ''} | ms", cells) if found else []
    for name, found in _found(ledger):
        if "kernels" in found:
            kernels = [
                [f"`{k['name'].replace('|', '/')}`", f"{100 * k['share']:.1f} %", k["calls"]] for k in found["kernels"]
            ]
            lines += _table(f"{name}: kernel | share of the device's time | calls in ten steps", kernels)
    return lines


def _rate(found: Result, peak: float | None) -> list[str]:
    mfu = f"{100 * found['tflops'] / peak:.1f} %" if peak else "-"
    times = f"{1e3 * found['seconds']:.1f} ({1e3 * found['fastest']:.1f}-{1e3 * found['slowest']:.1f})"
    share = f"{100 * found['optimiser'] / found['seconds']:.1f} %"
    return [f"{found['images_per_second']:.0f}", mfu, times, share, f"{found['peak_mib'] / 1024:.1f}"]


def _ratios(timed: dict[str, Result], size: Size, peak: float | None) -> Iterator[list[Any]]:
    """Images per second at the best batch of each."""
    *selective, mae = arms(size)
    for encoder in size.encoders:
        base = _best(timed, size, encoder, mae)
        for arm in selective:
            best = _best(timed, size, encoder, arm)
            if best is not None and base is not None:
                ratio = best["images_per_second"] / base["images_per_second"]
                ours = [f"{best['batch']}, {best['compiled']}", *_rate(best, peak)[:2]]
                theirs = [f"{base['batch']}, {base['compiled']}", *_rate(base, peak)[:2]]
                yield [encoder, f"{arm.depth} blocks", *ours, *theirs, f"{ratio:.2f}"]


def _best(timed: dict[str, Result], size: Size, encoder: str, arm: Arm) -> Result | None:
    names = [*(sweep_name(encoder, arm, batch) for batch in size.batches), best_name(encoder, arm)]
    there = [timed[name] for name in names if name in timed]
    return max(there, key=lambda found: found["images_per_second"], default=None)


def _data(ledger: Ledger, size: Size) -> list[str]:
    rows = [
        [
            name,
            f"{found['images_per_second']:.0f}",
            f"{found['images_per_second'] / max(found['workers'], 1):.0f}",
        ]
        for name, found in _found(ledger)
        if "images_per_second" in found
    ]
    told = [line for name in ("shards", "decoders apart", "time of a worker") for line in _values(ledger, name)]
    return [*told, "", *_table("loader | images/s | images/s and worker", rows)]


def _train(ledger: Ledger, size: Size) -> list[str]:
    rows = [
        [
            name,
            f"{found['images_per_second']:.0f}",
            f"{100 * found['mfu']:.1f} %",
            *(f"{100 * found[part]:.1f} %" for part in PARTS),
            f"{found['peak_mib'] / 1024:.1f}",
            f"{found['loader_images_per_second']:.0f}",
        ]
        for name, found in _found(ledger)
        if "mfu" in found
    ]
    return _table(f"run | images/s | MFU | {' | '.join(PARTS)} | peak GiB | loader alone, images/s", rows)
