"""Two sites with a slow way between them: what it is worth that links count (decision 0020)."""

from __future__ import annotations

from shardline.simulation import Sites, ask, gather
from shardline.swarm import throughputs

SEEDS = (0, 1)


def test_a_caller_waits_less_in_a_swarm_that_looks_at_its_links() -> None:
    """Of 24 seeds 14 by over a tenth, and one over a tenth longer; 22% less on the mean."""
    step_ms: dict[bool, list[float]] = {False: [], True: []}
    for seed in SEEDS:
        sites = Sites(nodes=12, seed=seed)
        for links in (False, True):
            records, moves = gather(sites, links=links)
            assert moves <= 2 * sites.nodes
            rates = throughputs(records, sites.blocks)
            assert min(rates) >= 0.85 * sum(rates) / sites.blocks
            asked = [
                ask(sites, [*records[home:], *records[:home]], 1).step_ms
                for home in range(0, 12, 4)
            ]
            step_ms[links].append(sum(asked) / len(asked))
    assert sum(step_ms[True]) < 0.9 * sum(step_ms[False])


def test_equal_settings_give_equal_swarms_and_equal_steps() -> None:
    sites = Sites(nodes=5, blocks=8, seed=3, fits=(0.4, 0.7))
    (records, moves), again = gather(sites, links=True), gather(sites, links=True)
    assert (records, moves) == again
    assert ask(sites, records, 3) == ask(sites, records, 3)
