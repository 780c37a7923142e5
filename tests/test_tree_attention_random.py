# SPDX-License-Identifier: Apache-2.0
"""tree_attention against the reference for random shapes, trees, options and layouts."""

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import simulation
from tests.attention_cases import FLOATS, check, make_case, paged, random_parents

QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@st.composite
def cases(draw, longest):
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    batch, tokens = draw(st.integers(1, 3)), draw(st.integers(1, 12))
    group, kv_heads = draw(st.sampled_from([(1, 3), (2, 2), (3, 1), (7, 1)]))
    options = {"parents": random_parents((batch, tokens), generator)}
    if draw(st.booleans()):
        options["parents"] = options["parents"][0].int()
    if draw(st.booleans()):
        options["num_tokens"] = torch.randint(0, tokens + 1, (batch,), generator=generator)
    for name, values in (
        ("window", st.integers(1, 2 * longest)),
        ("softcap", st.floats(0.5, 60.0)),
        ("scale", st.floats(0.01, 2.0)),
    ):
        if draw(st.booleans()):
            options[name] = draw(values)
    case = make_case(
        generator,
        draw(st.lists(st.integers(0, longest), min_size=batch, max_size=batch)),
        tokens=tokens,
        heads=(group * kv_heads, kv_heads),
        dim=draw(st.sampled_from([64, 80, 96, 128, 256])),
        dtype=draw(st.sampled_from(FLOATS)),
        **options,
    )
    page_size = draw(st.sampled_from([0, 0, 1, 8, 32]))
    return paged(case, page_size, generator) if page_size else case


def test_random_cases(device):
    count = simulation.scaled(60, device, least=3)
    longest = 40 if simulation.is_simulated(device) else 300

    @settings(max_examples=count, deadline=None, suppress_health_check=QUIET, derandomize=True)
    @given(case=cases(longest))
    def run(case):
        check(device, case)

    run()
