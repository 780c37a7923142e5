# SPDX-License-Identifier: Apache-2.0
"""The route search: which sublayers a slim verifier leaves out (docs/design.md, section 13)."""

from via_ext.search.call import search_route
from via_ext.search.costs import SublayerCosts, sublayer_seconds
from via_ext.search.result import RouteSearch

__all__ = ["RouteSearch", "SublayerCosts", "search_route", "sublayer_seconds"]
