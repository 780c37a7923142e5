# SPDX-License-Identifier: Apache-2.0
"""What the measured rows say about the design: ring, barrier, k-split, wgmma, launches.

Every function takes the rows and returns one sentence, or None if a number that it needs is
missing. The models are the ones of the design: time of a phase = the slowest of its streams.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rows import Row

# Rows x columns of the projections of an 8B Llama, and its layers.
PROJECTIONS = {
    "qkv": (6144, 4096),
    "o": (4096, 4096),
    "gate-up": (28672, 4096),
    "down": (4096, 14336),
}
LAYER_BYTES_8B = 2 * sum(rows * columns for rows, columns in PROJECTIONS.values())
LAYER_BYTES_1B = 121_634_816
BARRIERS_PER_LAYER = 5
SPLITS = (1, 2, 4, 6, 8)
CATCH_UP = 1.5  # consumers must outrun memory by this much to make up for stalls


def values(rows: Iterable[Row], benchmark: str, **wanted: Any) -> list[Row]:
    """Good rows of a benchmark whose parameters include `wanted`."""
    return [
        row
        for row in rows
        if row.benchmark == benchmark
        and row.status == "ok"
        and all(row.params.get(key) == value for key, value in wanted.items())
    ]


def best(rows: Iterable[Row]) -> Row | None:
    """The row with the largest value."""
    return max(rows, key=lambda row: row.value, default=None)


def value_of(rows: Iterable[Row], benchmark: str, **wanted: Any) -> float | None:
    """The first matching value."""
    found = values(rows, benchmark, **wanted)
    return found[0].value if found else None


def read_ceiling(rows: list[Row]) -> float | None:
    """GB/s of the fastest read of device memory, by whatever method."""
    methods = ("bulk", "loads")
    top = best(r for m in methods for r in values(rows, "read_bandwidth", method=m))
    return top.value if top else None


def ring_size(rows: list[Row]) -> str | None:
    """The smallest ring, and in it the smallest stage, that reaches the bandwidth."""
    bulk = values(rows, "read_bandwidth", method="bulk")
    top = best(bulk)
    if top is None:
        return None
    enough = [row for row in bulk if row.value >= 0.98 * top.value]
    ring = min(int(row.params["ring_kb"]) for row in enough)
    stage = min(int(row.params["stage_kb"]) for row in enough if row.params["ring_kb"] == ring)
    loads = best(values(rows, "read_bandwidth", method="loads"))
    beside = f"; plain loads reach {loads.value / top.value:.0%}" if loads else ""
    return (
        f"ring: {ring} KB in stages of {stage} KB reach 98 % of the best bulk read "
        f"({top.value:,.0f} GB/s){beside}. More than that only bridges stalls."
    )


def barrier_cost(rows: list[Row]) -> str | None:
    """The fastest barrier, against the weights of a layer."""
    idle = {
        str(row.params["variant"]): row.value
        for row in values(rows, "grid_barrier", load="idle", statistic="median")
    }
    ceiling = read_ceiling(rows)
    if not idle or ceiling is None:
        return None
    name = min(idle, key=lambda variant: idle[variant])
    busy = value_of(rows, "grid_barrier", variant=name, load="streaming", statistic="median")
    cost = BARRIERS_PER_LAYER * (busy or idle[name]) * 1e-3
    floors = [size / ceiling * 1e-3 for size in (LAYER_BYTES_1B, LAYER_BYTES_8B)]
    streaming = f", {busy:,.0f} ns under a full stream" if busy else ""
    return (
        f"barrier: {name} is fastest ({idle[name]:,.0f} ns idle{streaming}); "
        f"{BARRIERS_PER_LAYER} per layer are {cost:.1f} us against {floors[0]:.0f} us (1B) and "
        f"{floors[1]:.0f} us (8B) of weights."
    )


def split_time(
    shape: tuple[int, int], tokens: int, split: int, rates: Mapping[str, float]
) -> float:
    """Microseconds of a projection whose k range is cut into `split` parts.

    Every SM reads the activations of its part; with a split, fp32 partial sums go to L2 and back.
    """
    outputs, columns = shape
    weights = 2.0 * outputs * columns
    activations = rates["sms"] * 2.0 * tokens * columns / split
    partials = 8.0 * split * outputs * tokens if split > 1 else 0.0
    through_l2 = weights + activations + partials
    return max(weights / rates["memory"], through_l2 / rates["l2"]) * 1e-3


def k_split(rows: list[Row]) -> str | None:
    """The split of every projection that the measured rates ask for."""
    ceiling = read_ceiling(rows)
    shared = best(values(rows, "l2_bandwidth", pattern="broadcast", method="bulk"))
    if ceiling is None or shared is None:
        return None
    rates = {"memory": ceiling, "l2": shared.value, "sms": float(shared.params["ctas"])}
    parts = []
    for tokens in (16, 32, 64):
        chosen = {}
        for name, shape in PROJECTIONS.items():
            # A larger split has to win 2 %: it costs a flag between CTAs.
            chosen[name] = SPLITS[0]
            for split in SPLITS[1:]:
                if split_time(shape, tokens, split, rates) < 0.98 * split_time(
                    shape, tokens, chosen[name], rates
                ):
                    chosen[name] = split
        listed = ", ".join(f"{name} {split}" for name, split in chosen.items())
        parts.append(f"M={tokens}: {listed}")
    return f"k-split S for 8B at {shared.value:,.0f} GB/s from L2: " + "; ".join(parts) + "."


def multicast(rows: list[Row]) -> str | None:
    """Whether pairs of CTAs should share their activation reads."""
    alone = best(values(rows, "l2_bandwidth", pattern="broadcast", method="bulk"))
    pair = best(values(rows, "l2_bandwidth", pattern="multicast", method="bulk"))
    if alone is None or pair is None:
        return None
    gain = pair.value / alone.value
    worth = "worth building for M >= 32" if gain >= 1.1 else "not worth its complexity"
    return f"multicast: clusters of two deliver {gain:.2f}x the bytes of single CTAs, {worth}."


def tensor_path(rows: list[Row]) -> str | None:
    """Up to how many tokens mma.sync is enough."""
    ceiling = read_ceiling(rows)
    clocks = value_of(
        [r for r in rows if r.unit == "clk"], "latency", what="dependent load", megabytes=1
    )
    ns = value_of(
        [r for r in rows if r.unit == "ns"], "latency", what="dependent load", megabytes=1
    )
    sms = [
        row.params["ctas"]
        for row in values(rows, "l2_bandwidth", pattern="broadcast")
        if "ctas" in row.params
    ]
    if ceiling is None or not clocks or not ns or not sms:
        return None
    arrival = ceiling / sms[0] / (clocks / ns)
    kept = [
        tokens
        for tokens in (8, 16, 32, 64)
        if (top := best(values(rows, "mma_consume", tokens=tokens)))
        and top.value >= CATCH_UP * arrival
    ]
    rates = []
    for tokens in (16, 64):
        mma = best(values(rows, "mma_consume", tokens=tokens))
        wgmma = best(values(rows, "wgmma_consume", tokens=tokens))
        if mma and wgmma:
            rates.append(f"wgmma is {wgmma.value / mma.value:.1f}x mma.sync at M={tokens}")
    limit = f"up to M={kept[-1]}" if kept else "for no M"
    return (
        f"tensor path: weights arrive at {arrival:.1f} bytes/clk/SM; mma.sync is {CATCH_UP}x "
        f"faster {limit}" + (f"; {', '.join(rates)}" if rates else "") + "."
    )


def cluster_launch(rows: list[Row]) -> str | None:
    """Whether both launch attributes go together."""
    both = value_of(rows, "coop_cluster", cooperative=1, cluster=2)
    plain = value_of(rows, "coop_cluster", cooperative=1, cluster=1)
    if both is None or plain is None:
        return None
    answer = f"works with {both:.0f} of {plain:.0f} CTAs" if both else "is refused"
    return f"cooperative launch with clusters of two {answer}."


def launches(rows: list[Row]) -> str | None:
    """A last-block reduction against another kernel in the graph."""
    node = value_of(rows, "launch_overhead", how="graph", launch="plain", nodes=256)
    hop = value_of(rows, "latency", what="hop", statistic="median")
    atom = value_of(rows, "latency", what="one atom in turn", ctas=1)
    if node is None or hop is None or atom is None:
        return None
    last_block = (hop + atom) * 1e-3
    choice = "finish in the last block" if last_block < node else "a second kernel is as cheap"
    return (
        f"verify: a second kernel in a graph costs {node:.2f} us, an atomic and a hop "
        f"{last_block:.2f} us: {choice}."
    )


RULES: tuple[Callable[[list[Row]], str | None], ...] = (
    ring_size,
    barrier_cost,
    k_split,
    multicast,
    tensor_path,
    cluster_launch,
    launches,
)


def decisions(rows: Iterable[Row]) -> list[str]:
    """One sentence per decision whose numbers are there."""
    listed = list(rows)
    return [sentence for rule in RULES if (sentence := rule(listed)) is not None]
