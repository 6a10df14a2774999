"""The results as a table for people, in Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from bench.serving import NODE, PLAIN, STOCK_NAME

if TYPE_CHECKING:
    from collections.abc import Mapping

CPU_AIMS: Final = {"whole": 1.05, "8 MiB": 1.05, "1 MiB": 1.2}
"""CPU per GiB to that of stock nginx, at most."""
ADD_AIM: Final = 1.15
PULL_AIM: Final = 1.0


def table(results: Mapping[str, Any]) -> str:
    """All of it."""
    machine = results["machine"]
    lines = ["# Measured", ""]
    lines += [f"- {key.replace('_', ' ')}: {value}" for key, value in machine.items() if value is not None]
    lines += [
        f"- {key.replace('_', ' ')}: {value}" for key, value in {**results["method"], **results["limits"]}.items()
    ]
    lines += [
        "",
        "Ratios are medians of the rounds' own ratios, with the smallest and the largest; a ratio of CPU below 1 means",
        "that the server named needs less than the other. The single numbers hold for this machine at that hour only.",
    ]
    if "skipped" in results:
        lines += ["", f"Left out: {results['skipped']}."]
    if "serve" in results:
        lines += ["", "## Serving: one worker on one core, clients on another", "", *_serving(results["serve"])]
    if "serve_two_workers" in results:
        lines += ["", "## Serving: two workers, no cores assigned", "", *_serving(results["serve_two_workers"])]
    if "latency" in results:
        lines += ["", "## A small request while 16 clients pull 8 MiB ranges", "", *_latency(results["latency"])]
    if "add" in results:
        lines += ["", "## `add`", "", *_commands(results["add"], ADD_AIM)]
    if "catalog" in results:
        lines += ["", "## The catalog", "", *_catalog(results["catalog"])]
    if "fleet" in results:
        lines += ["", "## An idle fleet", "", *_fleet(results["fleet"])]
    if "pull" in results:
        lines += ["", "## `pull`", "", *_commands(results["pull"], PULL_AIM)]
        lines += ["", "## `pull`, all of it on one core", "", *_commands(results["pull_one_core"], PULL_AIM)]
    return "\n".join(lines) + "\n"


def _serving(lengths: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = [
        "| range | server | CPU to stock nginx | throughput to it | CPU to the limit | CPU s/GiB | GiB/s | client |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for length, servers in lengths.items():
        for name, row in servers.items():
            stock = row.get("to_nginx_stock", {})
            cpu = _ratio(stock.get("cpu_per_gib"))
            aim = CPU_AIMS.get(length)
            if name == NODE and stock and aim is not None:
                cpu += f" {_verdict(stock['cpu_per_gib'], aim)}"
            cells = [
                length,
                name,
                "1" if name == STOCK_NAME else cpu,
                "1" if name == STOCK_NAME else _ratio(stock.get("throughput")),
                "1" if name == PLAIN else _ratio(row.get("to_plain_sendfile", {}).get("cpu_per_gib")),
                f"{row['cpu_seconds_per_gib']:.3f}",
                f"{row['gib_per_second']:.2f}",
                f"{row['client_busy']:.0%}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def _latency(lengths: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = ["| request | server | p99 to stock nginx | p50 ms | p99 ms |", "|---|---|---|---|---|"]
    for length, servers in lengths.items():
        for name, row in servers.items():
            lines.append(
                f"| {length} | {name} | {'1' if name == STOCK_NAME else _ratio(row.get('p99_to_nginx_stock'))} "
                f"| {row['p50_ms']:.2f} | {row['p99_ms']:.2f} ({row['p99_ms_low']:.2f}–{row['p99_ms_high']:.2f}) |"
            )
    return lines


def _fleet(found: Mapping[str, Any]) -> list[str]:
    sent, received = (found[f"{direction}_bytes_a_minute"] / 1e3 for direction in ("sent", "received"))
    traffic = f"{sent:.0f} kB sent, {received:.0f} kB received"
    took = f"{found['messages_a_minute']} messages, {found['records_accepted_a_minute']} records taken in"
    return [
        f"One node of {found['members']}, by the minute: {found['cpu_seconds_a_minute']} s of CPU, {traffic}, {took}."
    ]


def _catalog(sizes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    keys = list(next(iter(sizes.values())))
    lines = [f"| {' | '.join(key.replace('_', ' ') for key in keys)} |", "|" + "---|" * len(keys)]
    lines += [f"| {' | '.join(str(row[key]) for key in keys)} |" for row in sizes.values()]
    return lines


def _commands(rows: Mapping[str, Any], aim: float) -> list[str]:
    if "skipped" in rows:
        return [f"Left out: {rows['skipped']}."]
    lines = ["| | our wall to it | our CPU to it | wall s | CPU s |", "|---|---|---|---|---|"]
    for name, row in rows.items():
        wall = f"{_ratio(row['wall_ratio'])} {_verdict(row['wall_ratio'], aim)}" if "wall_ratio" in row else ""
        cpu = _ratio(row.get("cpu_ratio"))
        lines.append(f"| {name} | {wall} | {cpu} | {row['wall_seconds']:.2f} | {row['cpu_seconds']:.2f} |")
    return lines


def _ratio(found: Mapping[str, float] | None) -> str:
    return "" if found is None else f"{found['median']:.2f} ({found['low']:.2f}–{found['high']:.2f})"


def _verdict(found: Mapping[str, float], aim: float) -> str:
    return f"— aim {aim:g}: {'reached' if found['median'] <= aim else '**missed**'}"
